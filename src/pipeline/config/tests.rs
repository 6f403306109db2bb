//! Lint and the tree below it as properties: nothing that anybody writes makes them panic, and places are exact.

use super::*;
use crate::pipeline::document::{self, Node, Style, Value};
use crate::pipeline::id::{Namespace, PipelineId};
use crate::pipeline::names::{NameTemplates, Names};
use crate::pipeline::problem::has_errors;
use proptest::prelude::*;

fn context() -> LintContext {
    LintContext {
        names: Some(Names::new(Namespace::parse("alpha").unwrap(), NameTemplates::default())),
        id: Some(PipelineId::parse("metrics").unwrap()),
        connections: Some(vec!["default".into()]),
    }
}

fn linted(text: &str) -> Option<PipelineConfig> {
    let (config, problems) = lint("x", text.as_bytes(), &context());
    assert_eq!(config.is_none(), has_errors(&problems), "{text}: {problems:?}");
    config
}

/// Plain scalars stand where their places say.
fn assert_places(node: &Node, lines: &[&str]) {
    let at = |place: &document::Place| {
        let line = lines[place.line as usize - 1];
        line.chars().skip(place.column as usize - 1).collect::<String>()
    };
    match &node.value {
        Value::Scalar(text, Style::Plain) => assert!(at(&node.place).starts_with(text.as_str()), "{text:?} at {:?}", node.place),
        Value::Map(entries) => {
            for (key, value) in entries {
                assert!(at(&key.place).trim_start_matches(['"', '\'']).starts_with(&key.name), "{key:?}");
                assert_places(value, lines);
            }
        }
        Value::List(items) => items.iter().for_each(|item| assert_places(item, lines)),
        _ => {}
    }
}

/// YAML of nested maps and lists, in block and flow style.
fn yaml() -> impl Strategy<Value = String> {
    let leaf = prop_oneof!["[a-zé]{1,6}", "[0-9]{1,4}", Just("\"q: 1\"".to_owned()), Just("0123".to_owned()), Just("no".to_owned())];
    let flow = leaf.prop_recursive(3, 12, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(|items| format!("[{}]", items.join(", "))),
            prop::collection::btree_map("[a-z]{1,5}", inner, 0..3)
                .prop_map(|map| format!("{{{}}}", map.iter().map(|(k, v)| format!("{k}: {v}")).collect::<Vec<_>>().join(", "))),
        ]
    });
    prop::collection::btree_map("[a-zä]{1,8}", prop::collection::btree_map("[a-z]{1,5}", flow, 1..4), 1..4).prop_map(|sections| {
        let fields = |map: &std::collections::BTreeMap<String, String>| {
            map.iter().map(|(key, value)| format!("   {key}:  {value}  # é\n")).collect::<String>()
        };
        sections.iter().map(|(name, map)| format!("{name}:\n{}", fields(map))).collect()
    })
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
        let (config, problems) = lint("x", &bytes, &context());
        prop_assert_eq!(config.is_none(), has_errors(&problems));
    }

    #[test]
    fn arbitrary_text_made_of_yamls_own_characters_never_panics(text in "[-a-e0-9:,?&*!|>%@\\[\\]{}'\"~<=$.# \t\r\n\u{feff}]{0,80}") {
        let (config, problems) = lint("x", text.as_bytes(), &context());
        prop_assert_eq!(config.is_none(), has_errors(&problems));
    }

    #[test]
    fn every_value_in_every_field_yields_a_config_or_an_error(
        field in prop::sample::select(vec![
            "schema", "input", "input.nats_jetstream", "input.nats_jetstream.stream", "input.nats_jetstream.subjects",
            "input.nats_jetstream.ack_wait", "input.nats_jetstream.max_ack_pending", "pipeline.processors", "output",
            "output.mongodb", "output.mongodb.connection", "output.mongodb.database", "output.mongodb.collection",
            "output.mongodb.time_series", "output.mongodb.time_series.expire_after", "output.mongodb.batching.count",
            "output.mongodb.batching.byte_size", "output.mongodb.batching.period", "output.mongodb.batching.linger",
            "output.mongodb.max_in_flight", "output.mongodb.write_concern.w", "on_delete", "drain_timeout", "<x>",
        ]),
        value in prop_oneof![
            any::<i128>().prop_map(|n| n.to_string()), "[0-9]{0,30}(s|ms|y|KiB|TiB|)", "[^\\p{C}#'\\[{]{0,12}", Just("[]".into()), Just("{}".into()), Just("[[1]]".into()),
        ],
    ) {
        let mut text = String::new();
        for (depth, step) in field.split('.').enumerate() {
            text += &format!("\n{}{step}:", "  ".repeat(depth));
        }
        let (config, problems) = lint("x", format!("{text} {value}\n").as_bytes(), &context());
        prop_assert_eq!(config.is_none(), has_errors(&problems));
    }

    #[test]
    fn every_scalar_stands_where_its_place_says(text in yaml()) {
        let root = document::parse("x", text.as_bytes(), 1 << 20).map_err(|problem| TestCaseError::fail(format!("{problem}\n{text}")))?;
        assert_places(&root, &text.lines().collect::<Vec<_>>());
    }
}

