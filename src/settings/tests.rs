//! Settings as properties: precedence holds for every field, none is forgotten anywhere, and no secret gets out.

use super::load::load;
use super::overrides::{PATHS, variable};
use super::*;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

/// A field, three texts for it, and what the one of that number makes of the settings.
type Case = (&'static str, [&'static str; 3], fn(&mut Settings, usize));

fn default_connection(settings: &mut Settings) -> &mut MongoConnection {
    settings.mongodb.connections.get_mut("default").unwrap()
}

const CASES: &[Case] = &[
    ("namespace", ["a", "0123", "no"], |s, n| s.namespace = Namespace::parse(["a", "0123", "no"][n]).unwrap()),
    ("nats.urls", ["[nats://a]", "[b:1, tls://c]", "[nats://d]"], |s, n| {
        s.nats.urls = [vec!["nats://a"], vec!["nats://b:1", "tls://c"], vec!["nats://d"]][n].iter().map(ToString::to_string).collect()
    }),
    ("nats.token", ["1e5", "true", "x"], |s, n| s.nats.token = Some(Secret::new(["1e5", "true", "x"][n]))),
    ("nats.tls.required", ["true", "false", "true"], |s, n| s.nats.tls.required = n != 1),
    ("mongodb.connections.default.url", ["mongodb://a", "mongodb://b,c", "mongodb+srv://d"], |s, n| {
        default_connection(s).url = Secret::new(["mongodb://a", "mongodb://b,c", "mongodb+srv://d"][n]);
    }),
    ("mongodb.connections.default.database", ["x", "0123", "y"], |s, n| {
        default_connection(s).database = Some(["x", "0123", "y"][n].into())
    }),
    ("executor.max_replicas", ["1", "2", "3"], |s, n| s.executor.max_replicas = n as u32 + 1),
    ("executor.shutdown_grace", ["10s", "1m", "1m 30s"], |s, n| s.executor.shutdown_grace = Duration::from_secs([10, 60, 90][n])),
    ("limits.memory", ["1MiB", "16777216", "2GB"], |s, n| s.limits.memory = [1 << 20, 16 << 20, 2_000_000_000][n]),
    ("jetstream.replicas", ["1", "3", "5"], |s, n| s.jetstream.replicas = [1, 3, 5][n]),
    ("pipelines.on_delete", ["drain", "delete", "keep"], |s, n| {
        s.pipelines.on_delete = [OnDelete::Drain, OnDelete::Delete, OnDelete::Keep][n]
    }),
    ("pipelines.batch_period", ["1ms", "5s", "2s"], |s, n| s.pipelines.batch_period = Duration::from_millis([1, 5000, 2000][n])),
    ("http.listen", ["off", "127.0.0.1:0", "127.0.0.1:9"], |s, n| {
        s.http.listen = [None, Some(0), Some(9)][n].map(|port| SocketAddr::from(([127, 0, 0, 1], port)))
    }),
    ("log.format", ["auto", "text", "json"], |s, n| s.log.format = [LogFormat::Auto, LogFormat::Text, LogFormat::Json][n]),
    ("log.level", ["debug", "info,sluice=trace", "off"], |s, n| s.log.level = ["debug", "info,sluice=trace", "off"][n].into()),
    ("names.dead_letters", ["'{ns}-a'", "'{ns}-b'", "'{ns}-c'"], |s, n| s.names.dead_letters = format!("{{ns}}-{}", ["a", "b", "c"][n])),
];

/// Block YAML of dotted paths.
fn yaml(fields: &BTreeMap<&str, &str>) -> String {
    let mut text = String::new();
    let mut open: Vec<&str> = Vec::new();
    for (path, value) in fields {
        let steps: Vec<&str> = path.split('.').collect();
        let (name, parents) = steps.split_last().unwrap();
        let common = open.iter().zip(parents).take_while(|(a, b)| a == b).count();
        for (depth, step) in parents.iter().enumerate().skip(common) {
            text += &format!("{}{step}:\n", "  ".repeat(depth));
        }
        open = parents.to_vec();
        text += &format!("{}{name}: {value}\n", "  ".repeat(parents.len()));
    }
    text
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_subset_of_fields_round_trips_and_the_strongest_layer_wins(
        picks in prop::collection::vec(prop::array::uniform3(prop::option::of(0usize..3)), CASES.len())
    ) {
        let (mut file, mut env, mut set) = (BTreeMap::new(), Vec::new(), Vec::new());
        let mut expected = Settings::default();
        for ((path, texts, apply), [in_file, in_env, in_set]) in CASES.iter().zip(picks) {
            file.extend(in_file.map(|n| (*path, texts[n])));
            // A variable is taken as it is, without quotes; its lists have commas.
            env.extend(in_env.map(|n| (variable(path), texts[n].trim_matches(['\'', '[', ']']).to_owned())));
            set.extend(in_set.map(|n| format!("{path}={}", texts[n])));
            if let Some(n) = in_set.or(in_env).or(in_file) {
                apply(&mut expected, n);
            }
        }
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("any-name.yaml");
        std::fs::write(&path, yaml(&file)).unwrap();
        let loaded = load(Some(&path), &env, &set).map_err(|problems| TestCaseError::fail(format!("{problems}\n{}", yaml(&file))))?;
        prop_assert_eq!(loaded.settings, expected);
    }

    #[test]
    fn no_file_and_no_argument_panics(bytes in prop::collection::vec(any::<u8>(), 0..256), argument in "\\PC{0,40}", path in prop::sample::select(PATHS)) {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("sluice.yml");
        std::fs::write(&file, bytes).unwrap();
        // Only that they return is asked.
        drop(load(Some(&file), &[], &[]));
        let env = [(variable(&path.replace('*', "default")), argument.clone())];
        std::fs::write(&file, "").unwrap();
        drop(load(Some(&file), &env, &[format!("{}={argument}", path.replace('*', "x")), argument]));
    }
}

