//! `sluice status [ID] [--watch]`: what a pipeline should do, what it does, what waits, and what to do about what is
//! wrong.
//!
//! `--output json` prints one [`View`], or an array of them without an id; with `--watch` one line of JSON each second.

use super::conditions::condition_lines;
use super::context::Context;
use super::facts::{Facts, dead_letters};
use super::failure::Failure;
use super::list::{EntryView, Overview, is_trouble, notes, overviews};
use super::output::Tone;
use crate::pipeline::id::PipelineId;
use crate::pipeline::instance::Instance;
use crate::pipeline::report::{Counters, EffectiveLimits};
use crate::pipeline::status::Condition;
use crate::store::{Operation, Store, StoreErrorKind};
use clap::Args;
use futures_util::{StreamExt, TryStreamExt, stream};
use jiff::Timestamp;
use serde::Serialize;
use std::collections::HashMap;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Between the two samples that a rate needs, and between the pictures of `--watch`.
const SAMPLE: Duration = Duration::from_secs(1);
/// Streams that are asked at the same time.
const AT_ONCE: usize = 32;

#[derive(Debug, Args)]
pub struct StatusArgs {
    /// The pipeline; all of them without it
    id: Option<PipelineId>,
    /// Show it again every second
    #[arg(long, short)]
    watch: bool,
}

/// One pipeline in `--output json`.
#[derive(Debug, Serialize)]
pub struct View {
    /// The pipeline.
    id: String,
    /// Its name for people.
    name: Option<String>,
    /// What the entry asks for.
    entry: EntryView,
    /// `pending`, `running`, `starting`, `blocked`, `switching`, `draining`, `stopping`, `stopped` or `absent`.
    state: &'static str,
    /// The version that runs.
    version: Option<String>,
    /// Live executions.
    executions: u32,
    /// Of them, those that stand by: one alone reads the stream of a time-series pipeline.
    standby: u32,
    /// Messages not acknowledged yet; `null` where there is no stream.
    lag: Option<u64>,
    /// Age of the oldest of them.
    oldest_unacknowledged_seconds: Option<f64>,
    /// Messages a second that were worked off.
    rate: Option<f64>,
    /// Dead letters that lie in the stream.
    dead_letters: u64,
    /// Counters of the live executions.
    counters: Counters,
    /// Limits in force.
    limits: EffectiveLimits,
    /// The containers, where there are any.
    containers: Vec<Instance>,
    /// The conditions, each with its remedy.
    conditions: Vec<ConditionView>,
    /// When the controller wrote the status.
    updated: Option<Timestamp>,
    /// Whether a controller holds the lease; where none does, all but lag, rate and dead letters may be out of date.
    controller: bool,
}

#[derive(Debug, Serialize)]
struct ConditionView {
    #[serde(flatten)]
    condition: Condition,
    remedy: String,
}

struct Sample {
    at: Instant,
    facts: HashMap<String, Facts>,
}

/// `sluice status`.
pub async fn status(context: &Context, args: StatusArgs) -> Result<(), Failure> {
    let store = context.connect().await?;
    let mut previous = sample(context, &store, &chosen(context, &store, args.id.as_ref()).await?).await?;
    loop {
        sleep(SAMPLE).await;
        let all = chosen(context, &store, args.id.as_ref()).await?;
        let now = sample(context, &store, &all).await?;
        let dead = dead_letters(context, &store, args.id.as_ref()).await?;
        let controller = match store.lease.current().await {
            Err(error) if error.kind() == StoreErrorKind::Missing => false,
            result => result?.is_some(),
        };
        let mut views: Vec<View> = all.into_iter().map(|(id, overview)| view(id, overview, &previous, &now, &dead)).collect();
        views.iter_mut().for_each(|view| view.controller = controller);
        show(context, &views, &args)?;
        if !args.watch {
            return Ok(());
        }
        previous = now;
    }
}

/// The pipelines to show; a named one must be there.
async fn chosen(context: &Context, store: &Store, id: Option<&PipelineId>) -> Result<Vec<(String, Overview)>, Failure> {
    let Some(id) = id else {
        let all: Vec<_> = overviews(store).await?.into_iter().collect();
        if all.is_empty() {
            context.must_be_installed(store).await?;
        }
        return Ok(all);
    };
    let record = context.record(store, id).await?;
    let status = match store.status.get(id).await {
        Err(error) if error.kind() == StoreErrorKind::Missing => None,
        result => result?.map(|record| record.status),
    };
    if status.is_none() && record.as_ref().is_none_or(|record| record.operation != Operation::Put) {
        return Err(context.no_pipeline(id));
    }
    Ok(vec![(id.to_string(), Overview { record, status })])
}

