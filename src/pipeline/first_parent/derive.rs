//! The config that an entry of the first parent stands for: its collection and further subjects, batches as the settings
//! say, the default connection and database. Pure; the same entry and settings always give the same bytes.
//!
//! What cannot be is clamped or left out, and said: a producer cannot be asked to correct it. What is left, the
//! collection's name above all, is checked by the lint that every config passes.

use super::ProducerEntry;
use crate::pipeline::config::{DEFAULT_ACK_WAIT, MAX_SUBJECTS, TimeSeries, WRITE_TIMEOUT, longest_period};
use crate::pipeline::document::shown;
use crate::pipeline::id::{NameError, PipelineId, VersionName};
use crate::pipeline::names::Names;
use crate::pipeline::reserved;
use crate::pipeline::spec::hex;
use crate::pipeline::subject;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE;
use humantime::format_duration as show;
use sha2::{Digest, Sha256};
use std::time::Duration;

/// What derived versions are called by, before their digest.
const PREFIX: &str = "derived-";
/// The most documents of a batch that a config may ask for.
const MOST: u32 = 100_000;

/// The settings that a derived config is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Defaults {
    /// `pipelines.batch_count`.
    pub batch_count: u32,
    /// `pipelines.batch_period`.
    pub batch_period: Duration,
}

/// A derived config.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Derived {
    /// `derived-{digest8}`: the first eight hex digits of the SHA-256 of the bytes.
    pub version: VersionName,
    /// The digest as the Object Store writes it, `SHA-256=…`.
    pub digest: String,
    /// The config, as YAML.
    pub text: String,
    /// What was clamped or left out, each for people.
    pub notes: Vec<String>,
}

/// Whether `version` is a derived one.
pub fn is_derived(version: &VersionName) -> bool {
    version.as_str().starts_with(PREFIX)
}

/// Derives the config of `id`. Errors never: the name of a version is of hex digits.
///
/// `series`: the collection is there already and a time-series one, with these options.
pub fn derive(
    id: &PipelineId,
    entry: &ProducerEntry,
    series: Option<&TimeSeries>,
    defaults: Defaults,
    names: &Names,
) -> Result<Derived, NameError> {
    let mut notes = Vec::new();
    let subjects = subjects(id, &entry.subs, names, &mut notes);
    let longest = longest_period(DEFAULT_ACK_WAIT);
    let period = defaults.batch_period.clamp(Duration::from_millis(1), longest);
    if period != defaults.batch_period {
        notes.push(format!(
            "batch_period is {} and not {}: with the {} that a write may take it must lie within half of ack_wait {}",
            show(period),
            show(defaults.batch_period),
            show(WRITE_TIMEOUT),
            show(DEFAULT_ACK_WAIT)
        ));
    }
    let count = defaults.batch_count.clamp(1, MOST);
    if count != defaults.batch_count {
        notes.push(format!("batch_count is {count} and not {}: MongoDB takes no more in one command", defaults.batch_count));
    }
    let mut text = String::from(
        "# What a producer of the Go collector put under this key, with the batches that the settings name.\n\
         # `sluice publish` with a config of your own takes its place; the producer goes on unchanged.\n\
         schema: 1\n",
    );
    if !subjects.is_empty() {
        let subjects: Vec<_> = subjects.iter().map(|subject| quoted(subject)).collect();
        text += &format!("input:\n  nats_jetstream:\n    subjects: [{}]\n", subjects.join(", "));
    }
    let collection = entry.collection.as_deref().unwrap_or(id.as_str());
    text += &format!("output:\n  mongodb:\n    collection: {}\n", quoted(collection));
    if let Some(series) = series {
        text += &format!("    time_series: {{{}}}\n", options(series));
    }
    text += &format!("    batching: {{count: {count}, period: {}}}\n", show(period));
    let sum = Sha256::digest(&text);
    Ok(Derived {
        version: VersionName::parse(&format!("{PREFIX}{}", hex(&sum[..4])))?,
        digest: format!("SHA-256={}", URL_SAFE.encode(sum)),
        text,
        notes,
    })
}

