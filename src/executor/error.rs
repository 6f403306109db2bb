//! Why a call to what makes executions (a Docker engine, a cluster) failed, and what that means to whoever reads the status.
//! One list for all backends whose executions outlive this process: what drivers and the controller do about it is the same.

use super::ExecutorError;
use crate::pipeline::status::Reason;
use jiff::Timestamp;

/// Why a call to an engine or a cluster failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum BackendError {
    /// There is no way to reach a cluster.
    #[error("no cluster is known: {message}")]
    Unknown {
        /// What is missing.
        message: String,
    },
    /// It does not answer.
    #[error("{who} has not answered since {since:.0}: {message}")]
    Unavailable {
        /// What does not, and where it is.
        who: String,
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
        /// What came back.
        message: String,
    },
    /// It is there already, or is being changed.
    #[error("{what}: {message}")]
    Conflict {
        /// What was tried.
        what: &'static str,
        /// What came back.
        message: String,
    },
    /// It was changed since it was looked at.
    #[error("{what}: {message}")]
    Stale {
        /// What was tried.
        what: &'static str,
        /// What came back.
        message: String,
    },
    /// Another field manager has set a field that we set.
    #[error("{what}: {message}")]
    FieldConflict {
        /// What was tried.
        what: &'static str,
        /// Which fields, and who.
        message: String,
    },
    /// An object of the name that ours would have belongs to somebody else.
    #[error("{kind} {name} is not of this installation")]
    Foreign {
        /// Its kind.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// The answer is no, or it fails at it.
    #[error("{what}: {message}")]
    Refused {
        /// What was tried.
        what: &'static str,
        /// What came back.
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

impl BackendError {
    /// The reason that the status gives.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Unknown { .. } | Self::Unavailable { .. } => Reason::EngineUnavailable,
            Self::Image { .. } => Reason::ImageMissing,
            Self::FieldConflict { .. } => Reason::FieldConflict,
            Self::Foreign { .. } => Reason::ObjectForeign,
            Self::NotPermitted | Self::Stale { .. } => Reason::InProgress,
            Self::TooOld { .. } | Self::Missing { .. } | Self::Conflict { .. } | Self::Refused { .. } | Self::File { .. } => {
                Reason::EngineRefuses
            }
        }
    }
}

impl From<BackendError> for ExecutorError {
    fn from(error: BackendError) -> Self {
        let retry = !matches!(error, BackendError::TooOld { .. });
        Self { message: error.to_string(), retry, reason: error.reason() }
    }
}
