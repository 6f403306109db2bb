//! Streams and buckets of three copies: what one node's loss may cost is time.

use super::*;
use crate::pipelines::drop_in::Producer;

/// A stream of three copies, as Sluice makes it with `jetstream.replicas: 3`.
async fn replicated(urls: impl Fn(&NatsCluster) -> [Vec<String>; 2]) -> Nodes {
    let nodes = Nodes::start(urls).await;
    nodes.publish(&plain("metrics")).await;
    for stream in ["alpha_metrics", "KV_alpha", "KV_alpha-status", "KV_alpha-lease", "OBJ_alpha-configs", "alpha-dlq"] {
        assert_eq!(nodes.info(stream).await.config.num_replicas, 3, "{stream}");
    }
    nodes
}

fn everywhere(cluster: &NatsCluster) -> [Vec<String>; 2] {
    [cluster.urls(), cluster.urls()]
}

#[tokio::test(flavor = "multi_thread")]
async fn the_leader_of_a_stream_of_three_copies_killed_under_a_load_loses_and_doubles_nothing() {
    require!("nats-server", "database");
    let mut fortune = Fortune::new("leaders");
    let mut nodes = replicated(everywhere).await;
    let ledger = nodes.load().await;
    let mut done = Done::default();
    for round in 0..rounds(Duration::from_secs(15)) {
        nodes.flows(200).await;
        fortune.some_moment(500).await;
        let leader = nodes.cluster.leader_of("alpha_metrics").await;
        nodes.cluster.kill9(leader);
        done.kills_of_leaders += 1;
        // Two of three are enough, for documents and for edits.
        nodes.flows(200).await;
        nodes.edit(&plain("metrics").replace("1000", &format!("{}", 500 + round))).await;
        nodes.cluster.restart(leader).await;
        nodes.cluster.works(leader).await;
    }
    nodes.settle(ledger, fortune, done).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_cut_off_with_its_clients_and_healed_loses_and_doubles_nothing() {
    require!("nats-server", "database");
    let (mut fortune, mut done) = (Fortune::new("cut-off"), Done::default());
    // One of the two knows no other node than the one that is cut off, which leads the stream.
    let nodes = replicated(|cluster| [cluster.urls_without(&[0]), vec![cluster.node(0).url()]]).await;
    let ledger = nodes.load_without(&[0]).await;
    for _ in 0..rounds(Duration::from_secs(20)) {
        let client = nodes.cluster.client().await;
        let wish = r#"{"placement":{"preferred":"node0"}}"#;
        client.request("$JS.API.STREAM.LEADER.STEPDOWN.alpha_metrics", wish.into()).await.unwrap();
        nodes.flows(200).await;
        fortune.some_moment(500).await;
        nodes.cluster.cut_off(0);
        done.nodes_cut_off += 1;
        // Longer than an election takes, and than a lease.
        tokio::time::sleep(soak::millis(&mut fortune.dice, 8_500..10_500)).await;
        nodes.flows(200).await;
        nodes.cluster.heal(0);
        nodes.flows(200).await;
        nodes.cluster.works(0).await;
    }
    nodes.settle(ledger, fortune, done).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_scaled_down_to_one_copy_by_a_producers_add_in_the_middle_of_a_load_loses_and_doubles_nothing() {
    require!("nats-server", "database");
    let (mut fortune, mut done) = (Fortune::new("scaled-down"), Done::default());
    let nodes = replicated(everywhere).await;
    let ledger = nodes.load().await;
    nodes.flows(200).await;
    let producer = Producer::with(nodes.cluster.client().await, "metrics").into("elsewhere");
    for _ in 0..2 {
        fortune.some_moment(500).await;
        producer.add().await;
        done.scaled_down += 1;
        nodes.flows(200).await;
    }
    assert_eq!(nodes.info("alpha_metrics").await.config.num_replicas, 1, "its add says 0, which is one");
    nodes.settle(ledger, fortune, done).await;
    assert_eq!(nodes.mongo.count("elsewhere").await, 0);
}