/// The further subjects that a stream of ours may listen on. A stream that the producer made listens on what it says;
/// these are for the one that has to be made again.
fn subjects<'a>(id: &PipelineId, subs: &'a [String], names: &Names, notes: &mut Vec<String>) -> Vec<&'a str> {
    let own = names.subject(id);
    let mut good: Vec<&str> = Vec::new();
    let mut more = 0;
    for text in subs.iter().map(String::as_str).filter(|text| *text != own) {
        if good.contains(&text) {
            continue;
        }
        if good.len() >= MAX_SUBJECTS || notes.len() >= MAX_SUBJECTS {
            more += 1;
            continue;
        }
        let fault = match (subject::fault(text), good.iter().find(|other| subject::overlap(other, text))) {
            (Some(fault), _) => Some(fault.to_owned()),
            (None, Some(other)) => Some(format!("it overlaps '{}'", shown(other))),
            (None, None) => reserved::subject(text, names, Some(id)).map(|(what, _)| what),
        };
        match fault {
            Some(fault) => notes.push(format!("subject '{}' is left out: {fault}", shown(text))),
            None => good.push(text),
        }
    }
    if more > 0 {
        notes.push(format!("{more} further subjects are left out: at most {MAX_SUBJECTS}, use wildcards"));
    }
    good
}

fn options(series: &TimeSeries) -> String {
    let mut options = vec![format!("time_field: {}", quoted(&series.time_field))];
    options.extend(series.meta_field.as_deref().map(|field| format!("meta_field: {}", quoted(field))));
    options.extend(series.granularity.map(|granularity| format!("granularity: {}", granularity.as_str())));
    options.extend(series.expire_after.map(|age| format!("expire_after: {}s", age.as_secs())));
    options.join(", ")
}

