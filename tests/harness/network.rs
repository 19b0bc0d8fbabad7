//! A network namespace for an agent, with two links to this one. The agent reaches the relay over
//! the first, "wide" link, which the test can disturb, and its application over the other one.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Once;
use std::sync::atomic::{AtomicU8, Ordering};

use crate::process::{Ended, Process, program};
use crate::wait::happens;

/// Prefix of the namespaces' names; the process id and a number follow.
const PREFIX: &str = "hw";

/// A network; removed when it is dropped.
pub struct Network {
    name: String,
    number: u8,
    /// Its address towards the relay, which can change.
    agent_host: u8,
    /// Process that carries the wide link, if it is slow.
    link: Option<Process>,
}

/// Runs a command that must succeed.
fn sh(command: &str) {
    let ended = Command::new("sh").args(["-c", command]).output().unwrap();
    assert!(
        ended.status.success(),
        "{command}: {}",
        String::from_utf8_lossy(&ended.stderr)
    );
}

fn said(command: &str) -> String {
    let ended = Command::new("sh").args(["-c", command]).output().unwrap();
    String::from_utf8_lossy(&ended.stdout).into_owned()
}

/// Removes the networks of killed tests.
fn sweep() {
    for line in said("ip netns list").lines() {
        let name = line.split_whitespace().next().unwrap_or_default();
        let process = name
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split('-').next());
        if let Some(process) = process
            && process.parse::<u32>().is_ok()
            && !Path::new("/proc").join(process).exists()
        {
            sh(&format!("ip netns del {name}; rm -rf /etc/netns/{name}"));
        }
    }
}

impl Network {
    /// Creates a network. Its wide link is fast, or has a delay in each direction (milliseconds)
    /// and reorders this percentage of packets. Returns `None` where a test may not create one,
    /// with a message; in CI a missing tool is a failure.
    pub fn new(delay: Option<(u32, u32)>) -> Option<Self> {
        static NEXT: AtomicU8 = AtomicU8::new(1);

        let works = |command: &str| {
            Command::new("sh")
                .args(["-c", command])
                .output()
                .is_ok_and(|ended| ended.status.success())
        };

        if !works("ip -V && nft --version && python3 --version") {
            let reason = "ip, nft or python3 is missing (Debian: iproute2, nftables, python3)";
            assert!(std::env::var_os("CI").is_none(), "{reason}");
            println!("skipped: {reason}");
            return None;
        }

        if !works("test -w /dev/net/tun && ip netns add hw-try-$$ && ip netns del hw-try-$$") {
            let reason =
                "network namespaces or /dev/net/tun are not permitted here; run it as root";
            assert!(std::env::var_os("CI").is_none(), "{reason}");
            println!("skipped: {reason}");
            return None;
        }

        static SWEPT: Once = Once::new();

        SWEPT.call_once(sweep);
        // Two concurrent runs of the tests must not collide, so the number includes the process.
        let mut network = (0..u8::MAX)
            .map(|_| {
                let number = NEXT.fetch_add(1, Ordering::Relaxed);
                Self {
                    name: format!("{PREFIX}{}-{number}", std::process::id()),
                    number,
                    agent_host: 2,
                    link: None,
                }
            })
            .find(Self::is_free)
            .expect("addresses that nothing here has");

        network.make(delay);
        Some(network)
    }

    fn device(&self, which: &str) -> String {
        // Linux allows 15 bytes.
        format!("h{which}{}{}", std::process::id() % 100_000, self.number)
    }

    /// Returns the second byte of the addresses, for this process and network.
    fn net(&self, which: u8) -> String {
        let process = std::process::id() as u8;
        format!(
            "10.{}.{}",
            100 + self.number % 100,
            u16::from(process) / 2 * 2 % 250 + u16::from(which)
        )
    }

    /// Returns `true` if no device of this machine has its addresses.
    fn is_free(&self) -> bool {
        let taken = said("ip -4 -oneline address");
        [0, 1]
            .iter()
            .all(|which| !taken.contains(&format!(" {}.", self.net(*which))))
    }

    fn make(&mut self, delay: Option<(u32, u32)>) {
        let name = &self.name;
        sh(&format!(
            "ip netns add {name} && ip netns exec {name} ip link set lo up && \
             ip netns exec {name} sysctl -qw net.ipv4.conf.all.promote_secondaries=1"
        ));

        let (lan, lan_there) = (self.device("l"), self.device("m"));
        let (wan, wan_there) = (self.device("w"), self.device("x"));
        let lan_net = self.net(1);
        sh(&format!(
            "ip link add {lan} type veth peer name {lan_there} && ip link set {lan_there} netns {name} && \
             ip addr add {lan_net}.1/24 dev {lan} && ip link set {lan} up && \
             ip netns exec {name} ip addr add {lan_net}.2/24 dev {lan_there} && \
             ip netns exec {name} ip link set {lan_there} up"
        ));

        match delay {
            None => sh(&format!(
                "ip link add {wan} type veth peer name {wan_there} && ip link set {wan_there} netns {name}"
            )),
            Some((delay, reorder)) => {
                let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("harness/delayed_link.py");
                let mut command = Command::new("python3");
                command.arg(script).args([
                    &wan,
                    &wan_there,
                    &delay.to_string(),
                    &reorder.to_string(),
                ]);

                let link = Process::spawn(command);
                happens("the slow link is ready", || {
                    link.out().iter().any(|line| line == "ready")
                });
                sh(&format!("ip link set {wan_there} netns {name}"));
                self.link = Some(link);
            }
        }

        let (name, wan_net) = (&self.name, self.net(0));
        sh(&format!(
            "ip addr add {wan_net}.1/24 dev {wan} && ip link set {wan} up && \
             ip netns exec {name} ip addr add {wan_net}.2/24 dev {wan_there} && \
             ip netns exec {name} ip link set {wan_there} up && \
             ip netns exec {name} nft add table inet f && \
             ip netns exec {name} nft add chain inet f out '{{ type filter hook output priority 0; }}' && \
             ip netns exec {name} nft add chain inet f in '{{ type filter hook input priority 0; }}'"
        ));
    }

