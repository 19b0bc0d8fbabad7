//! A link between agent and relay, on loopback, that the test can block: it forwards UDP datagrams
//! and TCP connections of one port to the relay's.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Treatment of one protocol's data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pass {
    /// Everything passes.
    All,
    /// New flows pass; existing ones are silent, as with a NAT that forgot them.
    New,
    /// Nothing passes, without notice.
    Nothing,
}

/// A running link.
pub struct Link {
    pub address: SocketAddr,
    relay: SocketAddr,
    socket: Arc<UdpSocket>,
    udp: Arc<Mutex<Udp>>,
    tcp: watch::Sender<Pass>,
    /// Number of forwarded TCP connections.
    pub tcp_connections: Arc<AtomicUsize>,
    tasks: Vec<JoinHandle<()>>,
}

struct Udp {
    pass: Pass,
    /// Number of datagrams from the agent after which a flow is silent.
    lifetime: u64,
    flows: HashMap<SocketAddr, Flow>,
}

struct Flow {
    socket: Arc<UdpSocket>,
    silent: bool,
    carried: u64,
    task: JoinHandle<()>,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
        self.udp
            .lock()
            .unwrap()
            .flows
            .values()
            .for_each(|flow| flow.task.abort());
    }
}

impl Link {
    /// Creates a link to a relay with this address for both protocols.
    pub async fn to(relay: SocketAddr) -> Self {
        // The same port number for both, as at a relay.
        let (udp, tcp) = loop {
            let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            if let Ok(udp) = UdpSocket::bind(tcp.local_addr().unwrap()).await {
                break (Arc::new(udp), tcp);
            }
        };
        let address = tcp.local_addr().unwrap();

        let state = Arc::new(Mutex::new(Udp {
            pass: Pass::All,
            lifetime: u64::MAX,
            flows: HashMap::new(),
        }));

        let (say, pass) = watch::channel(Pass::All);
        let tcp_connections = Arc::new(AtomicUsize::new(0));
        let tasks = vec![
            tokio::spawn(carry_udp(Arc::clone(&udp), relay, Arc::clone(&state))),
            tokio::spawn(carry_tcp(tcp, relay, pass, Arc::clone(&tcp_connections))),
        ];

        Self {
            address,
            relay,
            socket: udp,
            udp: state,
            tcp: say,
            tcp_connections,
            tasks,
        }
    }

    /// Blocks UDP, or lets it pass again.
    pub fn udp(&self, pass: Pass) {
        let mut state = self.udp.lock().unwrap();
        state.pass = pass;
        for flow in state.flows.values_mut() {
            flow.silent = pass != Pass::All;
        }
    }

    /// Silences each UDP flow after this number of datagrams from the agent, like a firewall that
    /// inspects established flows.
    pub fn udp_lifetime(&self, datagrams: u64) {
        self.udp.lock().unwrap().lifetime = datagrams;
    }

    /// Silences the flow with the most data, as if one of two paths died.
    pub fn silence_busiest_udp_flow(&self) {
        let mut state = self.udp.lock().unwrap();
        let living = state.flows.values_mut().filter(|flow| !flow.silent);
        living.max_by_key(|flow| flow.carried).unwrap().silent = true;
    }

    /// Gives every UDP flow another port towards the relay, like a NAT that has forgotten it.
    pub async fn rebind_udp(&self) {
        let known: Vec<_> = self.udp.lock().unwrap().flows.keys().copied().collect();
        for from in known {
            let (socket, task) = there_and_back(
                from,
                self.relay,
                Arc::clone(&self.socket),
                Arc::clone(&self.udp),
            )
            .await;

            if let Some(flow) = self.udp.lock().unwrap().flows.get_mut(&from) {
                flow.socket = socket;
                std::mem::replace(&mut flow.task, task).abort();
            }
        }
    }

