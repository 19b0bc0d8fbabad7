//! A network of its own for an agent: a namespace with two links to this one. Over the first, the
//! "wide" one, the agent reaches the relay, and faults are set on it; over the other one its
//! application, undisturbed.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Once;
use std::sync::atomic::{AtomicU8, Ordering};

use crate::process::{Ended, Process, program};
use crate::wait::happens;

/// What the names of namespaces begin with; then the process's id and a number.
const PREFIX: &str = "hw";

/// The network. Dropped, it is gone.
pub struct Network {
    name: String,
    number: u8,
    /// Its address towards the relay can change.
    agent_host: u8,
    /// Carries the wide link, where it is slow.
    link: Option<Process>,
}

/// Runs a command, which must work.
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

/// Takes away the networks of tests that were killed and could not do it.
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
    /// A network whose wide link is fast and whole, or has a delay in each direction (milliseconds)
    /// and lets so many packets of a hundred overtake others. `None` where a test may not make one,
    /// which is said; tools that are missing in CI are a failure.
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
        // Two runs of the tests at the same time must not meet: the number is the process's, too.
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

    /// The second byte of the addresses: of this process and network.
    fn net(&self, which: u8) -> String {
        let process = std::process::id() as u8;
        format!(
            "10.{}.{}",
            100 + self.number % 100,
            u16::from(process) / 2 * 2 % 250 + u16::from(which)
        )
    }

    /// Nothing on this machine has its addresses: two devices with the same ones, and answers go
    /// the wrong way.
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

    /// The relay's address on the wide link.
    pub fn relay(&self) -> Ipv4Addr {
        format!("{}.1", self.net(0)).parse().unwrap()
    }

    /// Another address of the relay's machine on the wide link.
    pub fn second_relay(&self) -> Ipv4Addr {
        format!("{}.9", self.net(0)).parse().unwrap()
    }

    /// Gives the relay's machine its second address, and a name to both inside.
    pub fn name_relays(&self, name: &str) {
        let (wan, first, second) = (self.device("w"), self.relay(), self.second_relay());
        sh(&format!("ip addr add {second}/24 dev {wan}"));
        // `ip netns exec` puts it in the place of /etc/hosts.
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

    /// The application's address on the other one.
    pub fn application(&self) -> Ipv4Addr {
        format!("{}.1", self.net(1)).parse().unwrap()
    }

    /// Runs a command inside, which must work.
    pub fn inside(&self, command: &str) {
        sh(&format!("ip netns exec {} {command}", self.name));
    }

    /// Drops what matches on the wide link, both ways: `meta l4proto udp`,
    /// `numgen random mod 100 < 2`, or everything with an empty text.
    pub fn drop_packets(&self, matching: &str) {
        let wan = self.device("x");
        self.drop_outgoing(matching);
        self.inside(&format!(
            "nft 'add rule inet f in iifname {wan} {matching} drop'"
        ));
    }

    /// The same for what leaves the agent's side.
    pub fn drop_outgoing(&self, matching: &str) {
        let wan = self.device("x");
        self.inside(&format!(
            "nft 'add rule inet f out oifname {wan} {matching} drop'"
        ));
    }

    /// Refuses what matches and would leave the agent's side, and says so to it, as many firewalls
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

    /// Gives the agent's side another address on the wide link, and takes the old one away.
    pub fn change_address(&mut self) {
        let (wan, net, old) = (self.device("x"), self.net(0), self.agent_host);
        self.agent_host += 1;
        self.inside(&format!(
            "ip addr add {net}.{}/24 dev {wan}",
            self.agent_host
        ));
        self.inside(&format!("ip addr del {net}.{old}/24 dev {wan}"));
    }

    /// Lets no more than this pass on the wide link, each way (`2mbit`), with a queue of 200 ms.
    pub fn limit_rate(&self, rate: &str) {
        let limit = |device: &str| {
            format!("tc qdisc add dev {device} root tbf rate {rate} burst 16kb latency 200ms")
        };
        self.inside(&limit(&self.device("x")));
        sh(&limit(&self.device("w")));
    }

    /// Makes the wide link's packets smaller.
    pub fn set_mtu(&self, mtu: u32) {
        self.inside(&format!("ip link set {} mtu {mtu}", self.device("x")));
        sh(&format!("ip link set {} mtu {mtu}", self.device("w")));
    }

    /// Starts one of our programs inside.
    pub fn start(&self, name: &str, args: &[&str], environment: &[(&str, &str)]) -> Process {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.name])
            .arg(program(name))
            .args(args)
            .envs(environment.iter().copied());
        Process::spawn(command)
    }

    /// Runs one of our programs inside to its end.
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

    /// What the slow link has carried.
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
