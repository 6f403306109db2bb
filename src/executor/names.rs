//! Names and labels of what executors make outside of this process: containers, volumes, Deployments. Pure.
//!
//! A name is for people and for its uniqueness; who owns something, and what it is, stand in its labels alone. Two ids
//! that look alike in lower case differ by the hash over installation and id.

use crate::pipeline::id::PipelineId;
use crate::pipeline::spec::{ExecutionSpec, Fingerprint, hex};
use sha2::{Digest, Sha256};

/// The installation that made it; nothing without this label is ever touched.
pub const INSTALLATION: &str = "sluice/installation";
/// The namespace, for people.
pub const NAMESPACE: &str = "sluice/namespace";
/// The pipeline.
pub const ID: &str = "sluice/id";
/// The config's version.
pub const VERSION: &str = "sluice/version";
/// The execution's fingerprint, whole.
pub const FINGERPRINT: &str = "sluice/fingerprint";
/// Which of the execution's replicas, from 0; other words for what is no execution.
pub const EXECUTION: &str = "sluice/execution";
/// The epoch of the holder that made it: which of the controllers that had the lease, one after the other, it was. For people
/// and other tools, as a label, which cannot be changed and does not follow a takeover; an annotation of a Deployment, which does.
pub const EPOCH: &str = "sluice/epoch";
/// A hash of the target: executions with different ones never run at the same time.
pub const TARGET: &str = "sluice/target";

/// The value of [`EXECUTION`] of what only carries files into a volume.
pub const LOADER: &str = "loader";
/// The value of [`EXECUTION`] of what says that an execution's volume is not filled yet.
pub const FILLING: &str = "filling";

/// The longest readable part of a name.
const SLUG: usize = 30;

/// `sluice-{slug30}-{sha8 of installation/id}`: what all that belongs to a pipeline is called at first.
pub fn pipeline_name(installation: uuid::Uuid, id: &PipelineId) -> String {
    let slug: String = id.as_str().to_lowercase().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(SLUG).collect();
    let hash = Sha256::digest(format!("{installation}/{id}"));
    format!("sluice-{}-{}", slug.trim_matches('-'), hex(&hash[..4]))
}

/// The pipeline's name with the fingerprint's first eight digits: what belongs to one execution.
pub fn execution_name(installation: uuid::Uuid, id: &PipelineId, fingerprint: &Fingerprint) -> String {
    format!("{}-{}", pipeline_name(installation, id), fingerprint.short())
}

/// The name of one replica.
pub fn replica_name(spec: &ExecutionSpec, replica: u32) -> String {
    format!("{}-{replica}", execution_name(spec.installation, &spec.id, &spec.fingerprint))
}

/// A hash of what never runs at the same time as another: the target, and how often it changed. Short enough for a label.
pub fn target_hash(spec: &ExecutionSpec) -> String {
    hex(&Sha256::digest(format!("{}#{}", spec.target, spec.moves))[..8])
}

/// The labels of something that belongs to `spec`; `execution` is a replica's number or [`LOADER`].
pub fn labels(spec: &ExecutionSpec, execution: &str) -> Vec<(&'static str, String)> {
    vec![
        (INSTALLATION, spec.installation.to_string()),
        (NAMESPACE, spec.namespace.to_string()),
        (ID, spec.id.to_string()),
        (VERSION, spec.version.to_string()),
        (FINGERPRINT, spec.fingerprint.to_string()),
        (TARGET, target_hash(spec)),
        (EXECUTION, execution.to_owned()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(id: &str) -> String {
        pipeline_name(uuid::Uuid::nil(), &PipelineId::parse(id).unwrap())
    }

    #[test]
    fn a_name_never_changes_between_releases() {
        assert_eq!(name("Metrics_1"), "sluice-metrics-1-c7de7998");
        let fingerprint = Fingerprint("0123456789abcdef".into());
        let id = PipelineId::parse("a").unwrap();
        assert!(execution_name(uuid::Uuid::nil(), &id, &fingerprint).ends_with("-01234567"));
    }

    proptest::proptest! {
        #[test]
        fn every_id_makes_a_name_that_engines_take_and_no_other_id_makes(
            a in "[A-Za-z0-9]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?", b in "[A-Za-z0-9]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?"
        ) {
            proptest::prop_assume!(a != "states" && b != "states");
            let valid = |name: &str| name.len() <= 50 && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
            proptest::prop_assert!(valid(&name(&a)), "{}", name(&a));
            proptest::prop_assert!(a == b || name(&a) != name(&b));
        }
    }
}
