//! The connection to the engine: made and negotiated anew after every failure, with a timeout on each call, and with
//! errors that say whether a retry can help.
//!
//! The API version is negotiated downward only, and from 1.41 (engine 20.10) on. Nothing in here knows pipelines.

use crate::executor::ExecutorError;
use crate::pipeline::status::Reason;
use crate::settings::DockerSettings;
use bollard::{API_DEFAULT_VERSION, ClientVersion, Docker, errors::Error};
use jiff::Timestamp;
use std::future::Future;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tracing::{debug, info, warn};

/// The oldest API that has all that is used here.
const OLDEST: ClientVersion = ClientVersion { major_version: 1, minor_version: 41 };
/// What a call may take beyond its own timeout: the transport's is meant to come first.
const SLACK: Duration = Duration::from_secs(2);

/// Why a call to the engine failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum EngineError {
    /// The engine does not answer.
    #[error("the engine at {host} has not answered since {since:.0}: {message}")]
    Unavailable {
        /// Where it is.
        host: String,
        /// Since when, by our clock.
        since: Timestamp,
        /// What came instead of an answer.
        message: String,
    },
    /// The engine is older than API 1.41.
    #[error("the engine at {host} speaks API {version}; 1.41 (engine 20.10) is the oldest that will do")]
    TooOld {
        /// Where it is.
        host: String,
        /// What it speaks.
        version: String,
    },
    /// There is no such thing.
    #[error("{what}: {message}")]
    Missing {
        /// What was tried.
        what: &'static str,
        /// What the engine says.
        message: String,
    },
    /// It is there already, or is being changed.
    #[error("{what}: {message}")]
    Conflict {
        /// What was tried.
        what: &'static str,
        /// What the engine says.
        message: String,
    },
    /// The engine says no, or fails at it.
    #[error("{what}: {message}")]
    Refused {
        /// What was tried.
        what: &'static str,
        /// What the engine says.
        message: String,
    },
    /// The image is not there and cannot be had.
    #[error("image {image}: {message}")]
    Image {
        /// The image.
        image: String,
        /// Why.
        message: String,
    },
    /// A file that executions need cannot be read here.
    #[error("{path} cannot be read: {message}")]
    File {
        /// Its path.
        path: String,
        /// Why.
        message: String,
    },
    /// This controller does not decide any more.
    #[error("the lease is not held any more")]
    NotPermitted,
}

impl EngineError {
    /// The reason that the status gives.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Unavailable { .. } => Reason::EngineUnavailable,
            Self::Image { .. } => Reason::ImageMissing,
            Self::NotPermitted => Reason::InProgress,
            _ => Reason::EngineRefuses,
        }
    }
}

impl From<EngineError> for ExecutorError {
    fn from(error: EngineError) -> Self {
        let retry = !matches!(error, EngineError::TooOld { .. });
        Self { message: error.to_string(), retry, reason: error.reason() }
    }
}

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
    pub async fn client(&self) -> Result<Docker, EngineError> {
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
            return Err(EngineError::TooOld { host: self.settings.host.clone(), version });
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
    pub async fn call<T, F>(&self, what: &'static str, call: impl FnOnce(Docker) -> F) -> Result<T, EngineError>
    where
        F: Future<Output = Result<T, Error>>,
    {
        self.call_for(what, Duration::ZERO, call).await
    }

    /// Makes one call that may take `longer` than the others.
    pub async fn call_for<T, F>(&self, what: &'static str, longer: Duration, call: impl FnOnce(Docker) -> F) -> Result<T, EngineError>
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

    /// Notes a failure and says what it means.
    pub fn failed(&self, what: &'static str, error: Error) -> EngineError {
        if let Error::DockerResponseServerError { status_code, message } = error {
            // The engine answers, if only with a refusal. Another one may have taken its place, with another version.
            if status_code == 400 {
                self.state().client = None;
            }
            return match status_code {
                404 => EngineError::Missing { what, message },
                409 => EngineError::Conflict { what, message },
                _ => EngineError::Refused { what, message },
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
        EngineError::Unavailable { host: self.settings.host.clone(), since, message }
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

/// An error with what caused it: the outermost of hyper's says nothing.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let more = inner.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = inner.source();
    }
    text
}
