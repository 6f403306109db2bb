//! Metrics, health and status over HTTP. Listens on loopback unless told otherwise, and then only with a token; health
//! alone never needs one, and then says no more than yes or no.
//!
//! It shows what a [`View`] knows (the controller implements it) and decides nothing. `app` starts it; it ends with
//! the process's cancellation token, finishing the requests it has.

mod routes;

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
    let (listener, address) = bind(listen).await?;
    begin(listener, address, routes::router(token.as_ref(), view, metrics), stop);
    Ok(address)
}

/// Answers health on `listen`, and nothing else, so without a token: no more than yes or no. In a task of its own until
/// `stop`; returns the address that it has got.
pub async fn serve_health(listen: SocketAddr, view: Arc<dyn View>, stop: CancellationToken) -> Result<SocketAddr, HttpError> {
    let (listener, address) = bind(listen).await?;
    begin(listener, address, routes::health(view), stop);
    Ok(address)
}

/// Binds `listen`; on a machine without IPv6, every address of it means every one of IPv4.
async fn bind(listen: SocketAddr) -> Result<(TcpListener, SocketAddr), HttpError> {
    let bound = match TcpListener::bind(listen).await {
        Err(_) if listen.ip() == Ipv6Addr::UNSPECIFIED => TcpListener::bind((Ipv4Addr::UNSPECIFIED, listen.port())).await,
        bound => bound,
    };
    let failed = |source| HttpError::Bind { address: listen, source };
    let listener = bound.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok((listener, address))
}

fn begin(listener: TcpListener, address: SocketAddr, router: axum::Router, stop: CancellationToken) {
    tokio::spawn(async move {
        // Without metrics and health a process is blind, not broken: the pipelines go on, and the log says so.
        if let Err(error) = axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).await {
            tracing::error!(%address, %error, "http listener ended");
        }
    });
}