/// The fields that the walk knows in a section, as it tells them to whoever writes another.
fn known_in(section: &str) -> BTreeSet<String> {
    let path = |name: &str| if section.is_empty() { name.to_owned() } else { format!("{section}.{name}") };
    let problems = load(Some(std::path::Path::new("/dev/null")), &[], &[format!("{}=1", path("zzzzzzzzzzzzz"))]).unwrap_err().0;
    let remedy = problems.iter().find_map(|problem| problem.remedy.strip_prefix("known here: ")).unwrap();
    remedy.split(", ").map(path).collect()
}

#[test]
fn every_field_can_be_set_by_a_variable_and_stands_in_the_example() {
    let example = include_str!("../../config/sluice.yml");
    let mut sections = BTreeSet::from([String::new()]);
    for path in PATHS {
        let concrete = path.replace('*', "default");
        let steps: Vec<&str> = concrete.split('.').collect();
        sections.extend((1..steps.len()).map(|n| steps[..n].join(".")));
        let name = steps.last().unwrap();
        assert!(example.lines().any(|line| line.trim_start_matches([' ', '#']).starts_with(&format!("{name}:"))), "{path}");
    }
    let known: BTreeSet<String> = sections
        .iter()
        // Its keys are names that somebody chose.
        .filter(|section| !section.ends_with("mongodb.connections"))
        .flat_map(|section| known_in(section))
        .filter(|path| !sections.contains(path))
        .collect();
    assert_eq!(known, PATHS.iter().map(|path| path.replace('*', "default")).collect::<BTreeSet<_>>());
    let variables: BTreeSet<String> = PATHS.iter().map(|path| variable(path)).collect();
    assert_eq!(variables.len(), PATHS.len());
}

#[test]
fn the_execution_digest_never_changes_between_releases() {
    assert_eq!(Settings::default().execution_digest(), "3d81144f2234687a");
}

#[test]
fn an_address_changes_the_execution_digest_and_a_secret_does_not() {
    let changed = |change: fn(&mut Settings)| {
        let mut settings = Settings::default();
        change(&mut settings);
        settings.execution_digest() != Settings::default().execution_digest()
    };
    assert!(changed(|s| s.nats.urls.push("nats://b".into())));
    assert!(changed(|s| s.nats.user = Some("u".into())));
    assert!(changed(|s| default_connection(s).url = Secret::new("mongodb://other")));
    assert!(changed(|s| default_connection(s).username = Some("u".into())));
    assert!(changed(|s| default_connection(s).tls.required = true));
    assert!(!changed(|s| s.nats.token = Some(Secret::new("t"))));
    assert!(!changed(|s| default_connection(s).password = Some(Secret::new("p"))));
    assert!(!changed(|s| s.limits.memory = 1 << 30));
    let password = |word: &str| {
        let mut settings = Settings::default();
        default_connection(&mut settings).url = Secret::new(format!("mongodb://u:{word}@h"));
        settings.execution_digest()
    };
    assert_eq!(password("one"), password("two"));
}

#[test]
fn no_secret_shows_itself() {
    let settings = Settings {
        http: HttpSettings { listen: None, token: Some(Secret::new("canary")), health_listen: None },
        mongodb: MongoSettings {
            connections: BTreeMap::from([(
                "x".into(),
                MongoConnection { url: Secret::new("mongodb://u:canary@h"), ..MongoConnection::default() },
            )]),
        },
        ..Settings::default()
    };
    assert!(!format!("{settings:?}").contains("canary"));
}