    /// Returns the number of datagrams from the agent.
    pub fn udp_carried(&self) -> u64 {
        self.udp
            .lock()
            .unwrap()
            .flows
            .values()
            .map(|flow| flow.carried)
            .sum()
    }

    /// Returns the number of UDP flows that are not silent.
    pub fn udp_flows(&self) -> usize {
        self.udp
            .lock()
            .unwrap()
            .flows
            .values()
            .filter(|flow| !flow.silent)
            .count()
    }

    /// Blocks TCP, or lets it pass again. Blocked connections stay open and silent.
    pub fn tcp(&self, pass: Pass) {
        self.tcp.send_replace(pass);
    }
}

async fn carry_udp(socket: Arc<UdpSocket>, relay: SocketAddr, state: Arc<Mutex<Udp>>) {
    let mut buffer = vec![0; 65_536];
    loop {
        let Ok((length, from)) = socket.recv_from(&mut buffer).await else {
            continue;
        };
        let lifetime = state.lock().unwrap().lifetime;
        let known = state.lock().unwrap().flows.get_mut(&from).map(|flow| {
            flow.carried += 1;
            flow.silent |= flow.carried > lifetime;
            (Arc::clone(&flow.socket), flow.silent)
        });

        let (to, silent) = match known {
            Some(known) => known,
            None => {
                let (to, task) =
                    there_and_back(from, relay, Arc::clone(&socket), Arc::clone(&state)).await;
                let mut state = state.lock().unwrap();
                let silent = state.pass == Pass::Nothing;

                state.flows.insert(
                    from,
                    Flow {
                        socket: Arc::clone(&to),
                        silent,
                        carried: 0,
                        task,
                    },
                );

                (to, silent)
            }
        };
        if !silent {
            let _ = to.send(&buffer[..length]).await;
        }
    }
}

/// Returns a socket towards the relay for an agent's flow, with a task that carries the replies
/// back.
async fn there_and_back(
    from: SocketAddr,
    relay: SocketAddr,
    back: Arc<UdpSocket>,
    state: Arc<Mutex<Udp>>,
) -> (Arc<UdpSocket>, JoinHandle<()>) {
    let to = Arc::new(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap());
    to.connect(relay).await.unwrap();
    let answers = Arc::clone(&to);
    let task = tokio::spawn(async move {
        let mut buffer = vec![0; 65_536];
        loop {
            let Ok(length) = answers.recv(&mut buffer).await else {
                continue;
            };
            let silent = state
                .lock()
                .unwrap()
                .flows
                .get(&from)
                .is_some_and(|flow| flow.silent);
            if !silent {
                let _ = back.send_to(&buffer[..length], from).await;
            }
        }
    });
    (to, task)
}

async fn carry_tcp(
    listener: TcpListener,
    relay: SocketAddr,
    pass: watch::Receiver<Pass>,
    count: Arc<AtomicUsize>,
) {
    loop {
        let Ok((mut here, _)) = listener.accept().await else {
            continue;
        };
        let (mut pass, count) = (pass.clone(), Arc::clone(&count));
        let new = *pass.borrow_and_update();

        tokio::spawn(async move {
            if new == Pass::Nothing {
                // Held, and silent.
                let _ = pass.wait_for(|pass| *pass != Pass::Nothing).await;
                return;
            }

            let Ok(mut there) = TcpStream::connect(relay).await else {
                return;
            };
            count.fetch_add(1, Ordering::Relaxed);

            let _ = here.set_nodelay(true);
            let _ = there.set_nodelay(true);
            tokio::select! {
                _ = copy_bidirectional(&mut here, &mut there) => {}
                _ = async {
                    let _ = pass.changed().await;
                    let _ = pass.wait_for(|pass| *pass != Pass::All).await;
                } => {
                    // Silent from here on, until the test drops the link or everything passes
                    // again.
                    let _ = pass.wait_for(|pass| *pass == Pass::All).await;
                }
            }
        });
    }
}
