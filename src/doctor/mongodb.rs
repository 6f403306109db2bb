//! MongoDB, as `sluice doctor` sees it: each connection's server, and each pipeline's collection.
//!
//! Changes nothing: that single measurements can be deleted is tried with a delete that matches nothing.

use super::Finding;
use crate::collector::sink::{Databases, Deployment, Product, ServerFacts, Sharding};
use crate::pipeline::spec::ExecutionSpec;
use crate::pipeline::status::Reason;

/// From this major version on MongoDB has time-series collections.
const TIME_SERIES: u32 = 5;

/// The server of the connection `name`.
pub(super) async fn connection(databases: &Databases, name: &str) -> Finding {
    let about = format!("mongodb {name}");
    let database = match databases.get(name).await {
        Ok(database) => database,
        Err(error) => return Finding::wrong(about, error.to_string(), "correct `mongodb.connections` in the settings"),
    };
    match database.facts().await {
        Ok(facts) => judge(about, &facts),
        Err(failure) => {
            let remedy = failure.remedy().unwrap_or("start the server, or correct `mongodb.connections` in the settings");
            Finding::wrong(about, failure.message, remedy)
        }
    }
}

fn judge(about: String, facts: &ServerFacts) -> Finding {
    let server = format!("{} {}", facts.product.as_str(), facts.version);
    match (facts.product, facts.deployment, facts.major()) {
        (Product::MongoDb, Deployment::Standalone, _) => Finding::doubtful(
            about,
            format!("{server} is a single server: what it confirms is lost with it"),
            "run a replica set; with one member too, so that it can grow",
        ),
        (Product::MongoDb, _, major) if major < TIME_SERIES => {
            Finding::doubtful(about, format!("{server} has no time-series collections"), "upgrade to 7.0 if you need them")
        }
        (Product::MongoDb, ..) if !facts.deletes_measurements() => Finding::doubtful(
            about,
            format!("{server} cannot delete single measurements: time-series collections are at least once"),
            "upgrade to 7.0 if that matters to you",
        ),
        (Product::MongoDb, Deployment::Sharded, _) => Finding::good(about, format!("{server}, sharded")),
        (Product::MongoDb, ..) => Finding::good(about, format!("{server}, replica set")),
        (..) => Finding::doubtful(
            about,
            format!("{server} is not MongoDB: normal collections work; it has no time-series collections, or they were not tried"),
            "use normal collections; what it confirms with `w: majority, j: true` is as safe as the server makes it",
        ),
    }
}

/// What is to be said of a pipeline's collection. That the server is away is said of the connection.
pub(super) async fn target(databases: &Databases, spec: &ExecutionSpec, about: &str) -> Vec<Finding> {
    let Ok(database) = databases.get(&spec.connection).await else { return Vec::new() };
    let sharding = database.sharding(&spec.target).await;
    let mut findings: Vec<Finding> = sharding
        .ok()
        .and_then(|sharding| judge_target(about, &spec.target.to_string(), spec.series.is_some(), &sharding))
        .into_iter()
        .collect();
    let keeping = database.keeping(&spec.target).await.map(|keeping| keeping.deletes(&spec.target, None)).unwrap_or_default();
    findings.extend(keeping.into_iter().map(|message| Finding::doubtful(about, message, Reason::TargetUnsafe.remedy())));
    if let Some(series) = &spec.series
        && let Ok(false) = database.repairs(&spec.target, series).await
    {
        let message = format!("{} does not let single measurements be deleted: they are stored at least once", spec.target);
        findings.push(Finding::doubtful(about, message, Reason::AtLeastOnce.remedy()));
    }
    findings
}

fn judge_target(about: &str, target: &str, series: bool, sharding: &Sharding) -> Option<Finding> {
    let id_remedy = "nothing where payloads have no `_id`; else shard it by `_id` (hashed), or make equal ones carry equal shard keys";
    match (series, sharding) {
        (_, Sharding::Whole) => None,
        (true, _) => Some(Finding::doubtful(
            about,
            format!(
                "{target} is or may be a sharded time-series collection: should it be dropped under load, up to 2 s of measurements go into a normal one"
            ),
            "pause the pipeline before you drop it; should it have happened, the status says so, and nothing is deleted",
        )),
        (false, sharding) => match (sharding.ids_are_unique(), sharding) {
            (Some(true), _) => None,
            (_, Sharding::By(key)) if !key.is_empty() => Some(Finding::doubtful(
                about,
                format!("{target} is sharded by {}: an `_id` that a payload brings is unique on each shard only", key.join(", ")),
                id_remedy,
            )),
            _ => Some(Finding::doubtful(
                about,
                format!(
                    "{target} may be sharded by another field than `_id`: an `_id` that a payload brings is then unique on each shard only"
                ),
                id_remedy,
            )),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    #[test]
    fn old_servers_single_ones_and_those_that_are_not_mongodb_are_doubtful() {
        let verdict =
            |product, version: &str, deployment| judge("m".into(), &ServerFacts { product, version: version.into(), deployment }).verdict;
        assert_eq!(verdict(Product::MongoDb, "8.0.1", Deployment::ReplicaSet), Verdict::Good);
        assert_eq!(verdict(Product::MongoDb, "8.0.1", Deployment::Sharded), Verdict::Good);
        assert_eq!(verdict(Product::MongoDb, "8.0.1", Deployment::Standalone), Verdict::Doubtful);
        assert_eq!(verdict(Product::MongoDb, "6.0.1", Deployment::ReplicaSet), Verdict::Doubtful);
        assert_eq!(verdict(Product::MongoDb, "4.4.0", Deployment::Sharded), Verdict::Doubtful);
        assert_eq!(verdict(Product::FerretDb, "7.0.42", Deployment::Standalone), Verdict::Doubtful);
    }

    #[test]
    fn an_id_that_is_unique_on_each_shard_only_is_named_with_the_shard_key() {
        let said = |series, sharding| judge_target("p", "h/d.c", series, &sharding).map(|finding| finding.message);
        assert_eq!(said(false, Sharding::Whole), None);
        assert_eq!(said(false, Sharding::By(vec!["_id".into()])), None);
        let by_device = said(false, Sharding::By(vec!["device".into()])).unwrap();
        assert!(by_device.contains("sharded by device") && by_device.contains("unique on each shard only"), "{by_device}");
        assert!(said(false, Sharding::Hidden).unwrap().contains("may be sharded"));
        assert!(said(true, Sharding::By(Vec::new())).unwrap().contains("dropped"));
        assert_eq!(said(true, Sharding::Whole), None);
    }
}
