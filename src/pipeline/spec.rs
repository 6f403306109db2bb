//! The execution spec: everything an executor needs to know about one execution, serializable and free of secrets.
//!
//! The same spec starts a task, a container or a Deployment; docker and kubernetes only render it.

use super::id::{Namespace, PipelineId, VersionName};
use super::moves::{Previous, Series};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fmt;

/// Where documents end up. Two specs with different targets never run at the same time (see [`super::moves`]). No credentials in it: a
/// changed password moves nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct Target {
    /// The hosts of the MongoDB connection, sorted, `host:port`.
    pub hosts: Vec<String>,
    /// Database.
    pub database: String,
    /// Collection.
    pub collection: String,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}.{}", self.hosts.join(","), self.database, self.collection)
    }
}

/// A hash of what makes an execution differ; equal fingerprints need no restart.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Fingerprint(pub String);

impl Fingerprint {
    /// The first eight hex digits, as names and labels use them.
    pub fn short(&self) -> &str {
        self.0.get(..8).unwrap_or(&self.0)
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What one execution is to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ExecutionSpec {
    /// The format of this document: 1.
    pub schema: u32,
    /// The installation it belongs to.
    pub installation: uuid::Uuid,
    /// The namespace.
    pub namespace: Namespace,
    /// The pipeline.
    pub id: PipelineId,
    /// The config's version.
    pub version: VersionName,
    /// The config's digest as the Object Store states it, `SHA-256=…`.
    pub digest: String,
    /// The stream to read.
    pub stream: String,
    /// The durable to read it by.
    pub consumer: String,
    /// Where documents go.
    pub target: Target,
    /// The connection of the settings by which they go there; the config names it.
    #[serde(default)]
    pub connection: String,
    /// The fields of a time-series collection; the config names them. `None` for a normal one.
    #[serde(default)]
    pub series: Option<Series>,
    /// How many target changes there were. Part of the fingerprint: an execution of a target that was left and chosen again
    /// is another one, since it has to look into the target between. Two specs with different numbers never run at the same
    /// time.
    #[serde(default)]
    pub moves: u32,
    /// Where documents went before, while the stream may hold messages that lie there already. Not part of the fingerprint:
    /// it is forgotten while the execution runs, which needs no restart for that.
    #[serde(default)]
    pub previous: Vec<Previous>,
    /// How many of it run, where the executor has replicas. Not part of the fingerprint.
    pub replicas: u32,
    /// Whether this config has stored a document before, so that single documents may be dead-lettered. Not part of
    /// the fingerprint.
    pub proven: bool,
    /// Hash of the settings that matter to an execution (addresses, not secrets).
    pub settings_digest: String,
    /// Hash over all of the above that makes an execution differ.
    pub fingerprint: Fingerprint,
}

impl ExecutionSpec {
    /// Whether an execution of this may run while one of `other` does: never where their targets differ, nor where the
    /// target was left in between, since what went elsewhere meanwhile is looked up by the newer one alone.
    pub fn may_overlap(&self, other: &Self) -> bool {
        self.target == other.target && self.moves == other.moves
    }

    /// Computes the fingerprint from the other fields and sets it: SHA-256 over length-prefixed fields. `image` is the
    /// container image, empty in-process. Frozen by a golden vector: a release that changed it would restart every
    /// execution of every installation at once.
    pub fn seal(mut self, image: &str) -> Self {
        let mut hash = Sha256::new();
        for field in [
            "sluice-fingerprint-1",
            self.namespace.as_str(),
            self.id.as_str(),
            self.version.as_str(),
            &self.digest,
            &self.stream,
            &self.consumer,
            &self.target.to_string(),
            &self.settings_digest,
            image,
        ] {
            hash.update((field.len() as u64).to_be_bytes());
            hash.update(field.as_bytes());
        }
        // Without a target change the fingerprint is what it was before there were any.
        if self.moves > 0 {
            hash.update(self.moves.to_be_bytes());
        }
        self.fingerprint = Fingerprint(hex(&hash.finalize()[..16]));
        self
    }
}

/// Lowercase hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    use fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing into a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
pub(in crate::pipeline) mod tests {
    use super::*;

    /// A spec like any other, for tests that change what matters to them.
    pub(in crate::pipeline) fn spec() -> ExecutionSpec {
        ExecutionSpec {
            schema: 1,
            installation: uuid::Uuid::nil(),
            namespace: Namespace::parse("alpha").unwrap(),
            id: PipelineId::parse("metrics").unwrap(),
            version: VersionName::parse("1-0a0b0c0d").unwrap(),
            digest: "SHA-256=abc".into(),
            stream: "alpha_metrics".into(),
            consumer: "default".into(),
            target: Target { hosts: vec!["localhost:27017".into()], database: "example".into(), collection: "metrics".into() },
            connection: "default".into(),
            series: None,
            moves: 0,
            previous: Vec::new(),
            replicas: 1,
            proven: false,
            settings_digest: "s".into(),
            fingerprint: Fingerprint(String::new()),
        }
        .seal("")
    }

    #[test]
    fn a_fingerprint_never_changes_between_releases() {
        assert_eq!(spec().fingerprint.0, "408026a179d0b136f70e1fe1c7d1a252");
    }

    #[test]
    fn a_spec_of_an_earlier_release_is_read() {
        let mut old = serde_json::to_value(spec()).unwrap();
        for field in ["connection", "series", "moves", "previous"] {
            old.as_object_mut().unwrap().remove(field);
        }
        let read: ExecutionSpec = serde_json::from_value(old).unwrap();
        assert_eq!(read, ExecutionSpec { connection: String::new(), ..spec() });
    }

    #[test]
    fn replicas_proof_and_a_previous_target_that_is_forgotten_do_not_restart_an_execution() {
        let mut other = spec();
        other.replicas = 5;
        other.proven = true;
        other.previous = vec![Previous {
            place: super::super::moves::Home::of(&other).place,
            stream: "alpha_metrics".into(),
            created: None,
            up_to: 7,
            until: jiff::Timestamp::MAX,
        }];
        assert_eq!(other.seal("").fingerprint, spec().fingerprint);
    }

    #[test]
    fn two_targets_never_overlap_nor_does_one_that_was_left_meanwhile() {
        let (version, mut other, again) = (ExecutionSpec { digest: "x".into(), ..spec() }, spec(), ExecutionSpec { moves: 2, ..spec() });
        other.target.collection = "other".into();
        assert!(version.may_overlap(&spec()) && !other.may_overlap(&spec()) && !again.may_overlap(&spec()));
    }

    #[test]
    fn every_other_field_makes_an_execution_differ() {
        let change: [fn(&mut ExecutionSpec); 7] = [
            |s| s.moves += 1,
            |s| s.version = VersionName::parse("2").unwrap(),
            |s| s.digest.push('x'),
            |s| s.stream.push('x'),
            |s| s.consumer.push('x'),
            |s| s.target.collection.push('x'),
            |s| s.settings_digest.push('x'),
        ];
        for change in change {
            let mut other = spec();
            change(&mut other);
            assert_ne!(other.seal("").fingerprint, spec().fingerprint);
        }
    }
}