async fn sample(context: &Context, store: &Store, all: &[(String, Overview)]) -> Result<Sample, Failure> {
    let asked = all.iter().filter_map(|(key, overview)| Some((PipelineId::parse(key).ok()?, overview)));
    let facts = stream::iter(asked)
        .map(|(id, overview)| async move {
            let facts = Facts::of(context, store, &id, overview.status.as_ref()).await?;
            Ok::<_, Failure>((id.to_string(), facts))
        })
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await?;
    Ok(Sample { at: Instant::now(), facts })
}

fn view(id: String, overview: Overview, previous: &Sample, now: &Sample, dead: &HashMap<String, u64>) -> View {
    let facts = now.facts.get(&id).copied().unwrap_or_default();
    let seconds = now.at.duration_since(previous.at).as_secs_f64();
    let rate = previous.facts.get(&id).and_then(|earlier| facts.rate(earlier, seconds));
    let (name, entry, state) = (overview.name(), overview.entry(), overview.state().0);
    let observed = overview.status.as_ref().map(|status| status.observed.clone()).unwrap_or_default();
    let updated = overview.status.as_ref().map(|status| status.updated);
    let named = overview.status.as_ref().and_then(|status| status.desired.version.clone());
    let conditions = overview.status.map(|status| status.conditions).unwrap_or_default();
    let remedied = |condition: Condition| ConditionView { remedy: condition.reason.remedy_for(&id, named.as_deref()), condition };
    let conditions = conditions.into_iter().map(remedied).collect();
    View {
        name,
        entry,
        state,
        version: observed.version,
        executions: observed.executions,
        standby: observed.standby,
        lag: facts.lag,
        oldest_unacknowledged_seconds: facts.oldest.map(|oldest| age(oldest).as_secs_f64()),
        rate,
        dead_letters: dead.get(&id).copied().unwrap_or(0),
        counters: observed.counters,
        limits: observed.limits,
        containers: observed.instances,
        conditions,
        updated,
        controller: false,
        id,
    }
}

fn show(context: &Context, views: &[View], args: &StatusArgs) -> Result<(), Failure> {
    let out = &context.out;
    match (out.is_json(), args.watch, views) {
        (true, true, [view]) if args.id.is_some() => out.json_line(view),
        (true, true, _) => out.json_line(&views),
        (true, false, [view]) if args.id.is_some() => out.json(view),
        (true, false, _) => out.json(&views),
        (false, watch, _) => {
            if watch {
                out.clear()?;
            }
            match views {
                [view] if args.id.is_some() => detail(context, view)?,
                [] => out.note(&format!("no pipelines in namespace '{}'", context.settings.namespace)),
                _ => table(context, views)?,
            }
            if views.iter().any(|view| !view.controller) {
                out.toned("no controller holds the lease: what is shown may be out of date (is `sluice run` running?)", Tone::Doubtful)?;
            }
            Ok(())
        }
    }
}

fn table(context: &Context, views: &[View]) -> Result<(), Failure> {
    let rows = views.iter().map(|view| {
        let conditions = || view.conditions.iter().map(|view| &view.condition);
        let trouble = conditions().filter(|condition| is_trouble(condition)).min_by_key(|condition| condition.kind);
        let dead = if view.dead_letters == 0 { Tone::Plain } else { Tone::Bad };
        vec![
            (view.id.clone(), Tone::Plain),
            (view.state.to_owned(), tone(view.state)),
            (view.version.clone().unwrap_or_default(), Tone::Plain),
            (optional(view.lag), Tone::Plain),
            (view.oldest_unacknowledged_seconds.map_or("-".into(), seconds), Tone::Plain),
            (view.rate.map_or("-".into(), |rate| format!("{rate:.0}/s")), Tone::Plain),
            (view.dead_letters.to_string(), dead),
            (trouble.map_or(String::new(), |condition| condition.reason.as_str().to_owned()), Tone::Bad),
            (notes(conditions()).join(" "), Tone::Doubtful),
        ]
    });
    context.out.table(&["id", "state", "version", "lag", "oldest", "rate", "dead", "trouble", "notes"], rows.collect())
}

