//! User of the process at the other end of a loopback connection.
//!
//! Other users of the machine can connect to a loopback address. The kernel lists the owner of every
//! TCP socket (proc_pid_net(5)).

use std::net::SocketAddr;

use tokio::task::spawn_blocking;

/// User id of a local client; `None` if it is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LocalUser(Option<u32>);

impl LocalUser {
    /// Finds the user of a connection from `peer` to `local`. Its process must still have it open: a
    /// closed socket has no owner.
    pub(super) async fn of(peer: SocketAddr, local: SocketAddr) -> Self {
        if !peer.ip().is_loopback() {
            return Self(None);
        }
        let finding = spawn_blocking(move || owner(peer, local));
        Self(finding.await.unwrap_or_default())
    }

    /// Returns `true` for the user of this process, and for root, who can do everything anyway.
    pub(super) fn is_own(self) -> bool {
        let own = rustix::process::geteuid().as_raw();
        self.0.is_some_and(|user| user == own || user == 0)
    }
}

fn owner(peer: SocketAddr, local: SocketAddr) -> Option<u32> {
    let sockets = match peer {
        SocketAddr::V4(_) => procfs::net::tcp(),
        SocketAddr::V6(_) => procfs::net::tcp6(),
    };
    let mut sockets = sockets.ok()?.into_iter();
    let socket = sockets.find(|socket| {
        let is_same = socket.local_address == peer && socket.remote_address == local;
        is_same && socket.inode != 0
    });
    socket.map(|socket| socket.uid)
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    #[tokio::test]
    async fn the_own_user_is_found_while_the_socket_is_open() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(address).await.unwrap();
            let local = listener.local_addr().unwrap();
            let client = TcpStream::connect(local).await.unwrap();
            let (_server, peer) = listener.accept().await.unwrap();
            assert!(LocalUser::of(peer, local).await.is_own(), "{address}");

            drop(client);
            assert!(!LocalUser::of(peer, local).await.is_own(), "{address}");
        }
        let elsewhere = "192.0.2.1:1".parse().unwrap();
        assert!(!LocalUser::of(elsewhere, elsewhere).await.is_own());
    }
}