/// A text as YAML reads it back, whatever is in it: JSON's quotes are YAML's.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::config::{LintContext, lint};
    use crate::pipeline::id::Namespace;
    use crate::pipeline::names::NameTemplates;
    use crate::pipeline::problem::has_errors;
    use proptest::prelude::*;

    const DEFAULTS: Defaults = Defaults { batch_count: 1000, batch_period: Duration::from_secs(5) };

    fn names() -> Names {
        Names::new(Namespace::parse("alpha").unwrap(), NameTemplates::default())
    }

    fn metrics() -> PipelineId {
        PipelineId::parse("metrics").unwrap()
    }

    fn entry(subs: &[&str], collection: Option<&str>) -> ProducerEntry {
        let subs = subs.iter().map(|sub| (*sub).to_owned()).collect();
        ProducerEntry { key: "metrics".into(), subs, collection: collection.map(str::to_owned) }
    }

    fn derived(entry: &ProducerEntry) -> Derived {
        derive(&metrics(), entry, None, DEFAULTS, &names()).unwrap()
    }

    fn linted(derived: &Derived) -> Result<crate::pipeline::config::PipelineConfig, String> {
        let context = LintContext { names: Some(names()), id: Some(metrics()), connections: None };
        let (config, problems) = lint("derived", derived.text.as_bytes(), &context);
        config.filter(|_| !has_errors(&problems)).ok_or_else(|| problems.first().map(ToString::to_string).unwrap_or_default())
    }

    #[test]
    fn a_derived_config_never_changes_between_releases() {
        let derived = derived(&entry(&["devices.*"], Some("readings")));
        let body = derived.text.lines().skip(2).collect::<Vec<_>>().join("\n");
        assert_eq!(
            body,
            "schema: 1\ninput:\n  nats_jetstream:\n    subjects: [\"devices.*\"]\noutput:\n  mongodb:\n    \
             collection: \"readings\"\n    batching: {count: 1000, period: 5s}"
        );
        assert_eq!(derived.version.as_str(), "derived-a9460024");
        assert!(is_derived(&derived.version) && derived.digest.starts_with("SHA-256="), "{}", derived.digest);
    }

    #[test]
    fn it_passes_lint_and_says_what_the_producer_and_the_settings_said() {
        let config = linted(&derived(&entry(&["devices.*", "devices.a.b"], Some("readings")))).unwrap();
        assert_eq!(config.input.subjects, ["devices.*", "devices.a.b"]);
        assert_eq!(config.output.collection.as_deref(), Some("readings"));
        assert_eq!((config.output.batching.count, config.output.batching.period), (1000, Duration::from_secs(5)));
        let config = linted(&derived(&entry(&[], None))).unwrap();
        assert_eq!(config.output.collection.as_deref(), Some("metrics"));
    }

    #[test]
    fn a_time_series_collection_that_is_there_stays_one() {
        let series = TimeSeries {
            time_field: "ts".into(),
            meta_field: Some("de\"vice".into()),
            granularity: Some(crate::pipeline::config::Granularity::Minutes),
            expire_after: Some(Duration::from_secs(86_400)),
        };
        let derived = derive(&metrics(), &entry(&[], None), Some(&series), DEFAULTS, &names()).unwrap();
        assert_eq!(linted(&derived).unwrap().output.time_series, Some(series));
    }

    #[test]
    fn what_cannot_be_is_clamped_and_said() {
        let defaults = Defaults { batch_count: 2_000_000, batch_period: Duration::from_secs(20) };
        let derived = derive(&metrics(), &entry(&[], None), None, defaults, &names()).unwrap();
        let config = linted(&derived).unwrap();
        assert_eq!((config.output.batching.count, config.output.batching.period), (100_000, Duration::from_secs(5)));
        assert!(derived.notes[0].starts_with("batch_period is 5s and not 20s"), "{:?}", derived.notes);
        assert_eq!(derived.notes.len(), 2);
    }

    #[test]
    fn subjects_that_are_not_the_streams_to_take_are_left_out_and_said() {
        let bad = ["alpha.states", "alpha.*", "alpha-dlq.x", "a b", "", "$JS.API.>", "x.>", "x.y", "alpha.metrics", "x.>"];
        let derived = derived(&entry(&bad, None));
        assert_eq!(linted(&derived).unwrap().input.subjects, ["x.>"]);
        assert_eq!(derived.notes.len(), 7, "{:#?}", derived.notes);
        let many: Vec<String> = (0..500).map(|n| format!("s{n}")).collect();
        let derived = derive(&metrics(), &ProducerEntry { subs: many, ..entry(&[], None) }, None, DEFAULTS, &names()).unwrap();
        assert_eq!(linted(&derived).unwrap().input.subjects.len(), MAX_SUBJECTS);
        assert_eq!(derived.notes, ["400 further subjects are left out: at most 100, use wildcards"]);
    }

    #[test]
    fn a_collection_that_cannot_be_fails_the_lint_with_its_name() {
        for collection in ["system.users", "a$b", "a..b", "${HOME}", "mongodb://x", &"x".repeat(300), "a\u{7f}\u{0}b"] {
            assert!(linted(&derived(&entry(&[], Some(collection)))).is_err(), "{collection:?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_put_derives_a_config_that_means_it_or_fails_lint(
            collection in prop_oneof![any::<String>(), "[-a-z0-9:'\"#{}\\[\\],&*!|>%@` .\\\\]{0,20}"],
            subs in prop::collection::vec(prop_oneof![any::<String>(), "[a-c.*>]{0,6}"], 0..8),
        ) {
            let entry = ProducerEntry { key: "metrics".into(), subs: subs.clone(), collection: Some(collection.clone()) };
            let derived = derived(&entry);
            prop_assert_eq!(&derive(&metrics(), &entry, None, DEFAULTS, &names()).unwrap(), &derived);
            if let Ok(config) = linted(&derived) {
                prop_assert_eq!(config.output.collection, Some(collection));
                prop_assert!(config.input.subjects.iter().all(|subject| subs.contains(subject)));
            }
        }
    }
}
