//! The largest status that hostile parts can make: its size is held here, below what a server takes by default.

use super::conditions::{Facts, conditions};
use super::desire::{Desire, Finding};
use super::written::{shown, summary};
use crate::pipeline::entry::MAX_ENTRY_BYTES;
use crate::pipeline::history::remembered;
use crate::pipeline::instance::{Instance, InstanceState};
use crate::pipeline::moves::{Home, Place, Previous};
use crate::pipeline::plan::Wish;
use crate::pipeline::report::{Counters, EffectiveLimits, ExecutionPhase, ExecutionReport, Report, StreamRole, Trouble};
use crate::pipeline::spec::{ExecutionSpec, Fingerprint};
use crate::pipeline::status::{Admitted, DesiredSummary, Kept, LARGEST, Phase, PipelineStatus, Reason};
use crate::pipeline::text::{MESSAGE, NAME, bounded};
use jiff::Timestamp;

/// Every byte of it is six in JSON.
fn hostile(length: usize) -> String {
    "\u{1}".repeat(length)
}

fn spec() -> ExecutionSpec {
    let name = |length: usize| "x".repeat(length);
    let target = serde_json::json!({"hosts": [name(200), name(200), name(200)], "database": name(63), "collection": hostile(190)});
    let series = serde_json::json!({"time_field": hostile(255), "meta_field": hostile(255)});
    let mut spec: ExecutionSpec = serde_json::from_value(serde_json::json!({
        "schema": 1, "installation": uuid::Uuid::nil(), "namespace": name(32), "id": name(63), "version": name(63), "digest": name(60),
        "stream": name(255), "consumer": name(255), "target": target, "connection": name(64), "series": series,
        "replicas": 8, "proven": true, "settings_digest": name(16), "fingerprint": name(32)
    }))
    .unwrap();
    let place = Place { target: spec.target.clone(), connection: spec.connection.clone(), series: spec.series.clone() };
    let previous = Previous { place, stream: spec.stream.clone(), created: Some(Timestamp::MAX), up_to: u64::MAX, until: Timestamp::MAX };
    spec.previous = vec![previous; super::desire::MOST_PREVIOUS];
    spec
}

fn report() -> ExecutionReport {
    let troubles: Vec<_> = Reason::ALL.iter().map(|reason| Trouble { reason: *reason, message: hostile(100_000) }).collect();
    let counters = Counters { dead_lettered: u64::MAX / 2, lost_tails: 1, ..Counters::default() };
    ExecutionReport {
        id: spec().id,
        version: hostile(100_000),
        fingerprint: Fingerprint(hostile(100_000)),
        phase: ExecutionPhase::Blocked,
        advice: troubles.clone(),
        troubles,
        counters,
        role: Some(StreamRole::AtLeastOnce),
        limits: EffectiveLimits { limited: true, ..EffectiveLimits::default() },
        proven: false,
        last_pull_ms: 0,
        last_write_ms: 0,
    }
}

#[test]
fn the_largest_status_that_hostile_parts_make_stays_below_its_bound() {
    let all = || Reason::ALL.iter().map(|reason| Finding::new(*reason, hostile(100_000)));
    let many: Vec<Finding> = all().chain((0..7_000).map(|number| Finding::new(Reason::UnknownEntryField, format!("{number}")))).collect();
    let desire = Desire {
        wish: Wish::Unfit,
        summary: DesiredSummary {
            status: "published".into(),
            version: Some("x".repeat(63)),
            revision: u64::MAX,
            name: Some(bounded(&hostile(60_000), NAME)),
            description: Some(bounded(&hostile(60_000), MESSAGE)),
        },
        trouble: Some(Finding::new(Reason::EntryUnreadable, hostile(1_000_000))),
        advice: many.clone(),
        ..Desire::nothing()
    };
    let message = Report {
        schema: 1,
        process: uuid::Uuid::nil(),
        host: hostile(9_999),
        complete: true,
        asks: false,
        from: None,
        to: None,
        executions: vec![report(); 50],
    };
    let reports = message.bounded().executions;
    let kept = Kept {
        entry: Some("\"".repeat(MAX_ENTRY_BYTES)),
        subjects: vec!["s".repeat(252); (32 << 10) / 256],
        proven: vec!["d".repeat(60); 8],
        stream: Some("s".repeat(255)),
        ran: Some(spec()),
        moves: crate::pipeline::moves::Moves {
            home: Some(Home { place: spec().previous[0].place.clone(), stream: "s".repeat(255) }),
            previous: spec().previous,
            ..Default::default()
        },
        ..Kept::default()
    };
    let (mut before, mut history) = (Vec::new(), Vec::new());
    for turn in 0..100 {
        let now = Timestamp::from_second(turn).unwrap();
        let advice = if turn % 2 == 0 { &many[..] } else { &[] };
        let facts = Facts {
            desire: &desire,
            failure: None,
            advice,
            phase: Phase::Run,
            kept: &kept,
            switching: None,
            left: None,
            reports: &reports,
            troubles: advice,
            now,
        };
        let new = conditions(&facts, &before);
        history = remembered(&history, &before, &new, now);
        before = new;
    }
    let instance = Instance {
        name: hostile(5_000),
        fingerprint: Fingerprint(hostile(5_000)),
        state: InstanceState::Restarting,
        since: Some(Timestamp::MAX),
        restarts: u32::MAX,
        exit_code: Some(i64::MIN),
    };
    let mut observed = summary(&reports);
    observed.instances = shown(vec![instance; 1_000]);
    let status = PipelineStatus {
        schema: 1,
        id: spec().id,
        epoch: u64::MAX,
        updated: Timestamp::MAX,
        desired: desire.summary,
        admitted: Admitted { phase: Phase::Run, spec: Some(spec()), live_executions: u32::MAX },
        observed,
        conditions: before,
        history,
        kept,
    };
    let bytes = serde_json::to_vec(&status).unwrap().len();
    assert!(bytes <= LARGEST && status.conditions.len() < 60, "{bytes}, {} conditions", status.conditions.len());
}
