//! Every code of the table in every form that servers send it in, on both kinds of collections: what is a dead letter is one for its
//! own sake, and everything else is stored once, as soon as the server can again.

use super::*;
use crate::support::replies::{Refuses, Which};
use serde::Deserialize;
use sluice::collector::classify::{DOCUMENT, OPERATOR, TRANSIENT};
use std::collections::BTreeSet;

/// Cases under way at once.
const AT_ONCE: usize = 48;
const SOON: Duration = Duration::from_secs(90);
/// Documents that meet the refusal.
const EACH: i64 = 12;

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Code {
    code: i32,
    name: String,
    means: Means,
    #[serde(default)]
    #[allow(dead_code, reason = "for people")]
    source: String,
    /// Whether the driver makes something else of it, where it refuses a command.
    #[serde(default)]
    driver: bool,
    /// As the refusal of a measurement: `certain`, where it is said before anything goes into a bucket.
    #[serde(default)]
    series: Option<Certain>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Means {
    Passes,
    Person,
    Document,
    Unknown,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Certain {
    Certain,
}

/// How a code comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Command,
    Concern,
    One,
    Some,
    All,
}

const FORMS: [Form; 5] = [Form::Command, Form::Concern, Form::One, Form::Some, Form::All];

impl Form {
    fn is_marked(self, n: i64) -> bool {
        match self {
            Self::One => n == 5,
            Self::Some => n % 3 == 0,
            Self::Command | Self::Concern | Self::All => false,
        }
    }
}

fn rule(code: &Code, form: Form) -> Rule {
    let (refuses, which) = match form {
        Form::Command => (Refuses::Command, Which::All),
        Form::Concern => (Refuses::Concern, Which::All),
        Form::One | Form::Some => (Refuses::Documents, Which::Marked),
        Form::All => (Refuses::Documents, Which::All),
    };
    Rule { code: code.code, code_name: code.name.clone(), message: "as the test wants it".into(), ..Rule::of("insert", refuses, which) }
}

/// Sends one code in one form, and holds what becomes of the documents against what it means.
async fn try_it(ground: &Ground, code: &Code, form: Form, kind: Kind) {
    let name = format!("c{}-{form:?}-{kind:?}", code.code).to_lowercase();
    let lane = Lane::start(ground, &name, kind, vec![rule(code, form)]).await;
    lane.proxy.set(false);
    lane.publish(-3..0, |_| false).await;
    eventually(&format!("{name}: it is proven"), SOON, || async { lane.waiting().await == 0 }).await;
    lane.proxy.set(true);
    lane.publish(0..EACH, |n| form.is_marked(n)).await;
    let marked = (0..EACH).filter(|n| form.is_marked(*n)).count();
    let blames = code.means == Means::Document && marked > 0;
    let mut sent = EACH;
    if blames {
        // Others have to be stored meanwhile: what is refused while nothing else is may be refused for another reason.
        let begun = std::time::Instant::now();
        while lane.dead().await.len() < marked {
            assert!(begun.elapsed() < 2 * SOON, "{name}: {} of {marked} are dead letters, {:?}", lane.dead().await.len(), lane.troubles());
            lane.publish(sent..sent + 1, |_| false).await;
            sent += 1;
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    } else {
        eventually(&format!("{name}: it was refused"), SOON, || async { lane.proxy.refused() >= 2 }).await;
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert_eq!(lane.dead().await, [], "{name}");
        let waits = if marked > 0 { marked as u64 } else { EACH as u64 };
        assert_eq!(lane.waiting().await, waits, "{name}: {:?}", lane.stored().await);
        if marked == 0 && matches!(code.means, Means::Passes | Means::Person) {
            eventually(&format!("{name}: it is said"), SOON, || async { said(code, &lane) }).await;
        }
    }
    lane.proxy.set(false);
    lane.publish(sent..sent + 3, |_| false).await;
    eventually(&format!("{name}: all is settled"), SOON, || async { lane.waiting().await == 0 }).await;
    let dead = lane.dead().await;
    let stored = lane.stored().await;
    let wanted: Vec<i64> = (-3..sent + 3).filter(|n| !(blames && (0..EACH).contains(n) && form.is_marked(*n))).collect();
    assert_eq!(stored, wanted, "{name}");
    let of_this_code = |(reason, of): &(String, String)| *of == code.code.to_string() && reason != "unknown";
    assert!(dead.len() == if blames { marked } else { 0 } && dead.iter().all(of_this_code), "{name}: {dead:?}");
    eventually(&format!("{name}: nothing is in the way"), SOON, || async { lane.troubles().is_empty() }).await;
    lane.end().await;
}

/// Whether what is in the way is said as it should be: what passes, and what a person has to do.
fn said(code: &Code, lane: &Lane) -> bool {
    code.driver
        || lane.troubles().iter().any(|(reason, message)| match code.means {
            Means::Passes => *reason == Reason::DatabaseUnavailable,
            // With the remedy behind it.
            Means::Person => *reason == Reason::DatabaseRefuses && message.contains(&format!("(code {}): ", code.code)),
            Means::Document | Means::Unknown => true,
        })
}

async fn all(kind: Kind, forms: &[Form], wanted: impl Fn(&Code) -> bool) {
    let Some(ground) = Ground::new().await else { return crate::support::skipped("a proxy needs a server of this test's own") };
    let codes: Vec<Code> = read(fixtures().join("codes.yml"));
    let cases: Vec<(&Code, Form)> =
        codes.iter().filter(|code| wanted(code)).flat_map(|code| forms.iter().map(move |form| (code, *form))).collect();
    let begun = std::time::Instant::now();
    futures_util::stream::iter(&cases).for_each_concurrent(AT_ONCE, |(code, form)| try_it(&ground, code, *form, kind)).await;
    println!("{} cases of {kind:?} in {:?}", cases.len(), begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn each_code_that_passes_or_needs_a_person_costs_no_document_whether_it_refuses_commands_or_documents() {
    require!("nats-server", "database");
    all(Kind::Normal, &FORMS, |code| matches!(code.means, Means::Passes | Means::Person)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_code_of_documents_blames_those_that_it_names_and_none_where_it_names_all() {
    require!("nats-server", "database");
    all(Kind::Normal, &FORMS, |code| matches!(code.means, Means::Document | Means::Unknown)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_code_costs_no_measurement_but_those_that_are_refused_alone_too() {
    require!("nats-server", "database");
    all(Kind::Series, &[Form::Command, Form::Some, Form::All], |code| code.means != Means::Passes || code.code % 5 == 0).await;
}

#[test]
fn the_codes_of_the_table_and_those_of_the_fixtures_are_the_same() {
    let codes: Vec<Code> = read(fixtures().join("codes.yml"));
    let meant = |means: Means| codes.iter().filter(|code| code.means == means).map(|code| code.code).collect::<BTreeSet<_>>();
    let entered = |codes: &[i32]| codes.iter().copied().collect::<BTreeSet<_>>();
    assert_eq!(meant(Means::Passes), entered(&TRANSIENT));
    assert_eq!(meant(Means::Document), entered(&DOCUMENT));
    // 2 and 14 are about the command where they refuse one.
    assert_eq!(meant(Means::Person), entered(&OPERATOR).difference(&[2, 14].into()).copied().collect());
    assert_eq!(codes.iter().map(|code| code.code).collect::<BTreeSet<_>>().len(), codes.len(), "each once");
    assert_eq!(codes.iter().filter(|code| code.series == Some(Certain::Certain)).count(), 3);
}
