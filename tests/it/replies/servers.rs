//! Servers as they answer: each file of `tests/fixtures/replies/servers` is one, with the source of what it says and what must become of
//! the documents.

use super::*;
use serde::Deserialize;
use sluice::collector::sink::Sharding;
use sluice::pipeline::moves::Series;
use sluice::pipeline::report::StreamRole;

const SOON: Duration = Duration::from_secs(90);
/// How long what must not happen does not happen.
const WHILE: Duration = Duration::from_secs(5);

/// One server.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Server {
    /// What it is.
    server: String,
    /// Where it is written that it answers so: file and function of its source, or its vendor's document.
    source: Vec<String>,
    kind: Kind,
    replies: Vec<Rule>,
    /// How many documents are published, and which numbers of them the rules mean.
    #[serde(default = "dozen")]
    documents: i64,
    #[serde(default)]
    marked: Vec<i64>,
    becomes: Fate,
}

fn dozen() -> i64 {
    12
}

/// What must become of the documents.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Fate {
    /// Of those that are not marked.
    #[serde(default = "stored")]
    documents: Becomes,
    #[serde(default = "stored")]
    marked: Becomes,
    /// The reason of the marked ones' dead letters.
    #[serde(default)]
    reason: String,
    /// What the execution says meanwhile: the reason, and a part of the message.
    #[serde(default)]
    condition: String,
    #[serde(default)]
    says: String,
    /// Of a time-series collection.
    #[serde(default)]
    role: String,
    /// Whether each insert of measurements begins with the document that only a normal collection takes, or some do.
    #[serde(default)]
    guarded: Option<Guarded>,
}

fn stored() -> Becomes {
    Becomes::Stored
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Becomes {
    /// In the collection, once.
    Stored,
    /// Among the dead letters, once.
    Dead,
    /// In the stream, and nowhere else.
    Waits,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Guarded {
    Each,
    Some,
}

async fn hold(ground: &Ground, file: &str, server: Server) {
    let what = format!("{file} ({})", server.server);
    assert!(!server.source.is_empty(), "{what}: where is that written?");
    let fate = &server.becomes;
    let marked = |n: i64| server.marked.contains(&n);
    let lane = Lane::start(ground, file, server.kind, server.replies.clone()).await;
    // Measurements come over a while, so that there are several inserts.
    let half = server.documents / 2;
    lane.publish(0..half, marked).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    lane.publish(half..server.documents, marked).await;
    let becomes = |wanted: Becomes| (0..server.documents).filter(move |n| if marked(*n) { fate.marked } else { fate.documents } == wanted);
    let waits = becomes(Becomes::Waits).count() as u64;
    let dead: Vec<i64> = becomes(Becomes::Dead).collect();
    let mut stored: Vec<i64> = becomes(Becomes::Stored).collect();
    if !dead.is_empty() || waits == 0 {
        let begun = std::time::Instant::now();
        let mut next = server.documents;
        while lane.waiting().await > waits || lane.dead().await.len() < dead.len() {
            assert!(begun.elapsed() < 2 * SOON, "{what}: {} wait, {:?}, {:?}", lane.waiting().await, lane.dead().await, lane.troubles());
            if !dead.is_empty() {
                // What is refused alone is a dead letter only where others are stored.
                lane.publish(next..next + 1, |_| false).await;
                stored.push(next);
                next += 1;
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }
    if waits > 0 {
        let said = || async {
            lane.troubles().iter().any(|(reason, message)| {
                reason.as_str() == fate.condition && (message.contains(&fate.says) || reason.remedy().contains(&fate.says))
            })
        };
        eventually(&format!("{what}: {} is said", fate.condition), SOON, said).await;
        tokio::time::sleep(WHILE).await;
    }
    eventually(&format!("{what}: the rest is settled"), SOON, || async { lane.waiting().await == waits }).await;
    assert_eq!(lane.stored().await, stored, "{what}");
    let reasons: Vec<String> = lane.dead().await.into_iter().map(|(reason, _)| reason).collect();
    assert_eq!(reasons, vec![fate.reason.clone(); dead.len()], "{what}");
    if !fate.role.is_empty() {
        assert_eq!(lane.state.role().map(StreamRole::as_str), Some(fate.role.as_str()), "{what}");
    }
    match (fate.guarded, lane.proxy.inserts()) {
        (None, _) => {}
        (Some(Guarded::Each), (all, guarded)) => assert!(all > 1 && guarded == all, "{what}: {guarded} of {all}"),
        (Some(Guarded::Some), (all, guarded)) => assert!(guarded > 0 && guarded < all, "{what}: {guarded} of {all}"),
    }
    lane.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_each_server_answers_costs_no_document_and_doubles_none() {
    require!("nats-server", "database");
    let Some(ground) = Ground::new().await else { return crate::support::skipped("a proxy needs a server of this test's own") };
    let mut files: Vec<PathBuf> = std::fs::read_dir(fixtures().join("servers"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "yml"))
        .collect();
    files.sort();
    assert!(files.len() >= 10, "{files:?}");
    let cases = files.into_iter().map(|path| (path.file_stem().unwrap().to_string_lossy().into_owned(), read::<Server>(path)));
    let hold = |(file, server): (String, Server)| {
        let ground = &ground;
        async move { hold(ground, &file, server).await }
    };
    futures_util::stream::iter(cases).for_each_concurrent(16, hold).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn how_a_collection_lies_behind_a_mongos_and_whether_its_measurements_can_be_repaired_is_told_to_doctor() {
    require!("database");
    let mongo = Mongo::start().await;
    let Some(server) = mongo.direct().await else { return crate::support::skipped("a proxy needs a server without TLS and passwords") };
    let look = async |file: &str| {
        let rules = read::<Server>(fixtures().join("servers").join(file)).replies;
        let proxy = Replies::start(server, "m", rules).await;
        let connection = MongoConnection { url: Secret::new(proxy.url()), ..MongoConnection::default() };
        let databases = Databases::new(&MongoSettings { connections: BTreeMap::from([("default".to_owned(), connection)]) });
        let target = databases.target("default", Some(mongo.database()), "m").unwrap();
        let database = databases.get("default").await.unwrap();
        let series = Series { time_field: "ts".into(), meta_field: Some("device".into()) };
        (database.sharding(&target).await.unwrap(), database.repairs(&target, &series).await.unwrap())
    };
    assert_eq!(look("mongos_sharded_series.yml").await, (Sharding::By(vec!["meta".into()]), true));
    assert_eq!(look("mongos_unsharded_series.yml").await, (Sharding::Whole, true));
    assert_eq!(look("mongos_series_nobody_may_look.yml").await, (Sharding::Hidden, true));
    assert_eq!(look("mongodb_80.yml").await, (Sharding::Whole, true));
    assert_eq!(look("mongodb_70_at_fcv_60.yml").await, (Sharding::Whole, false));
    assert_eq!(look("mongodb_60.yml").await, (Sharding::Whole, false));
    assert_eq!(look("user_may_not_remove.yml").await, (Sharding::Whole, false));
}
