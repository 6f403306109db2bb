//! Metrics, health and status over HTTP. Listens on loopback unless told otherwise, and then only with a token; health
//! alone never needs one, and then says no more than yes or no.
//!
//! It shows what a [`View`] knows (the controller implements it) and decides nothing. `app` starts it; it ends with
//! the process's cancellation token, finishing the requests it has. Whoever connects has a bounded share of descriptors,
//! memory and time ([`connections`], [`pages`]).

mod connections;
mod pages;
mod routes;
mod server;

pub use crate::pipeline::health::{Check, Health, View};

use crate::settings::Secret;
use crate::telemetry::metrics::Metrics;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Why the listener cannot start.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// The address cannot be bound.
    #[error("cannot listen on {address}: {source} (set `http.listen` to a free address, 127.0.0.1:0 for any free port, or off)")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        source: std::io::Error,
    },
    /// An address that others can reach, without a token.
    #[error("http.listen is {address}, which others can reach, and there is no token (set `http.token_file`, or listen on 127.0.0.1)")]
    TokenMissing {
        /// The address.
        address: SocketAddr,
    },
}

/// Listens on `listen` and serves in a task of its own until `stop`. Returns the address that it has got, which differs
/// from `listen` where that asked for any free port.
pub async fn serve(
    listen: SocketAddr,
    token: Option<Secret>,
    view: Arc<dyn View>,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) -> Result<SocketAddr, HttpError> {
    // An empty token would be one that anybody has.
    let token = token.filter(|token| !token.expose().is_empty());
    if !listen.ip().to_canonical().is_loopback() && token.is_none() {
        return Err(HttpError::TokenMissing { address: listen });
    }
    let (listener, address) = bind(listen)?;
    begin(listener, routes::router(token.as_ref(), view, metrics.clone()), metrics, stop);
    Ok(address)
}

/// Answers health on `listen`, and nothing else, so without a token: no more than yes or no. In a task of its own until
/// `stop`; returns the address that it has got.
pub async fn serve_health(
    listen: SocketAddr,
    view: Arc<dyn View>,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) -> Result<SocketAddr, HttpError> {
    let (listener, address) = bind(listen)?;
    begin(listener, routes::health(view), metrics, stop);
    Ok(address)
}

/// Binds `listen`; on a machine without IPv6, every address of it means every one of IPv4.
fn bind(listen: SocketAddr) -> Result<(TcpListener, SocketAddr), HttpError> {
    let bound = match server::listen(listen) {
        Err(_) if listen.ip() == Ipv6Addr::UNSPECIFIED => server::listen((Ipv4Addr::UNSPECIFIED, listen.port()).into()),
        bound => bound,
    };
    let failed = |source| HttpError::Bind { address: listen, source };
    let listener = bound.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok((listener, address))
}

fn begin(listener: TcpListener, router: axum::Router, metrics: Arc<Metrics>, stop: CancellationToken) {
    // Nobody waits for it: what it answers last may end after the process has told the rest to.
    tokio::spawn(server::serve(listener, router, metrics, stop));
}
