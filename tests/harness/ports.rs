//! Ports for programs that cannot report which one they took.

use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicU16, Ordering};

/// First port: below those that the system gives to connections (ip(7), `ip_local_port_range`), so that
/// no other test gets it meanwhile.
const FIRST: u16 = 18_000;

/// Number of ports.
const COUNT: u16 = 14_000;

static NEXT: AtomicU16 = AtomicU16::new(0);

/// Returns a port of loopback that is free for TCP and UDP. Each call of a process returns another one.
pub fn free_port() -> u16 {
    free_port_at(Ipv4Addr::LOCALHOST)
}

/// Returns a port of an address, likewise.
pub fn free_port_at(address: Ipv4Addr) -> u16 {
    // Processes that run beside each other begin at different ports.
    let start = (std::process::id() % u32::from(COUNT)) as u16;
    for _ in 0..COUNT {
        let step = NEXT.fetch_add(1, Ordering::Relaxed) % COUNT;
        let port = FIRST + ((u32::from(start) + u32::from(step)) % u32::from(COUNT)) as u16;
        let is_free = TcpListener::bind((address, port)).is_ok();
        if is_free && UdpSocket::bind((address, port)).is_ok() {
            return port;
        }
    }
    panic!("no port is free");
}
