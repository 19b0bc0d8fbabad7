//! A recording application. It parses HTTP/1.1 itself, so that it sees names and order as sent, and
//! responds by a script.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

/// A request as received.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Received {
    pub method: String,
    pub target: String,
    /// Names and values as sent.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub trailers: Vec<(String, String)>,
}

impl Received {
    /// Returns the values of a header, ignoring case.
    pub fn all(&self, name: &str) -> Vec<&str> {
        self.headers
            .iter()
            .filter(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
            .collect()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.all(name).first().copied()
    }

    /// Returns the names as sent.
    pub fn names(&self) -> Vec<&str> {
        self.headers.iter().map(|(name, _)| name.as_str()).collect()
    }
}

/// Response to a request.
pub enum Reply {
    /// Status, additional headers and body, with a Content-Length.
    Full(u16, Vec<(&'static str, String)>, Vec<u8>),
    /// These bytes; the connection stays open.
    Raw(Vec<u8>),
    /// These bytes; the connection is then aborted.
    RawThenCut(Vec<u8>),
    /// No response.
    Silence,
    /// 200 without a body, after this time.
    Later(Duration),
    /// 200 without a body, once the test notifies.
    When(Arc<Notify>),
}

impl Reply {
    pub fn ok(body: &str) -> Self {
        Self::Full(200, Vec::new(), body.as_bytes().to_vec())
    }
}

type Script = Arc<dyn Fn(&Received) -> Reply + Send + Sync>;

/// Record of the requests.
#[derive(Clone, Default)]
pub struct Log {
    complete: Arc<Mutex<Vec<Received>>>,
    begun: Arc<AtomicUsize>,
    broken: Arc<AtomicUsize>,
    untaken: Arc<AtomicUsize>,
    connections: Arc<AtomicUsize>,
}

impl Log {
    /// Returns the complete requests.
    pub fn complete(&self) -> Vec<Received> {
        self.complete.lock().unwrap().clone()
    }

    /// Takes the complete requests.
    pub fn take(&self) -> Vec<Received> {
        std::mem::take(&mut *self.complete.lock().unwrap())
    }

    /// Returns the number of received heads, with or without a body.
    pub fn begun(&self) -> usize {
        self.begun.load(Ordering::SeqCst)
    }

    /// Returns the number of requests that were aborted after their head.
    pub fn broken(&self) -> usize {
        self.broken.load(Ordering::SeqCst)
    }

    /// Returns the number of responses that were not read to their end.
    pub fn untaken(&self) -> usize {
        self.untaken.load(Ordering::SeqCst)
    }

    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

/// A running application.
pub struct Application {
    pub address: SocketAddr,
    pub log: Log,
    task: JoinHandle<()>,
}

impl Application {
    /// Starts an application with this script.
    pub async fn start(script: impl Fn(&Received) -> Reply + Send + Sync + 'static) -> Self {
        Self::with_idle_limit(script, None).await
    }

    /// Starts an application that closes connections after this idle time.
    pub async fn with_idle_limit(
        script: impl Fn(&Received) -> Reply + Send + Sync + 'static,
        idle: Option<Duration>,
    ) -> Self {
        Self::listening(
            TcpListener::bind("127.0.0.1:0").await.unwrap(),
            script,
            idle,
        )
    }

    /// Starts an application at this local address; port 0 for any.
    pub async fn start_at(
        address: SocketAddr,
        script: impl Fn(&Received) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self::listening(TcpListener::bind(address).await.unwrap(), script, None)
    }

    fn listening(
        listener: TcpListener,
        script: impl Fn(&Received) -> Reply + Send + Sync + 'static,
        idle: Option<Duration>,
    ) -> Self {
        let address = listener.local_addr().unwrap();
        let log = Log::default();
        let script: Script = Arc::new(script);
        let of_task = log.clone();
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                of_task.connections.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(serve(stream, Arc::clone(&script), of_task.clone(), idle));
            }
        });
        Self { address, log, task }
    }