fn detail(context: &Context, view: &View) -> Result<(), Failure> {
    let out = &context.out;
    let line = |label: &str, text: &str| out.parts(&[(&format!("{label:<13}"), Tone::Faint), (" ", Tone::Plain), (text, Tone::Plain)]);
    let name = view.name.as_ref().map_or(String::new(), |name| format!("  ({name})"));
    line("pipeline", &format!("{}{name}", view.id))?;
    let version = view.entry.version.as_ref().map_or(String::new(), |version| format!(" version {version}"));
    line("entry", &format!("{}{version} (revision {})", view.entry.status, view.entry.revision))?;
    let standby = if view.standby > 0 { format!(" ({} of them standing by)", view.standby) } else { String::new() };
    let running =
        view.version.as_ref().map_or(String::new(), |version| format!(" version {version}, executions: {}{standby}", view.executions));
    out.parts(&[("state         ", Tone::Faint), (view.state, tone(view.state)), (&running, Tone::Plain)])?;
    line("lag", &view.lag.map_or("no stream".into(), |lag| format!("{lag} messages")))?;
    line("oldest", &view.oldest_unacknowledged_seconds.map_or("-".into(), seconds))?;
    line("rate", &view.rate.map_or("-".into(), |rate| format!("{rate:.0} messages/s")))?;
    let counters = &view.counters;
    let since = "by the executions that run, since each began";
    line("written", &format!("{} (received {}, duplicates {}; {since})", counters.written, counters.received, counters.duplicates))?;
    line("dead letters", &view.dead_letters.to_string())?;
    for container in &view.containers {
        line("container", &container_line(container))?;
    }
    let conditions: Vec<Condition> = view.conditions.iter().map(|view| view.condition.clone()).collect();
    for (text, tone) in condition_lines(&view.id, view.entry.version.as_deref(), &conditions, true) {
        out.toned(&text, tone)?;
    }
    Ok(())
}

/// A container as a line: its name is what `docker logs` and `docker inspect` take.
fn container_line(container: &Instance) -> String {
    let since = container
        .since
        .map_or(String::new(), |since| format!(" for {}", humantime::format_duration(Duration::from_secs(age(since).as_secs()))));
    let code = container.exit_code.map_or(String::new(), |code| format!(", exit code {code}"));
    let restarts = if container.restarts > 0 { format!(", started again {} times", container.restarts) } else { String::new() };
    format!("{} {}{since}{code}{restarts}", container.name, container.state.as_str())
}

fn tone(state: &str) -> Tone {
    match state {
        "running" => Tone::Good,
        "stopped" | "absent" => Tone::Faint,
        _ => Tone::Doubtful,
    }
}

pub fn age(since: Timestamp) -> Duration {
    // A clock that runs behind the server's gives an age of zero.
    Duration::try_from(Timestamp::now().duration_since(since)).unwrap_or_default()
}

fn optional(value: Option<u64>) -> String {
    value.map_or("-".into(), |value| value.to_string())
}

fn seconds(seconds: f64) -> String {
    if seconds < 60.0 { format!("{seconds:.1}s") } else { humantime::format_duration(Duration::from_secs(seconds as u64)).to_string() }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::pipeline::id::{Namespace, VersionName};
    use crate::pipeline::spec::{ExecutionSpec, Fingerprint, Target};
    use crate::pipeline::status::{Admitted, ConditionType, DesiredSummary, Kept, ObservedSummary, Phase, PipelineStatus, Reason};

    /// The status of a pipeline that runs `version` as its entry of `revision` says.
    pub fn running(id: &str, version: &str, revision: u64) -> PipelineStatus {
        let spec = ExecutionSpec {
            schema: 1,
            installation: uuid::Uuid::nil(),
            namespace: Namespace::parse("alpha").unwrap(),
            id: PipelineId::parse(id).unwrap(),
            version: VersionName::parse(version).unwrap(),
            digest: "SHA-256=x".into(),
            stream: format!("alpha_{id}"),
            consumer: "default".into(),
            target: Target::default(),
            connection: "default".into(),
            series: None,
            moves: 0,
            previous: Vec::new(),
            replicas: 1,
            proven: true,
            settings_digest: String::new(),
            fingerprint: Fingerprint(String::new()),
        }
        .seal("");
        let (fingerprint, now) = (Some(spec.fingerprint.clone()), Timestamp::now());
        PipelineStatus {
            schema: 1,
            id: spec.id.clone(),
            epoch: 1,
            updated: now,
            desired: DesiredSummary { status: "published".into(), version: Some(version.into()), revision, ..DesiredSummary::default() },
            admitted: Admitted { phase: Phase::Run, spec: Some(spec), live_executions: 1 },
            observed: ObservedSummary { version: Some(version.into()), fingerprint, executions: 1, ..ObservedSummary::default() },
            conditions: vec![Condition { message: String::new(), ..condition(ConditionType::Ready, true, Reason::AsDesired) }],
            history: Vec::new(),
            kept: Kept::default(),
        }
    }

    /// A condition with a message.
    pub fn condition(kind: ConditionType, status: bool, reason: Reason) -> Condition {
        Condition { kind, status, reason, message: "the particulars".into(), since: Timestamp::now() }
    }

    #[test]
    fn what_is_right_or_asked_for_is_no_trouble() {
        for (kind, status, reason) in [
            (ConditionType::Ready, true, Reason::AsDesired),
            (ConditionType::Ready, false, Reason::Paused),
            (ConditionType::Ready, false, Reason::InProgress),
        ] {
            assert!(!is_trouble(&condition(kind, status, reason)), "{reason:?}");
        }
    }
}
