//! A TCP proxy that a test can cut, stall and count through.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};

/// What the proxy does with bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Passes them on.
    Open,
    /// Keeps them, in both directions; connections stay.
    Stalled,
    /// Keeps what the server answers, passes on what the client sends.
    RepliesStalled,
    /// Closes every connection, and each new one at once.
    Cut,
}

/// A proxy on a port of its own in front of one server; gone when dropped.
pub struct Proxy {
    address: SocketAddr,
    mode: watch::Sender<Mode>,
    counters: Arc<Counters>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Counters {
    to_server: AtomicU64,
    to_client: AtomicU64,
    connections: AtomicU64,
}

impl Proxy {
    /// Starts one in front of `127.0.0.1:port`.
    pub async fn start(port: u16) -> Self {
        Self::start_on(Ipv4Addr::LOCALHOST.into(), (Ipv4Addr::LOCALHOST, port).into()).await
    }

    /// Starts one that listens on `host`, in front of `server`.
    pub async fn start_on(host: IpAddr, server: SocketAddr) -> Self {
        let listener = TcpListener::bind((host, super::free_port())).await.expect("a port for the proxy");
        let address = listener.local_addr().expect("a bound address");
        let mode = watch::Sender::new(Mode::Open);
        let counters = Arc::new(Counters::default());
        let task = tokio::spawn(accept(listener, server, mode.clone(), counters.clone()));
        Self { address, mode, counters, task }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Closes all connections and takes no new ones.
    pub fn cut(&self) {
        self.mode.send_replace(Mode::Cut);
    }

    /// Passes nothing on, in neither direction.
    pub fn stall(&self) {
        self.mode.send_replace(Mode::Stalled);
    }

    /// Passes nothing of what the server says on.
    pub fn stall_replies(&self) {
        self.mode.send_replace(Mode::RepliesStalled);
    }

    /// Works again; what was kept goes on.
    pub fn resume(&self) {
        self.mode.send_replace(Mode::Open);
    }

    /// Bytes passed on to the server.
    pub fn bytes_to_server(&self) -> u64 {
        self.counters.to_server.load(Ordering::Relaxed)
    }

    /// Bytes passed on to clients.
    pub fn bytes_to_client(&self) -> u64 {
        self.counters.to_client.load(Ordering::Relaxed)
    }

    /// Connections taken so far.
    pub fn connections(&self) -> u64 {
        self.counters.connections.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.cut();
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, server: SocketAddr, mode: watch::Sender<Mode>, counters: Arc<Counters>) {
    while let Ok((client, _)) = listener.accept().await {
        counters.connections.fetch_add(1, Ordering::Relaxed);
        if *mode.borrow() == Mode::Cut {
            continue;
        }
        tokio::spawn(serve(client, server, mode.subscribe(), counters.clone()));
    }
}

async fn serve(client: TcpStream, server: SocketAddr, mut mode: watch::Receiver<Mode>, counters: Arc<Counters>) {
    let Ok(server) = TcpStream::connect(server).await else { return };
    // Small frames must not wait for one another: latencies through the proxy are measured.
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (mut client_in, mut client_out) = client.into_split();
    let (mut server_in, mut server_out) = server.into_split();
    let up = pass(&mut client_in, &mut server_out, &counters.to_server, mode.clone(), false);
    let down = pass(&mut server_in, &mut client_out, &counters.to_client, mode.clone(), true);
    tokio::select! {
        () = up => {}
        () = down => {}
        _ = mode.wait_for(|m| *m == Mode::Cut) => {}
    }
}

async fn pass(
    from: &mut (impl AsyncReadExt + Unpin),
    to: &mut (impl AsyncWriteExt + Unpin),
    count: &AtomicU64,
    mut mode: watch::Receiver<Mode>,
    replies: bool,
) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let read = match from.read(&mut buffer).await {
            Ok(read) if read > 0 => read,
            _ => return,
        };
        let open = |m: &Mode| *m == Mode::Open || (*m == Mode::RepliesStalled && !replies);
        if mode.wait_for(open).await.is_err() || to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
        count.fetch_add(read as u64, Ordering::Relaxed);
    }
}
