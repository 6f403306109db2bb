//! In the place of the first parent: its producers unchanged, from their first `Add` to their `Remove`, on the raw wire.

mod bad;
mod load;
mod operating;
mod producer;
mod states;

pub use producer::Producer;

use super::*;

/// Servers and a `sluice run` whose derived configs do not wait long.
async fn stage() -> Stage {
    let (nats, mongo) = tokio::join!(Nats::start(), Mongo::start());
    let sluice = quick(&nats, &mongo).start().await;
    Stage { nats, mongo, sluice }
}

fn quick(nats: &Nats, mongo: &Mongo) -> Run {
    Run { extra: "pipelines: {batch_period: 300ms}".into(), ..Run::new(nats, mongo) }
}

async fn runs_derived(stage: &Stage, id: &str) {
    let what = format!("{id} runs a derived config");
    eventually(&what, LONG, || async {
        let status = stage.status(id).await;
        let version = status["observed"]["version"].as_str().unwrap_or_default().to_owned();
        version.starts_with("derived-") && status["admitted"]["phase"] == "run" && has(&status, "Ready", true, "AsDesired")
    })
    .await;
}

/// Waits until the status speaks of this revision of the entry.
async fn has_read(stage: &Stage, id: &str, revision: u64) {
    let what = format!("revision {revision} of {id} is read");
    eventually(&what, SOON, || async { stage.status(id).await["desired"]["revision"].as_u64() >= Some(revision) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_producer_of_the_go_collector_adds_sends_and_removes_and_needs_nothing_else() {
    require!("nats-server", "database");
    let stage = stage().await;
    let producer = Producer::of(&stage, "metrics").await.into("readings").also_on("devices.*");
    // The collector's own start, on a bucket that we made.
    producer.create_or_update_bucket().await;
    producer.add().await;
    runs_derived(&stage, "metrics").await;
    stage.send("alpha.metrics", 0..2_000).await;
    stage.send("devices.a", 2_000..2_500).await;
    stage.exactly("readings", 0..2_500).await;
    stage.says("metrics", "Advisory", true, "StreamUnsafe").await;
    let version = stage.status("metrics").await["admitted"]["spec"]["version"].as_str().unwrap().to_owned();
    let configs = stage.nats.jetstream().await.get_object_store("alpha-configs").await.unwrap();
    let mut config = String::new();
    let mut object = configs.get(format!("metrics/{version}")).await.unwrap();
    tokio::io::AsyncReadExt::read_to_string(&mut object, &mut config).await.unwrap();
    assert!(config.contains("collection: \"readings\"") && config.contains("subjects: [\"devices.*\"]"), "{config}");
    // Its next start changes nothing.
    producer.add().await;
    producer.add_by_an_older_one().await;
    stage.send("alpha.metrics", 2_500..2_600).await;
    stage.exactly("readings", 0..2_600).await;
    assert_eq!(stage.status("metrics").await["admitted"]["spec"]["version"], version.as_str());
    producer.remove().await;
    eventually("stream and status are gone", LONG, || async {
        stage.waiting("metrics").await.is_none() && stage.status("metrics").await.is_null()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn remove_drains_a_stream_that_has_lost_our_metadata_and_an_add_in_the_middle_takes_it_back() {
    require!("nats-server", "database");
    let stage = stage().await;
    stage.publish_plain("metrics").await;
    let producer = Producer::of(&stage, "metrics").await;
    producer.add().await;
    let stream = stage.nats.jetstream().await.get_stream("alpha_metrics").await.unwrap();
    assert!(stream.cached_info().config.metadata.keys().all(|key| !key.starts_with("sluice")), "the add drops our metadata");
    stage.send("alpha.metrics", 0..30_000).await;
    producer.remove().await;
    // Whatever state the drain is in by then.
    tokio::time::sleep(Duration::from_millis(150)).await;
    producer.add().await;
    runs_derived(&stage, "metrics").await;
    stage.send("alpha.metrics", 30_000..31_000).await;
    stage.exactly("metrics", 0..31_000).await;
    producer.remove().await;
    eventually("the stream is gone", LONG, || async { stage.waiting("metrics").await.is_none() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_time_series_collection_made_for_the_go_collector_is_written_to_as_one() {
    require!("nats-server", "database");
    let stage = stage().await;
    let database = stage.mongo.client().await.database(stage.mongo.database());
    database.run_command(doc! {"create": "metrics", "timeseries": {"timeField": "ts", "metaField": "device"}}).await.unwrap();
    let producer = Producer::of(&stage, "metrics").await;
    producer.add().await;
    runs_derived(&stage, "metrics").await;
    stage.send_with("alpha.metrics", 0..500, |n| doc! {"n": n, "ts": bson::DateTime::from_millis(n), "device": "a"}).await;
    stage.exactly("metrics", 0..500).await;
    assert_eq!(stage.dead_letters("metrics").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn its_values_yml_starts_sluice_run_unchanged() {
    require!("nats-server", "database");
    let nats = Nats::start_with("authorization {token: s3cr3t}\n").await;
    let mongo = Mongo::start().await;
    let directory = crate::support::temp_dir("values");
    std::fs::create_dir(directory.path().join("config")).unwrap();
    let values = format!(
        "mode: debug\nnamespace: alpha\nbatch_size: 500\nflush_interval: 500ms\nnats_hosts:\n  - {}\nnats_token: s3cr3t\nmongo_url: {}\nmongo_database: {}\n",
        nats.url(),
        mongo.url(),
        mongo.database()
    );
    std::fs::write(directory.path().join("config/values.yml"), values).unwrap();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_sluice"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("SLUICE_")) {
        command.env_remove(name);
    }
    // Only so that several tests can run on one machine.
    command.arg("run").current_dir(directory.path()).env("SLUICE_HTTP_LISTEN", "127.0.0.1:0");
    let log = directory.path().join("sluice.log");
    let _sluice = crate::support::Process::start("sluice run", command, &log);
    let client = async_nats::ConnectOptions::with_token("s3cr3t".into()).connect(nats.url()).await.unwrap();
    eventually("it has made the bucket", SOON, || async { jetstream::new(client.clone()).get_key_value("alpha").await.is_ok() }).await;
    Producer::with(client.clone(), "metrics").add().await;
    send_all(&jetstream::new(client), "alpha.metrics", 0..1_200, |n| doc! {"n": n}, &AtomicI64::new(0)).await;
    let what = "1200 documents are in metrics";
    eventually(what, LONG, || async { mongo.count("metrics").await >= 1_200 }).await;
    assert_each_once(&mongo, "metrics", 0..1_200).await;
    let said = std::fs::read_to_string(log).unwrap();
    assert!(!said.contains("s3cr3t"), "{said}");
}
