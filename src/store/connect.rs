//! The NATS connection from the settings: every way to authenticate, TLS, reconnecting for ever.
//!
//! Secrets are read again at each connect, the first and all later ones. The first is tried until a server answers; what no amount of trying cures (credentials, TLS, an address
//! that does not parse) fails at once, with the place in the settings. Addresses are stripped of user and password, so
//! that no log line of any library shows them.

use super::credentials::{Credentials, FromUrl};
use super::error::{StoreError, StoreErrorKind};
use super::link::Link;
use crate::pipeline::backoff::Backoff;
use crate::settings::NatsSettings;
use async_nats::{Client, ClientError, ConnectErrorKind, ConnectOptions, Event, ServerAddr};
use std::error::Error;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Delays between tries, at the start as well as after a disconnect.
const RECONNECT: Backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
/// How often the server is pinged: two unanswered pings end the connection.
const PING: Duration = Duration::from_secs(5);
/// How long one try to connect to one server may take.
const ONE_TRY: Duration = Duration::from_secs(5);
/// Messages that a subscription holds while nobody reads it; beyond it they are dropped and logged as a slow consumer.
/// The collector bounds its pulls far below, by bytes.
const SUBSCRIPTION: usize = 64 * 1024;

/// Connects, trying until a server answers. `link` is told what the connection says of itself from then on.
pub(super) async fn connect(settings: &NatsSettings, link: &Arc<Link>) -> Result<Client, StoreError> {
    let (addresses, from_url) = addresses(&settings.urls)?;
    let options = options(settings, from_url, link).await?;
    let mut failures = 0_u32;
    loop {
        let error = match options.clone().connect(&addresses[..]).await {
            Ok(client) => return Ok(client),
            Err(error) => error,
        };
        let hopeless = match error.kind() {
            ConnectErrorKind::ServerParse => Some("an address does not parse"),
            ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation => {
                Some("authorization refused, check the credentials under `nats` in the settings")
            }
            ConnectErrorKind::Tls => Some("TLS cannot be set up, check `nats.tls` in the settings"),
            _ if speaks_tls(&error) => Some("the TLS handshake failed, check `nats.tls` in the settings and the server's certificate"),
            _ => None,
        };
        if let Some(hopeless) = hopeless {
            return Err(StoreError::caused(StoreErrorKind::Refused, format!("connect to NATS: {hopeless}"), error));
        }
        failures = failures.saturating_add(1);
        // Often enough to be seen, seldom enough not to flood: tries 1, 2, 4, 8, …
        if failures.is_power_of_two() {
            tracing::warn!(urls = %shown(&addresses), %error, tries = failures, "waiting for nats");
        }
        tokio::time::sleep(RECONNECT.delay(failures, rand::random())).await;
    }
}

/// The addresses without credentials, and the credentials of the first that had some.
fn addresses(urls: &[String]) -> Result<(Vec<ServerAddr>, Option<FromUrl>), StoreError> {
    let mut addresses = Vec::with_capacity(urls.len());
    let mut credentials = None;
    for (index, text) in urls.iter().enumerate() {
        // Neither the text nor the parser's message is shown: both may hold a password.
        let refused = || StoreError::new(StoreErrorKind::Refused, format!("connect to NATS: nats.urls[{index}] is no NATS address"));
        let address: ServerAddr = text.parse().map_err(|_| refused())?;
        if let (None, Some(user)) = (&credentials, address.username()) {
            credentials = Some((decoded(user), address.password().map(decoded)));
        }
        let mut url = address.into_inner();
        url.set_username("").and_then(|()| url.set_password(None)).map_err(|()| refused())?;
        addresses.push(ServerAddr::from_url(url).map_err(|_| refused())?);
    }
    if addresses.is_empty() {
        return Err(StoreError::new(StoreErrorKind::Refused, "connect to NATS: nats.urls names no server"));
    }
    Ok((addresses, credentials))
}

/// Percent-decodes the user or password of an address; what is no escape stays as it is.
fn decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escape = text.get(at + 1..at + 3).filter(|_| bytes[at] == b'%').and_then(|hex| u8::from_str_radix(hex, 16).ok());
        plain.push(escape.unwrap_or(bytes[at]));
        at += if escape.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&plain).into_owned()
}

fn shown(addresses: &[ServerAddr]) -> String {
    addresses.iter().map(ServerAddr::as_url_str).collect::<Vec<_>>().join(", ")
}

