//! Accepts connections and serves a router on them, HTTP/1 alone, within the bounds of [`super::connections`]. Until `stop`:
//! then nobody is accepted any more, and what is being answered may end.

use super::connections::{Connection, Connections, Entered};
use crate::telemetry::descriptors;
use crate::telemetry::metrics::{Closed, Metrics};
use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::http::Request;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use std::fs::File;
use std::io::{ErrorKind, IoSlice};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

/// Connections of one listener at the same time, where there are descriptors for many more.
const MOST: u64 = 256;
/// The part of all descriptors that one listener may have: NATS, MongoDB and the engine need theirs.
const SHARE: u64 = 4;
/// What is read ahead, and what is written ahead of a reader, bytes a connection.
const BUFFER: usize = 64 << 10;
/// What the kernel holds for a reader, bytes a connection; it doubles that.
const SEND_BUFFER: u32 = 64 << 10;
/// Connections that the kernel holds until they are accepted.
const BACKLOG: u32 = 1024;
/// How often it is looked whether a connection takes too long.
const LOOK: Duration = Duration::from_secs(1);
/// How soon accepting is tried again where it failed.
const AGAIN: Duration = Duration::from_millis(50);
/// How often it is said that accepting fails.
const SAY_EVERY: Duration = Duration::from_secs(60);
/// How long answers may take to end once the process stops.
const GRACE: Duration = Duration::from_secs(5);

/// Listens on `address`.
pub(super) fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // A restart need not wait until the kernel has forgotten the connections of the process before.
    socket.set_reuseaddr(true)?;
    // What is accepted has the same: otherwise the kernel would hold megabytes for each reader that does not read.
    socket.set_send_buffer_size(SEND_BUFFER)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Serves until `stop`.
pub(super) async fn serve(listener: TcpListener, router: Router, metrics: Arc<Metrics>, stop: CancellationToken) {
    let most = descriptors::limit().map_or(MOST, |limit| MOST.min(limit / SHARE));
    let connections = Connections::new(usize::try_from(most).unwrap_or(usize::MAX));
    let tasks = TaskTracker::new();
    let (mut spare, mut said) = (Spare::default(), None::<Instant>);
    loop {
        spare.keep();
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => break,
        };
        match accepted {
            Ok((stream, _)) => {
                let entered = tokio::select! {
                    entered = connections.enter() => entered,
                    () = stop.cancelled() => break,
                };
                tasks.spawn(one(stream, entered, router.clone(), metrics.clone(), stop.clone()));
            }
            // It has gone again.
            Err(error) if matches!(error.kind(), ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset) => {}
            Err(_) if spare.give_up() => {}
            Err(error) => {
                if said.is_none_or(|at| at.elapsed() >= SAY_EVERY) {
                    warn!(%error, "http connections cannot be accepted, silent ones are closed");
                    said = Some(Instant::now());
                }
                connections.evict_silent(Instant::now());
                tokio::time::sleep(AGAIN).await;
            }
        }
    }
    drop(listener);
    tasks.close();
    if tokio::time::timeout(GRACE, tasks.wait()).await.is_err() {
        debug!("http answers that do not end are cut off");
    }
}

/// A descriptor that is given up for a connection where there is no other: somebody may be asking for health.
#[derive(Default)]
struct Spare(Option<File>);

impl Spare {
    fn keep(&mut self) {
        if self.0.is_none() {
            // Where there is none to be had, there may be one at the next connection.
            self.0 = File::open("/dev/null").ok();
        }
    }

    fn give_up(&mut self) -> bool {
        self.0.take().is_some()
    }
}

/// Serves one connection until it ends, is evicted, or takes too long.
async fn one(stream: TcpStream, entered: Entered, router: Router, metrics: Arc<Metrics>, stop: CancellationToken) {
    let connection = &entered.connection;
    let router = TowerToHyperService::new(router);
    let service = service_fn(|request: Request<Incoming>| {
        connection.begins(Instant::now());
        let (answer, connection) = (router.call(request), connection.clone());
        async move { answer.await.map(|response| response.map(|body| Body::new(Answer { body, connection }))) }
    });
    let io = TokioIo::new(Watched { stream, connection: connection.clone() });
    let mut http = pin!(http1::Builder::new().max_buf_size(BUFFER).serve_connection(io, service));
    let mut looks = tokio::time::interval(LOOK);
    let mut stopping = false;
    loop {
        tokio::select! {
            ended = &mut http => {
                if let Err(error) = ended {
                    debug!(%error, "http connection ended");
                }
                return;
            }
            () = connection.evicted() => return metrics.closed(Closed::Evicted),
            _ = looks.tick() => if connection.is_late(Instant::now()) {
                return metrics.closed(Closed::Late);
            },
            () = stop.cancelled(), if !stopping => {
                stopping = true;
                http.as_mut().graceful_shutdown();
            }
        }
    }
}

/// A stream that says when its reader takes something.
struct Watched {
    stream: TcpStream,
    connection: Arc<Connection>,
}

impl Watched {
    fn wrote(&self, written: &Poll<std::io::Result<usize>>) {
        if matches!(written, Poll::Ready(Ok(bytes)) if *bytes > 0) {
            self.connection.moves(Instant::now());
        }
    }
}

impl AsyncRead for Watched {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.wrote(&written);
        written
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, parts: &[IoSlice<'_>]) -> Poll<std::io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, parts);
        self.wrote(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// A body that says when it has been handed over.
struct Answer {
    body: Body,
    connection: Arc<Connection>,
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.connection.ends(Instant::now());
    }
}