#[test]
fn files_of_other_editors_are_read_alike() {
    let unix = linted("output:\n  mongodb:\n    collection: a\n");
    assert!(unix.is_some());
    assert_eq!(linted("\u{feff}output:\r\n  mongodb:\r\n    collection: a\r\n"), unix);
    assert_eq!(linted("---\noutput: {mongodb: {collection: a}}\n...\n"), unix);
    assert_eq!(linted("output: {mongodb: {collection: 'a', database: ~}}"), unix);
}

#[test]
fn a_bomb_of_aliases_is_refused_at_its_first_anchor() {
    let mut text = "a0: &a0 [x, x]\n".to_owned();
    for n in 1..50 {
        text += &format!("a{n}: &a{n} [*a{0}, *a{0}]\n", n - 1);
    }
    let (config, problems) = lint("x", text.as_bytes(), &context());
    assert!(config.is_none());
    assert_eq!((problems.len(), problems[0].line), (1, 1));
}

#[test]
fn the_default_period_just_fits_the_default_ack_wait() {
    assert_eq!(longest_period(DEFAULT_ACK_WAIT), Batching::default().period);
    assert!(linted("output: {mongodb: {batching: {period: 5s}}}").is_some());
    assert!(linted("output: {mongodb: {batching: {period: 5001ms}}}").is_none());
    assert!(linted("input: {nats_jetstream: {ack_wait: 29s}}\noutput: {mongodb: {}}").is_none());
}

#[test]
fn a_count_up_to_max_ack_pending_is_allowed_and_one_above_is_not() {
    let with = |count: u32| {
        linted(&format!("input: {{nats_jetstream: {{max_ack_pending: 900}}}}\noutput: {{mongodb: {{batching: {{count: {count}}}}}}}"))
    };
    assert!(with(900).is_some());
    assert!(with(901).is_none());
}

#[test]
fn a_wrong_field_is_reported_once_and_not_again_with_what_it_is_combined_with() {
    let text = "input: {nats_jetstream: {ack_wait: 60, max_ack_pending: x}}\noutput: {mongodb: {batching: {period: 20s, count: 90000}}}";
    let (_, problems) = lint("x", text.as_bytes(), &context());
    let paths: Vec<&str> = problems.iter().map(|problem| problem.path.as_str()).collect();
    assert_eq!(paths, ["input.nats_jetstream.ack_wait", "input.nats_jetstream.max_ack_pending"]);
}

#[test]
fn a_write_concern_that_confirms_nothing_or_is_no_number_of_nodes_is_refused_in_every_spelling() {
    let w =
        |text: &str| linted(&format!("output: {{mongodb: {{write_concern: {{w: {text}}}}}}}")).map(|config| config.output.write_concern.w);
    for none in [
        "0",
        "00",
        "000",
        "+0",
        "-0",
        "-1",
        "+00",
        "'0'",
        "' 0'",
        "'0 '",
        "' 00 '",
        "0.0",
        "0e5",
        ".0",
        "'٠'",
        "'０'",
        "''",
        "' '",
        "0x0",
        "0_0",
        "01",
        "+1",
        "1.0",
        "1e0",
        "1_0",
        "51",
        "256",
        "99999999999",
        "'1 '",
        "Majority",
        "MAJORITY",
        "' majority'",
        "'majority '",
    ] {
        assert_eq!(w(none), None, "{none}");
    }
    for some in ["majority", "1", "2", "50", "'3'", "twoDataCenters"] {
        assert!(w(some).is_some(), "{some}");
    }
}
