//! Reads a pipeline's config from the Object Store, checks it, and keeps the last good one of each pipeline, so that the
//! controller that validates a version and the execution that runs it read it once.
//!
//! The cache is keyed by digest: an object that was overwritten in place is another config.

use crate::pipeline::config::{self, LintContext, PipelineConfig};
use crate::pipeline::id::{PipelineId, VersionName};
use crate::pipeline::names::Names;
use crate::pipeline::problem::{Problem, Severity, has_errors};
use crate::pipeline::status::Reason;
use crate::store::{Configs, StoreError, StoreErrorKind, error::Unfit};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Why a version cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It cannot be read.
    #[error("{0}")]
    Store(#[from] StoreError),
    /// It does not pass lint.
    #[error("{}", first_of(.0))]
    Invalid(Vec<Problem>),
    /// It is not the object that was meant.
    #[error("the stored object has the digest {found}, not {wanted}")]
    Differs {
        /// The object's digest.
        found: String,
        /// The digest that the entry or the spec names.
        wanted: String,
    },
}

fn first_of(problems: &[Problem]) -> String {
    let errors: Vec<_> = problems.iter().filter(|problem| problem.severity == Severity::Error).collect();
    let more = errors.len().saturating_sub(1);
    let first = errors.first().map_or_else(String::new, ToString::to_string);
    if more > 0 { format!("{first} (and {more} more)") } else { first }
}

impl ConfigError {
    /// The reason that the status gives.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Invalid(_) => Reason::ConfigInvalid,
            Self::Differs { .. } => Reason::DigestDiffers,
            Self::Store(error) => match error.kind() {
                StoreErrorKind::Missing => Reason::VersionMissing,
                StoreErrorKind::Unfit(Unfit::TooLarge) => Reason::ConfigTooLarge,
                StoreErrorKind::Unfit(Unfit::Link) => Reason::ConfigIsLink,
                StoreErrorKind::Unfit(_) => Reason::DigestMismatch,
                StoreErrorKind::Unavailable | StoreErrorKind::Conflict | StoreErrorKind::Refused => Reason::NatsUnavailable,
            },
        }
    }

    /// Whether the same read can succeed later without anybody changing anything.
    pub fn retry(&self) -> bool {
        matches!(self, Self::Store(error) if error.retry())
    }
}

/// A config that passed lint.
#[derive(Debug, Clone)]
pub struct CheckedConfig {
    /// The config.
    pub config: Arc<PipelineConfig>,
    /// Its digest.
    pub digest: String,
    /// What lint warned of.
    pub warnings: Arc<[Problem]>,
}

/// Reads and checks configs; shared by everything in a process.
#[derive(Clone)]
pub struct ConfigReader {
    configs: Configs,
    names: Names,
    connections: Arc<[String]>,
    cache: Arc<Mutex<HashMap<PipelineId, Cached>>>,
}

/// A config that was read, and the revision of the object that it came from.
struct Cached {
    version: VersionName,
    revision: u64,
    checked: CheckedConfig,
}

impl ConfigReader {
    /// A reader with an empty cache. `connections` are the names in the settings that configs may use.
    pub fn new(configs: Configs, names: Names, connections: Vec<String>) -> Self {
        Self { configs, names, connections: connections.into(), cache: Arc::default() }
    }

    /// The version of `id`, checked; from the cache without a question only where it has the digest `wanted`, else only
    /// where the object is still the same.
    pub async fn read(&self, id: &PipelineId, version: &VersionName, wanted: Option<&str>) -> Result<CheckedConfig, ConfigError> {
        let cached = self.cached(id, version);
        if let Some((_, checked)) = cached.as_ref().filter(|(_, checked)| wanted == Some(checked.digest.as_str())) {
            return Ok(checked.clone());
        }
        let stored = match cached.filter(|_| wanted.is_none()) {
            Some((revision, checked)) => match self.configs.get_other(id, version, (revision, &checked.digest)).await? {
                Some(stored) => stored,
                None => return Ok(checked),
            },
            None => self.configs.get(id, version).await?,
        };
        if let Some(wanted) = wanted.filter(|wanted| *wanted != stored.digest) {
            return Err(ConfigError::Differs { found: stored.digest, wanted: wanted.to_owned() });
        }
        let context = LintContext { names: Some(self.names.clone()), id: Some(id.clone()), connections: Some(self.connections.to_vec()) };
        let (config, problems) = config::lint(&format!("{id}/{version}"), &stored.bytes, &context);
        let Some(config) = config.filter(|_| !has_errors(&problems)) else {
            return Err(ConfigError::Invalid(problems));
        };
        let checked = CheckedConfig { config: Arc::new(config), digest: stored.digest, warnings: problems.into() };
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        cache.insert(id.clone(), Cached { version: version.clone(), revision: stored.revision, checked: checked.clone() });
        Ok(checked)
    }

    fn cached(&self, id: &PipelineId, version: &VersionName) -> Option<(u64, CheckedConfig)> {
        let cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        let cached = cache.get(id).filter(|cached| cached.version == *version)?;
        Some((cached.revision, cached.checked.clone()))
    }

    /// Drops what is cached of `id`, because the pipeline is gone.
    pub fn forget(&self, id: &PipelineId) {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
    }
}