async fn options(settings: &NatsSettings, from_url: Option<FromUrl>, link: &Arc<Link>) -> Result<ConnectOptions, StoreError> {
    let credentials = Credentials::new(settings, from_url);
    // A file that cannot be used is said with its place, before anything is tried.
    credentials.check()?;
    let (events, tries) = (link.clone(), link.clone());
    // Asked at each connect: what the files hold by then is what counts.
    let mut options = ConnectOptions::with_auth_callback(move |nonce| std::future::ready(credentials.answer(&nonce)))
        .name(concat!("sluice/", env!("CARGO_PKG_VERSION")))
        .max_reconnects(None)
        .connection_timeout(ONE_TRY)
        .ping_interval(PING)
        .subscription_capacity(SUBSCRIPTION)
        .reconnect_delay_callback(|tries| match u32::try_from(tries).unwrap_or(u32::MAX) {
            0 | 1 => Duration::from_millis(50).mul_f64(rand::random()),
            tries => RECONNECT.delay(tries - 1, rand::random()),
        })
        .event_callback(move |event| {
            events.hear(&event);
            log(&event);
            std::future::ready(())
        })
        // The one place where the library tells why the last try failed; it chooses the server itself.
        .reconnect_to_server_callback(move |servers, _| {
            tries.try_failed(servers.into_iter().filter_map(|server| server.last_error));
            std::future::ready(None)
        })
        .custom_inbox_prefix(&settings.inbox_prefix)
        .require_tls(settings.tls.required);
    let tls = &settings.tls;
    for (name, path) in [("ca_file", &tls.ca_file), ("cert_file", &tls.cert_file), ("key_file", &tls.key_file)] {
        if let Some(path) = path {
            tokio::fs::metadata(path).await.map_err(|error| unusable(&format!("nats.tls.{name}"), path, error))?;
        }
    }
    if let Some(path) = &tls.ca_file {
        options = options.add_root_certificates(path.clone());
    }
    match (&tls.cert_file, &tls.key_file) {
        (Some(cert), Some(key)) => options = options.add_client_certificate(cert.clone(), key.clone()),
        (None, None) => {}
        _ => {
            let message = "connect to NATS: nats.tls.cert_file and nats.tls.key_file need each other";
            return Err(StoreError::new(StoreErrorKind::Refused, message));
        }
    }
    Ok(options)
}

pub(super) fn unusable(setting: &str, path: &Path, error: io::Error) -> StoreError {
    StoreError::caused(StoreErrorKind::Refused, format!("connect to NATS: {setting} {} cannot be used", path.display()), error)
}

/// Whether a TLS library's error is among the causes: the connection library reports a failed handshake as plain I/O.
fn speaks_tls(error: &(dyn Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        if error.is::<rustls::Error>() || inner.is_some_and(|inner| inner.is::<rustls::Error>()) {
            return true;
        }
        next = error.source();
    }
    false
}

fn log(event: &Event) {
    match event {
        Event::Connected => tracing::info!("connected to nats"),
        Event::Disconnected => tracing::warn!("disconnected from nats"),
        Event::LameDuckMode => tracing::warn!("nats server is shutting down"),
        Event::Draining | Event::Closed => tracing::debug!(%event, "nats connection ends"),
        Event::SlowConsumer(subscription) => tracing::warn!(subscription, "slow consumer, messages were dropped"),
        Event::ServerError(error) => tracing::warn!(%error, "nats server reports an error"),
        // One for each try to reconnect.
        Event::ClientError(ClientError::Other(error)) => tracing::debug!(error, "nats connection reports an error"),
        Event::ClientError(error) => tracing::warn!(%error, "nats connection reports an error"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_lose_their_credentials_and_errors_show_none() {
        let urls = ["nats://canary:s%40crt@localhost:1".to_owned(), "localhost:2".to_owned()];
        let (addresses, credentials) = addresses(&urls).unwrap();
        assert_eq!(shown(&addresses), "nats://localhost:1, nats://localhost:2");
        assert_eq!(credentials, Some(("canary".into(), Some("s@crt".into()))));
        let error = super::addresses(&["http://canary:secret@x".into()]).unwrap_err().to_string();
        assert!(error.contains("nats.urls[0]") && !error.contains("canary") && !error.contains("secret"), "{error}");
    }
}
