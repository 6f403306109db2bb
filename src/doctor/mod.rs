//! Preflight: what is unsafe, missing or too old on NATS and MongoDB, and what permissions each role needs.
//!
//! ```text
//! settings ─▶ NATS: version, buckets, lease ─▶ each pipeline's stream and durable ─┐
//!          └▶ each MongoDB connection: version, deployment ────────────────────────┴▶ findings, each with its remedy
//! ```
//!
//! Reads only, and changes nothing. Called by `sluice doctor`.

mod jetstream;
mod mongodb;
pub mod permissions;

use self::jetstream::Account;
use crate::collector::sink::Databases;
use crate::pipeline::id::PipelineId;
use crate::pipeline::status::Reason;
use crate::settings::Settings;
use crate::store::error::Unfit;
use crate::store::{Operation, PipelineStream, Store, StoreError, StoreErrorKind};
use serde::Serialize;

/// The oldest nats-server that everything here was built for.
const OLDEST_NATS: (u32, u32) = (2, 12);

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Good,
    /// Works, but may not be wanted.
    Doubtful,
    /// Does not work, or loses messages.
    Wrong,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at: `nats`, `lease`, `pipeline metrics`, `mongodb default`.
    pub about: String,
    /// How bad it is.
    pub verdict: Verdict,
    /// What was found.
    pub message: String,
    /// What to do; empty where nothing needs doing.
    pub remedy: String,
}

impl Finding {
    fn good(about: impl Into<String>, message: impl Into<String>) -> Self {
        Self { about: about.into(), verdict: Verdict::Good, message: message.into(), remedy: String::new() }
    }

    fn doubtful(about: impl Into<String>, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { about: about.into(), verdict: Verdict::Doubtful, message: message.into(), remedy: remedy.into() }
    }

    fn wrong(about: impl Into<String>, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { about: about.into(), verdict: Verdict::Wrong, message: message.into(), remedy: remedy.into() }
    }
}

/// Looks at everything that the settings name.
pub async fn examine(settings: &Settings, store: &Store) -> Vec<Finding> {
    let mut findings = vec![nats(&store.client.server_info().version)];
    findings.extend(installation(store).await);
    let (account, found) = jetstream::examine(store).await;
    findings.extend(found);
    let databases = Databases::new(&settings.mongodb);
    findings.extend(pipelines(store, &databases, &account).await);
    for name in settings.mongodb.connections.keys() {
        findings.push(mongodb::connection(&databases, name).await);
        let ignored = databases.options_without_effect(name);
        if !ignored.is_empty() {
            let message = format!("the url's options {} have no effect here", ignored.join(", "));
            findings.push(Finding::doubtful(
                format!("mongodb {name}"),
                message,
                "take them out of the url, or leave them: nothing depends on them",
            ));
        }
    }
    findings
}

fn nats(version: &str) -> Finding {
    let mut numbers = version.split(['.', '-']).map(|number| number.parse::<u32>().unwrap_or_default());
    let found = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
    if found >= OLDEST_NATS {
        return Finding::good("nats", format!("nats-server {version}"));
    }
    let (major, minor) = OLDEST_NATS;
    Finding::doubtful(
        "nats",
        format!("nats-server {version} is older than {major}.{minor}"),
        format!("upgrade nats-server to {major}.{minor} or newer; before 2.11 a target cannot be changed without overlap"),
    )
}

async fn installation(store: &Store) -> Vec<Finding> {
    let bucket = match store.entries.bucket_created().await {
        Ok(created) => Finding::good("entries", format!("bucket {} of {created}", store.names.entries())),
        Err(error) if error.kind() == StoreErrorKind::Missing => {
            let message = format!("there is no bucket {}", store.names.entries());
            // Nothing further can be there.
            return vec![Finding::doubtful("entries", message, "`sluice run` creates it; is `namespace` in the settings right?")];
        }
        Err(error) => return vec![unread("entries", &error)],
    };
    let lease = match store.lease.current().await {
        Ok(Some(holder)) => Finding::good("lease", format!("controller {} holds it, epoch {}", holder.process, holder.epoch)),
        Ok(None) => Finding::wrong("lease", "no controller holds it: no edit has an effect", "start `sluice run`"),
        Err(error) if error.kind() == StoreErrorKind::Missing => {
            Finding::wrong("lease", "no controller has ever held it", "start `sluice run`")
        }
        Err(error) => unread("lease", &error),
    };
    let mut findings = vec![bucket, lease];
    match store.unsafe_places().await {
        Ok(places) => findings.extend(places.into_iter().map(|place| {
            let message = format!("stream {} may lose what it has confirmed: {}", place.stream, place.settings.join(", "));
            Finding::wrong(place.holds, message, Reason::StreamUnsafe.remedy())
        })),
        Err(error) => findings.push(unread("the namespace's streams", &error)),
    }
    findings
}

/// The streams, durables and targets of every pipeline that has an entry.
async fn pipelines(store: &Store, databases: &Databases, account: &Account) -> Vec<Finding> {
    let entries = match store.entries.list().await {
        Ok(entries) => entries,
        Err(error) if error.kind() == StoreErrorKind::Missing => return Vec::new(),
        Err(error) => return vec![unread("entries", &error)],
    };
    let mut findings = Vec::new();
    for entry in entries.iter().filter(|entry| entry.operation == Operation::Put) {
        let about = format!("pipeline {}", entry.key);
        match PipelineId::parse(&entry.key) {
            Ok(id) => findings.extend(pipeline(store, databases, account, &id, &about).await),
            Err(error) => findings.push(Finding::wrong(about, error.to_string(), "delete the key, and put the entry under another")),
        }
    }
    findings
}

