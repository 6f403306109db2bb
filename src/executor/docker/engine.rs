//! The connection to the engine: made and negotiated anew after every failure, with a timeout on each call, and with
//! errors that say whether a retry can help.
//!
//! The API version is negotiated downward only, and from 1.41 (engine 20.10) on. Nothing in here knows pipelines.

use crate::executor::error::BackendError;
use crate::pipeline::causes::with_causes;
use crate::settings::DockerSettings;
use bollard::{API_DEFAULT_VERSION, ClientVersion, Docker, errors::Error, models::EventMessage, query_parameters::EventsOptions};
use futures_util::stream::BoxStream;
use jiff::Timestamp;
use std::collections::HashMap;
use std::future::Future;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tracing::{debug, info, warn};

/// The oldest API that has all that is used here.
const OLDEST: ClientVersion = ClientVersion { major_version: 1, minor_version: 41 };
/// What a call may take beyond its own timeout: the transport's is meant to come first.
const SLACK: Duration = Duration::from_secs(2);
/// How long the engine may take to begin with its events.
const SUBSCRIBE: Duration = Duration::from_secs(10);
/// Nanoseconds of a second.
const NANOS: i64 = 1_000_000_000;

/// An engine.
pub struct Engine {
    settings: DockerSettings,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The connection, while it works.
    client: Option<Docker>,
    /// Since when the engine has not answered.
    silent: Option<Timestamp>,
}

impl Engine {
    /// An engine that nothing was asked of yet.
    pub fn new(settings: DockerSettings) -> Self {
        Self { settings, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection with a negotiated version. Errors: the engine does not answer, or is too old.
    async fn client(&self) -> Result<Docker, BackendError> {
        if let Some(client) = self.state().client.clone() {
            return Ok(client);
        }
        let connected = async { self.connect()?.negotiate_version().await };
        let client = match tokio::time::timeout(self.settings.timeout + SLACK, connected).await {
            Ok(Ok(client)) => client,
            Ok(Err(error)) => return Err(self.failed("connect", error)),
            Err(_) => return Err(self.failed("connect", Error::RequestTimeoutError)),
        };
        let version = client.client_version();
        if version < OLDEST {
            let version = format!("{}.{}", version.major_version, version.minor_version);
            return Err(BackendError::TooOld { host: self.settings.host.clone(), version });
        }
        let client = speaking(client, version);
        info!(engine = self.settings.host, api = %format!("{}.{}", version.major_version, version.minor_version), "engine connected");
        let mut state = self.state();
        state.silent = None;
        state.client = Some(client.clone());
        Ok(client)
    }

    fn connect(&self) -> Result<Docker, Error> {
        let DockerSettings { host, tls, timeout, .. } = &self.settings;
        let seconds = timeout.as_secs().max(1);
        match (host.strip_prefix("unix://"), &tls.ca_file, &tls.cert_file, &tls.key_file) {
            (Some(path), ..) => Docker::connect_with_unix(path, seconds, API_DEFAULT_VERSION),
            (None, Some(ca), Some(cert), Some(key)) => Docker::connect_with_ssl(host, key, cert, ca, seconds, API_DEFAULT_VERSION),
            (None, ..) => Docker::connect_with_http(host, seconds, API_DEFAULT_VERSION),
        }
    }

    /// Makes one call; `what` names it in errors.
    pub async fn call<T, F>(&self, what: &'static str, call: impl FnOnce(Docker) -> F) -> Result<T, BackendError>
    where
        F: Future<Output = Result<T, Error>>,
    {
        self.call_for(what, Duration::ZERO, call).await
    }

    /// Makes one call that may take `longer` than the others.
    pub async fn call_for<T, F>(&self, what: &'static str, longer: Duration, call: impl FnOnce(Docker) -> F) -> Result<T, BackendError>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let timeout = self.settings.timeout + longer;
        let client = self.client().await?.with_timeout(timeout);
        let begun = Instant::now();
        let answered = tokio::time::timeout(timeout + SLACK, call(client)).await;
        debug!(what, ms = begun.elapsed().as_millis(), "engine called");
        match answered {
            Ok(Ok(answer)) => {
                self.state().silent = None;
                Ok(answer)
            }
            Ok(Err(error)) => Err(self.failed(what, error)),
            Err(_) => Err(self.failed(what, Error::RequestTimeoutError)),
        }
    }

    /// What time it is by the engine's clock, in nanoseconds since 1970; by ours where it does not say.
    pub async fn now(&self) -> Result<i64, BackendError> {
        let said = match self.call("info", |engine| async move { engine.info().await }).await {
            Ok(info) => info.system_time.and_then(|time| time.parse::<Timestamp>().ok()),
            // Whoever stands between may let only what is needed pass.
            Err(BackendError::Refused { .. } | BackendError::Missing { .. }) => None,
            Err(error) => return Err(error),
        };
        Ok(i64::try_from(said.unwrap_or_else(Timestamp::now).as_nanosecond()).unwrap_or_default())
    }

    /// What happens to containers that bear `label`, from a time of the engine's on; it ends when the engine does. Errors come
    /// within the stream, the first one no later than [`SUBSCRIBE`] after it is polled.
    pub async fn events(&self, label: &str, from: i64) -> Result<BoxStream<'static, Result<EventMessage, Error>>, BackendError> {
        let filters = HashMap::from([("type".to_owned(), vec!["container".to_owned()]), ("label".to_owned(), vec![label.to_owned()])]);
        let since = format!("{}.{:09}", from.div_euclid(NANOS), from.rem_euclid(NANOS));
        let options = EventsOptions { since: Some(since), filters: Some(filters), ..Default::default() };
        let client = self.client().await?.with_timeout(self.settings.timeout.min(SUBSCRIBE));
        Ok(Box::pin(client.events(Some(options))))
    }

    /// Notes a failure and says what it means.
    pub fn failed(&self, what: &'static str, error: Error) -> BackendError {
        if let Error::DockerResponseServerError { status_code, message } = error {
            // The engine answers, if only with a refusal. Another one may have taken its place, with another version.
            if status_code == 400 {
                self.state().client = None;
            }
            return match status_code {
                404 => BackendError::Missing { what, message },
                409 => BackendError::Conflict { what, message },
                _ => BackendError::Refused { what, message },
            };
        }
        let mut state = self.state();
        state.client = None;
        let first = state.silent.is_none();
        let since = *state.silent.get_or_insert_with(Timestamp::now);
        drop(state);
        let message = with_causes(&error);
        if first {
            warn!(engine = self.settings.host, what, error = message, "engine does not answer");
        }
        BackendError::Unavailable { who: format!("the engine at {}", self.settings.host), since, message }
    }
}

/// The same connection, which says with each request in which version it is meant. The library leaves that out of the path, and an
/// engine takes what says nothing for its newest.
fn speaking(client: Docker, version: ClientVersion) -> Docker {
    let prefix = format!("/v{}.{}", version.major_version, version.minor_version);
    client.with_request_modifier(move |mut request| {
        let uri = request.uri();
        if let (Some(scheme), Some(authority), Some(path)) = (uri.scheme_str(), uri.authority(), uri.path_and_query())
            && !path.as_str().starts_with(&prefix)
            && let Ok(versioned) = format!("{scheme}://{authority}{prefix}{path}").parse()
        {
            *request.uri_mut() = versioned;
        }
        request
    })
}
