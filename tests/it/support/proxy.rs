//! A TCP proxy that a test can cut, stall, break off at any byte, listen in on and count through.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

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

/// Where bytes come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    Client,
    Server,
}

/// Hears all bytes before they are passed on: of which connection, counted from 1, from which side.
pub type Tap = Arc<dyn Fn(u64, Side, &[u8]) + Send + Sync>;

/// A proxy on a port of its own in front of one server; gone when dropped.
pub struct Proxy {
    address: SocketAddr,
    mode: watch::Sender<Mode>,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    server: SocketAddr,
    to_server: AtomicU64,
    to_client: AtomicU64,
    connections: AtomicU64,
    /// Breaks a connection off once so many more bytes came from that side.
    breaks: Mutex<Option<(Side, u64)>>,
    tap: Option<Tap>,
}

impl Proxy {
    /// Starts one in front of `127.0.0.1:port`.
    pub async fn start(port: u16) -> Self {
        Self::build(LOOPBACK, (LOOPBACK, port).into(), None).await
    }

    /// Starts one that listens on `host`, in front of `server`.
    pub async fn start_on(host: IpAddr, server: SocketAddr) -> Self {
        Self::build(host, server, None).await
    }

    /// Starts one that lets `tap` hear everything.
    pub async fn start_tapped(port: u16, tap: Tap) -> Self {
        Self::build(LOOPBACK, (LOOPBACK, port).into(), Some(tap)).await
    }

    async fn build(host: IpAddr, server: SocketAddr, tap: Option<Tap>) -> Self {
        let listener = TcpListener::bind((host, super::free_port())).await.expect("a port for the proxy");
        let address = listener.local_addr().expect("a bound address");
        let mode = watch::Sender::new(Mode::Open);
        let shared = Arc::new(Shared {
            server,
            to_server: AtomicU64::new(0),
            to_client: AtomicU64::new(0),
            connections: AtomicU64::new(0),
            breaks: Mutex::new(None),
            tap,
        });
        let task = tokio::spawn(accept(listener, mode.clone(), shared.clone()));
        Self { address, mode, shared, task }
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

    /// Passes so many bytes more from that side, whatever they are a part of, and then closes the connection that the last
    /// of them came over; once.
    pub fn break_off(&self, side: Side, after: u64) {
        *self.shared.breaks.lock().expect("nobody panics with it") = Some((side, after));
    }

    /// Whether nothing is left to be broken off.
    pub fn has_broken_off(&self) -> bool {
        self.shared.breaks.lock().expect("nobody panics with it").is_none()
    }

    /// Bytes passed on to the server.
    pub fn bytes_to_server(&self) -> u64 {
        self.shared.to_server.load(Ordering::Relaxed)
    }

    /// Bytes passed on to clients.
    pub fn bytes_to_client(&self) -> u64 {
        self.shared.to_client.load(Ordering::Relaxed)
    }

    /// Connections taken so far.
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.cut();
        self.task.abort();
    }
}

impl Shared {
    /// How many of so many bytes from this side may pass, and whether the connection is closed then.
    fn may_pass(&self, side: Side, bytes: usize) -> (usize, bool) {
        let mut breaks = self.breaks.lock().expect("nobody panics with it");
        match breaks.as_mut() {
            Some((of, left)) if *of == side => {
                let pass = bytes.min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= pass as u64;
                if *left == 0 {
                    *breaks = None;
                    return (pass, true);
                }
                (pass, false)
            }
            _ => (bytes, false),
        }
    }
}

async fn accept(listener: TcpListener, mode: watch::Sender<Mode>, shared: Arc<Shared>) {
    while let Ok((client, _)) = listener.accept().await {
        let connection = shared.connections.fetch_add(1, Ordering::Relaxed) + 1;
        if *mode.borrow() == Mode::Cut {
            continue;
        }
        tokio::spawn(serve(client, connection, mode.subscribe(), shared.clone()));
    }
}

async fn serve(client: TcpStream, connection: u64, mut mode: watch::Receiver<Mode>, shared: Arc<Shared>) {
    let Ok(server) = TcpStream::connect(shared.server).await else { return };
    // Small frames must not wait for one another: latencies through the proxy are measured.
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (mut client_in, mut client_out) = client.into_split();
    let (mut server_in, mut server_out) = server.into_split();
    let up = pass(&mut client_in, &mut server_out, (Side::Client, connection), &shared, mode.clone());
    let down = pass(&mut server_in, &mut client_out, (Side::Server, connection), &shared, mode.clone());
    tokio::select! {
        () = up => {}
        () = down => {}
        _ = mode.wait_for(|m| *m == Mode::Cut) => {}
    }
}

async fn pass(
    from: &mut (impl AsyncReadExt + Unpin),
    to: &mut (impl AsyncWriteExt + Unpin),
    (side, connection): (Side, u64),
    shared: &Shared,
    mut mode: watch::Receiver<Mode>,
) {
    let mut buffer = vec![0; 64 << 10];
    let count = if side == Side::Client { &shared.to_server } else { &shared.to_client };
    loop {
        let read = match from.read(&mut buffer).await {
            Ok(read) if read > 0 => read,
            _ => return,
        };
        let open = |m: &Mode| *m == Mode::Open || (*m == Mode::RepliesStalled && side == Side::Client);
        if mode.wait_for(open).await.is_err() {
            return;
        }
        let (passed, ends) = shared.may_pass(side, read);
        if let Some(tap) = &shared.tap {
            tap(connection, side, &buffer[..passed]);
        }
        if to.write_all(&buffer[..passed]).await.is_err() || ends {
            return;
        }
        count.fetch_add(passed as u64, Ordering::Relaxed);
    }
}