async fn pipeline(store: &Store, databases: &Databases, account: &Account, id: &PipelineId, about: &str) -> Vec<Finding> {
    // What runs may read a stream of another name than its own.
    let spec = store.status.get(id).await.ok().flatten().and_then(|record| record.status.admitted.spec);
    let (stream, consumer) = match &spec {
        Some(spec) => (spec.stream.clone(), spec.consumer.clone()),
        None => (store.names.stream(id), store.names.consumer()),
    };
    let mut findings = match store.streams.observe(id, &stream, &consumer).await {
        Ok(found) => {
            let mut refused = jetstream::creatable(store, account, id, about, &stream, found.as_ref()).await;
            match found {
                Some(found) => refused.extend(judge(about, &found, &consumer).into_iter().filter(|one| one.verdict != Verdict::Good)),
                None if refused.is_empty() => refused.push(Finding::good(about, format!("no stream {stream} yet; publishing creates it"))),
                None => {}
            }
            if refused.is_empty() {
                refused.push(Finding::good(about, format!("stream {stream} and durable {consumer} are safe")));
            }
            refused
        }
        Err(error) if error.kind() == StoreErrorKind::Unfit(Unfit::Foreign) => {
            vec![Finding::wrong(about, error.to_string(), Reason::StreamForeign.remedy())]
        }
        Err(error) => vec![unread(about, &error)],
    };
    if let Some(spec) = &spec {
        findings.extend(mongodb::target(databases, spec, about).await);
    }
    findings
}

fn judge(about: &str, stream: &PipelineStream, consumer: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    let name = &stream.name;
    if !stream.work_queue {
        let message = format!("stream {name} has no work-queue retention");
        findings.push(Finding::wrong(about, message, Reason::StreamNotWorkQueue.remedy()));
    }
    if !stream.unsafe_settings.is_empty() {
        let message = format!("stream {name} may lose what it has confirmed: {}", stream.unsafe_settings.join(", "));
        findings.push(Finding::wrong(about, message, Reason::StreamUnsafe.remedy()));
    }
    match &stream.consumer {
        None => findings.push(Finding::good(about, format!("stream {name} has no durable {consumer} yet; publishing creates it"))),
        Some(durable) if !durable.faults.is_empty() => {
            let message = format!("durable {consumer} of stream {name} cannot be read: {}", durable.faults.join("; "));
            findings.push(Finding::wrong(about, message, Reason::ConsumerUnusable.remedy()));
        }
        Some(durable) if durable.paused.is_some() => {
            let message = format!("durable {consumer} of stream {name} is paused");
            let remedy = "it goes on by itself after a change of target; else `nats consumer resume`";
            findings.push(Finding::doubtful(about, message, remedy));
        }
        Some(_) => {}
    }
    if findings.is_empty() {
        findings.push(Finding::good(about, format!("stream {name} and durable {consumer} are safe")));
    }
    findings
}

fn unread(about: impl Into<String>, error: &StoreError) -> Finding {
    Finding::wrong(about, error.to_string(), "check the account's permissions: `sluice doctor --permissions ROLE` prints what is needed")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::PipelineConsumer;
    use std::time::Duration;

    fn stream() -> PipelineStream {
        PipelineStream {
            name: "alpha_metrics".into(),
            created: jiff::Timestamp::UNIX_EPOCH,
            subjects: vec!["alpha.metrics".into()],
            ours: true,
            work_queue: true,
            unsafe_settings: Vec::new(),
            replicas: 1,
            messages: 0,
            first_time: None,
            first_sequence: 1,
            last_sequence: 0,
            consumer: Some(PipelineConsumer {
                name: "default".into(),
                waiting: 0,
                ours: true,
                faults: Vec::new(),
                ack_wait: Duration::from_secs(30),
                max_ack_pending: 1000,
                pending: 0,
                ack_pending: 0,
                paused: None,
            }),
        }
    }

    #[test]
    fn every_unsafe_setting_of_a_stream_is_named() {
        assert!(judge("p", &stream(), "default").iter().all(|finding| finding.verdict == Verdict::Good));
        let unsafe_one = PipelineStream { work_queue: false, unsafe_settings: vec!["max_age 1m".into()], ..stream() };
        let found = judge("p", &unsafe_one, "default");
        assert_eq!(found.iter().filter(|finding| finding.verdict == Verdict::Wrong).count(), 2);
        assert!(found.iter().any(|finding| finding.message.contains("max_age 1m")), "{found:?}");
    }

    #[test]
    fn an_unusable_durable_is_wrong_and_a_paused_one_doubtful() {
        let with = |change: fn(&mut PipelineConsumer)| {
            let mut stream = stream();
            change(stream.consumer.as_mut().unwrap());
            judge("p", &stream, "default")[0].verdict
        };
        assert_eq!(with(|durable| durable.faults.push("it pushes".into())), Verdict::Wrong);
        assert_eq!(with(|durable| durable.paused = Some(Duration::from_secs(60))), Verdict::Doubtful);
    }

    #[test]
    fn old_servers_are_doubtful() {
        for (version, verdict) in
            [("2.15.0", Verdict::Good), ("2.12.0-beta.1", Verdict::Good), ("2.9.10", Verdict::Doubtful), ("", Verdict::Doubtful)]
        {
            assert_eq!(nats(version).verdict, verdict, "{version}");
        }
    }
}