    /// Returns the relay's address on the wide link.
    pub fn relay(&self) -> Ipv4Addr {
        format!("{}.1", self.net(0)).parse().unwrap()
    }

    /// Returns another address of the relay's machine on the wide link.
    pub fn second_relay(&self) -> Ipv4Addr {
        format!("{}.9", self.net(0)).parse().unwrap()
    }

    /// Gives the relay's machine its second address, and both a name inside.
    pub fn name_relays(&self, name: &str) {
        let (wan, first, second) = (self.device("w"), self.relay(), self.second_relay());
        sh(&format!("ip addr add {second}/24 dev {wan}"));
        // `ip netns exec` mounts it over /etc/hosts.
        let dir = self.files();
        std::fs::create_dir_all(&dir).unwrap();

        std::fs::write(
            dir.join("hosts"),
            format!("127.0.0.1 localhost\n{first} {name}\n{second} {name}\n"),
        )
        .unwrap();
    }

    fn files(&self) -> PathBuf {
        Path::new("/etc/netns").join(&self.name)
    }

    /// Returns the application's address on the other link.
    pub fn application(&self) -> Ipv4Addr {
        format!("{}.1", self.net(1)).parse().unwrap()
    }

    /// Runs a command inside, which must succeed.
    pub fn inside(&self, command: &str) {
        sh(&format!("ip netns exec {} {command}", self.name));
    }

    /// Drops matching packets on the wide link in both directions: `meta l4proto udp`,
    /// `numgen random mod 100 < 2`, or all with an empty text.
    pub fn drop_packets(&self, matching: &str) {
        let wan = self.device("x");
        self.drop_outgoing(matching);
        self.inside(&format!(
            "nft 'add rule inet f in iifname {wan} {matching} drop'"
        ));
    }

    /// Drops matching packets that leave the agent's side.
    pub fn drop_outgoing(&self, matching: &str) {
        let wan = self.device("x");
        self.inside(&format!(
            "nft 'add rule inet f out oifname {wan} {matching} drop'"
        ));
    }

    /// Rejects matching packets that leave the agent's side, with a notification, as many firewalls
    /// do.
    pub fn reject_outgoing(&self, matching: &str) {
        let wan = self.device("x");
        self.inside(&format!(
            "nft 'add rule inet f out oifname {wan} {matching} reject'"
        ));
    }

    /// Lets everything pass again.
    pub fn mend(&self) {
        self.inside("nft flush table inet f");
    }

    /// Replaces the address of the agent's side on the wide link.
    pub fn change_address(&mut self) {
        let (wan, net, old) = (self.device("x"), self.net(0), self.agent_host);
        self.agent_host += 1;
        self.inside(&format!(
            "ip addr add {net}.{}/24 dev {wan}",
            self.agent_host
        ));
        self.inside(&format!("ip addr del {net}.{old}/24 dev {wan}"));
    }

    /// Limits the rate of the wide link in each direction (`2mbit`), with a queue of 200 ms.
    pub fn limit_rate(&self, rate: &str) {
        let limit = |device: &str| {
            format!("tc qdisc add dev {device} root tbf rate {rate} burst 16kb latency 200ms")
        };
        self.inside(&limit(&self.device("x")));
        sh(&limit(&self.device("w")));
    }

    /// Reduces the packet size of the wide link.
    pub fn set_mtu(&self, mtu: u32) {
        self.inside(&format!("ip link set {} mtu {mtu}", self.device("x")));
        sh(&format!("ip link set {} mtu {mtu}", self.device("w")));
    }

    /// Starts one of the programs inside.
    pub fn start(&self, name: &str, args: &[&str], environment: &[(&str, &str)]) -> Process {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.name])
            .arg(program(name))
            .args(args)
            .envs(environment.iter().copied());
        Process::spawn(command)
    }

    /// Runs one of the programs inside to its end.
    pub fn run(
        &self,
        name: &str,
        args: &[&str],
        environment: &[(&str, &str)],
        input: &str,
    ) -> Ended {
        let mut process = self.start(name, args, environment);
        process.write(input);
        process.close_input();
        process.end()
    }

    /// Returns what the slow link has carried.
    pub fn ceiling(&mut self) -> Option<String> {
        let mut link = self.link.take()?;
        link.close_input();
        Some(link.end().out)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        drop(self.link.take());
        let _ = std::fs::remove_dir_all(self.files());
        let (lan, wan) = (self.device("l"), self.device("w"));
        let _ = Command::new("sh")
            .args([
                "-c",
                &format!(
                    "ip netns del {}; ip link del {lan}; ip link del {wan}",
                    self.name
                ),
            ])
            .output();
    }
}
