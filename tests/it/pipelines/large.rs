//! The largest documents that there are: stored, within the memory that the settings allow.

use super::*;
use bson::{Binary, spec::BinarySubtype};

const MIB: usize = 1 << 20;
const NAME: &str = "MALLOC_MMAP_THRESHOLD_";

/// A document of exactly so many bytes.
fn of_size(n: i64, bytes: usize) -> Document {
    let of = |filler: usize| doc! {"n": n, "f": Binary { subtype: BinarySubtype::Generic, bytes: vec![n as u8; filler] }};
    let rest = of(0).to_vec().unwrap().len();
    of(bytes - rest)
}

/// What the image tells the C library's allocator.
fn allocator() -> (String, String) {
    let dockerfile = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/executor-image/Dockerfile"));
    let (name, value) =
        dockerfile.split_ascii_whitespace().filter_map(|word| word.split_once('=')).find(|(name, _)| *name == NAME).unwrap();
    (name.to_owned(), value.to_owned())
}

/// The most memory that the process ever had, in MiB.
fn peak(pid: u32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_ascii_whitespace().nth(1).unwrap().parse::<usize>().unwrap() / 1024
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_of_sixteen_megabytes_are_stored_within_the_memory_that_is_allowed_and_a_larger_one_is_a_dead_letter() {
    require!("nats-server", "database");
    let larger = format!("max_payload: {}\n", 17 * MIB);
    let (nats, mongo) = tokio::join!(Nats::start_with(&larger), Mongo::start());
    let run = Run { extra: "limits: {memory: 64MiB}".into(), env: vec![allocator()], ..Run::new(&nats, &mongo) };
    let sluice = run.start().await;
    let stage = Stage { nats, mongo, sluice };
    stage.publish_plain("metrics").await;
    stage.send("alpha.metrics", 0..1).await;
    stage.exactly("metrics", 0..1).await;
    stage.sluice.cli_ok(&["pause", "metrics", "--wait"]).await;
    let jetstream = stage.nats.jetstream().await;
    // With its `_id` the largest that MongoDB stores, and one that is a byte larger.
    let largest = 16 * MIB - 17;
    for n in 1..=32 {
        acknowledged(&jetstream, "alpha.metrics", of_size(n, if n == 8 { largest + 1 } else { largest }).to_vec().unwrap()).await;
    }
    stage.sluice.cli_ok(&["publish", "metrics", "--wait"]).await;
    stage.settled("metrics").await;
    let collection = stage.mongo.client().await.database(stage.mongo.database()).collection::<Document>("metrics");
    let mut found = Vec::new();
    for n in 0..=32_i64 {
        if let Some(document) = collection.find_one(doc! {"n": n}).await.unwrap() {
            assert!(n == 0 || document.get_binary_generic("f").unwrap().iter().all(|byte| *byte == n as u8), "{n} is damaged");
            found.push(n);
        }
    }
    assert_eq!(found, (0..=32).filter(|n| *n != 8).collect::<Vec<_>>());
    assert_eq!(stage.dead_letters("metrics").await, 1);
    let letters = stage.sluice.cli_ok(&["dlq", "list", "metrics", "-o", "json"]).await;
    assert!(letters.contains("too_large"), "{letters}");
    // Half a gigabyte went through. What is held is counted once; buffers of the connection and the commands under way, with
    // the driver's copies of them, come on top: a dozen documents' worth, and more on a machine that is slow to pass them on.
    let peak = peak(stage.sluice.pid());
    eprintln!("peak {peak} MiB");
    assert!(peak < 400, "{peak} MiB");
}