    /// Starts an application whose connections the test handles itself.
    pub async fn raw<F, Fut>(handle: F) -> Self
    where
        F: Fn(TcpStream) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                tokio::spawn(handle(stream));
            }
        });

        Self {
            address,
            log: Log::default(),
            task,
        }
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Reader of a connection.
pub struct Input {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Input {
    pub fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            buffer: Vec::new(),
        }
    }

    /// Returns the number of buffered bytes.
    pub fn rest_of_buffer(&self) -> usize {
        self.buffer.len()
    }

    pub fn stream(&mut self) -> &mut TcpStream {
        &mut self.stream
    }

    /// Reads more bytes. Returns `false` at the end.
    async fn fill(&mut self) -> bool {
        matches!(self.stream.read_buf(&mut self.buffer).await, Ok(count) if count > 0)
    }

    /// Returns everything up to and including this mark.
    pub async fn until(&mut self, mark: &[u8]) -> Option<Vec<u8>> {
        loop {
            if let Some(at) = self
                .buffer
                .windows(mark.len())
                .position(|window| window == mark)
            {
                return Some(self.buffer.drain(..at + mark.len()).collect());
            }

            if !self.fill().await {
                return None;
            }
        }
    }

    /// Returns this number of bytes.
    pub async fn exactly(&mut self, count: usize) -> Option<Vec<u8>> {
        while self.buffer.len() < count {
            if !self.fill().await {
                return None;
            }
        }
        Some(self.buffer.drain(..count).collect())
    }

    /// Reads the head of a request.
    pub async fn head(&mut self) -> Option<Received> {
        let head = self.until(b"\r\n\r\n").await?;
        let text = String::from_utf8_lossy(&head).into_owned();
        let mut lines = text.split("\r\n");
        let mut words = lines.next()?.split(' ');
        let mut received = Received {
            method: words.next()?.to_owned(),
            target: words.next()?.to_owned(),
            ..Received::default()
        };
        received.headers = fields(lines);

        Some(received)
    }

    /// Reads the body of a request, by its framing.
    pub async fn body(&mut self, received: &mut Received) -> Option<()> {
        if let Some(length) = received.header("content-length") {
            received.body = self.exactly(length.parse().ok()?).await?;
        } else if received.header("transfer-encoding").is_some() {
            loop {
                let line = self.until(b"\r\n").await?;
                let size =
                    usize::from_str_radix(std::str::from_utf8(&line).ok()?.trim(), 16).ok()?;
                if size == 0 {
                    let mut lines = Vec::new();
                    loop {
                        let line = self.until(b"\r\n").await?;
                        if line == b"\r\n" {
                            break;
                        }
                        lines.push(String::from_utf8_lossy(&line).trim_end().to_owned());
                    }

                    received.trailers = fields(lines.iter().map(String::as_str));
                    break;
                }

                received.body.extend(self.exactly(size).await?);
                self.exactly(2).await?;
            }
        }

        Some(())
    }
}

fn fields<'l>(lines: impl Iterator<Item = &'l str>) -> Vec<(String, String)> {
    lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
        .collect()
}

const NOTHING_TO_SAY: &[u8] = b"HTTP/1.1 200 Scripted\r\nContent-Length: 0\r\n\r\n";

async fn serve(stream: TcpStream, script: Script, log: Log, idle: Option<Duration>) {
    let _ = stream.set_nodelay(true);
    let mut input = Input::new(stream);

    loop {
        let head = match idle {
            Some(idle) => timeout(idle, input.head()).await.unwrap_or(None),
            None => input.head().await,
        };
        let Some(mut received) = head else { return };

        log.begun.fetch_add(1, Ordering::SeqCst);
        if input.body(&mut received).await.is_none() {
            log.broken.fetch_add(1, Ordering::SeqCst);
            return;
        }

        let reply = script(&received);
        let head_only = received.method == "HEAD";
        log.complete.lock().unwrap().push(received);

        let bytes = match reply {
            Reply::Full(status, headers, body) => {
                let mut text = format!(
                    "HTTP/1.1 {status} Scripted\r\nContent-Length: {}\r\n",
                    body.len()
                );

                for (name, value) in headers {
                    text.push_str(&format!("{name}: {value}\r\n"));
                }

                text.push_str("\r\n");
                let mut bytes = text.into_bytes();

                if !head_only {
                    bytes.extend(body);
                }

                bytes
            }
            Reply::Raw(bytes) => bytes,
            Reply::RawThenCut(bytes) => {
                let _ = input.stream.write_all(&bytes).await;
                return;
            }
            Reply::Silence => std::future::pending().await,
            Reply::Later(span) => {
                sleep(span).await;
                NOTHING_TO_SAY.to_vec()
            }
            Reply::When(now) => {
                now.notified().await;
                NOTHING_TO_SAY.to_vec()
            }
        };
        if input.stream.write_all(&bytes).await.is_err() {
            log.untaken.fetch_add(1, Ordering::SeqCst);
            return;
        }
    }
}

/// FlexDeploy's webhook resource, as far as a webhook can see it: 202 at once, or with
/// `flex-sync-webhook: true` 200, 404 or 500 when done. Its match script reads the raw header and
/// the raw body, and checks GitHub's signature itself.
pub fn flexdeploy(secret: &'static str) -> impl Fn(&Received) -> Reply + Send + Sync + 'static {
    move |request| {
        if !request.target.starts_with("/flexdeploy/webhooks/v1") {
            return Reply::Full(200, Vec::new(), b"the whole application".to_vec());
        }

        // Like a Groovy script that looks up a header by its exact name.
        let exact = |wanted: &str| {
            request
                .headers
                .iter()
                .find(|(name, _)| name == wanted)
                .map(|(_, value)| value.clone())
        };
        let signed = exact("X-Hub-Signature-256")
            == Some(crate::sender::github_signature(secret, &request.body));
        let matched = signed && exact("X-GitHub-Event").as_deref() == Some("push");

        if request.header("flex-sync-webhook") != Some("true") {
            return Reply::Full(202, Vec::new(), Vec::new());
        }

        let status = match (
            matched,
            request.body.windows(5).any(|window| window == b"crash"),
        ) {
            (false, _) => 404,
            (true, true) => 500,
            (true, false) => 200,
        };
        Reply::Full(status, Vec::new(), Vec::new())
    }
}
