//! Why something in a cluster failed, and what that means to whoever reads the status.

use crate::executor::ExecutorError;
use crate::executor::driver::Fault;
use crate::pipeline::status::Reason;
use jiff::Timestamp;
use kube::core::Status;

/// The cause of a conflict with another field manager, in the answer's details.
const FIELD_CONFLICT: &str = "FieldManagerConflict";

/// Why a call to the cluster failed.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// There is no way to reach a cluster.
    #[error("no cluster is known: {message}")]
    Unknown {
        /// What is missing.
        message: String,
    },
    /// The API server does not answer.
    #[error("the API server {server} has not answered since {since:.0}: {message}")]
    Unavailable {
        /// Its address.
        server: String,
        /// Since when, by our clock.
        since: Timestamp,
        /// What came instead of an answer.
        message: String,
    },
    /// There is no such object.
    #[error("{what}: {message}")]
    Missing {
        /// What was tried.
        what: &'static str,
        /// What the cluster says.
        message: String,
    },
    /// The object was changed since it was looked at.
    #[error("{what}: {message}")]
    Stale {
        /// What was tried.
        what: &'static str,
        /// What the cluster says.
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
    /// The cluster says no.
    #[error("{what}: {message}")]
    Refused {
        /// What was tried.
        what: &'static str,
        /// What the cluster says.
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

impl ClusterError {
    /// What an answer of the API server to `what` means.
    pub fn refused(what: &'static str, status: &Status) -> Self {
        let message = status.message.clone();
        let causes = status.details.as_ref().map_or(&[][..], |details| &details.causes);
        match status.code {
            404 => Self::Missing { what, message },
            409 if causes.iter().any(|cause| cause.reason == FIELD_CONFLICT) => Self::FieldConflict { what, message },
            409 => Self::Stale { what, message },
            _ => Self::Refused { what, message },
        }
    }
}

impl Fault for ClusterError {
    fn reason(&self) -> Reason {
        match self {
            Self::Unknown { .. } | Self::Unavailable { .. } => Reason::EngineUnavailable,
            Self::FieldConflict { .. } => Reason::FieldConflict,
            Self::Foreign { .. } => Reason::ObjectForeign,
            Self::NotPermitted | Self::Stale { .. } => Reason::InProgress,
            Self::Missing { .. } | Self::Refused { .. } | Self::File { .. } => Reason::EngineRefuses,
        }
    }

    fn is_over(&self) -> bool {
        matches!(self, Self::NotPermitted)
    }
}

impl From<ClusterError> for ExecutorError {
    fn from(error: ClusterError) -> Self {
        Self { message: error.to_string(), retry: true, reason: error.reason() }
    }
}
