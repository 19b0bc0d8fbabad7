//! An HTTP proxy that knows `CONNECT` and basic authentication, as companies have one.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use data_encoding::BASE64;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// A running proxy.
pub struct Proxy {
    pub address: SocketAddr,
    /// The request lines that it got.
    pub asked: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Proxy {
    /// A proxy that wants this `user:password`.
    pub async fn start(password: &str) -> Self {
        Self::start_at(Ipv4Addr::LOCALHOST, password).await
    }

    /// The same at another address of this machine.
    pub async fn start_at(address: Ipv4Addr, password: &str) -> Self {
        let listener = TcpListener::bind((address, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let wanted = format!("proxy-authorization: basic {}", BASE64.encode(password.as_bytes()).to_lowercase());
        let of_task = Arc::clone(&asked);
        let task = tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else { continue };
                tokio::spawn(serve(stream, wanted.clone(), Arc::clone(&of_task)));
            }
        });
        Self { address, asked, task }
    }
}

async fn serve(mut stream: TcpStream, wanted: String, asked: Arc<Mutex<Vec<String>>>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let Ok(byte) = stream.read_u8().await else { return };
        head.push(byte);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let line = head.lines().next().unwrap_or_default().to_owned();
    asked.lock().unwrap().push(line.clone());
    if !head.to_lowercase().contains(&wanted) {
        let _ = stream.write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n").await;
        return;
    }
    let target = line.split(' ').nth(1).unwrap_or_default();
    let Ok(mut there) = TcpStream::connect(target).await else { return };
    let _ = stream.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await;
    let _ = copy_bidirectional(&mut stream, &mut there).await;
}
