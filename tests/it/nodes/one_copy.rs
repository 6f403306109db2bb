//! A stream of one copy: with its node, deliveries and acknowledgements of the last moments are forgotten.

use super::*;

/// The node that a stream of one copy with a short lease lies on.
async fn one_copy(cluster: &NatsCluster) -> usize {
    let stream = jetstream::stream::Config {
        name: "alpha_metrics".into(),
        subjects: vec!["alpha.metrics".into()],
        retention: jetstream::stream::RetentionPolicy::WorkQueue,
        discard: jetstream::stream::DiscardPolicy::New,
        num_replicas: 1,
        ..Default::default()
    };
    let stream = cluster.jetstream().await.create_stream(stream).await.unwrap();
    let durable = jetstream::consumer::pull::Config {
        durable_name: Some("default".into()),
        ack_policy: jetstream::consumer::AckPolicy::Explicit,
        ack_wait: LEASE,
        max_ack_pending: 20_000,
        ..Default::default()
    };
    stream.create_consumer(durable).await.unwrap();
    cluster.leader_of("alpha_metrics").await
}

/// How many messages both have been given so far.
async fn received(members: &[Sluice]) -> u64 {
    let mut sum = 0;
    for member in members {
        let executions: Vec<Value> = serde_json::from_str(&member.get("/api/v1/executions").await.1).unwrap_or_default();
        sum += executions.iter().filter_map(|one| one["counters"]["received"].as_u64()).sum::<u64>();
    }
    sum
}

#[tokio::test(flavor = "multi_thread")]
async fn one_copy_in_a_cluster_is_named_in_the_status_and_by_doctor() {
    require!("nats-server", "database");
    let (cluster, mongo) = tokio::join!(NatsCluster::start(), Mongo::start());
    one_copy(&cluster).await;
    let everywhere = |cluster: &NatsCluster| [cluster.urls_without(&[]), cluster.urls_without(&[])];
    let nodes = Nodes::on(cluster, mongo, everywhere).await;
    nodes.publish(&plain("metrics")).await;
    let member = &nodes.members[0];
    let told =
        || async { String::from_utf8_lossy(&member.cli(&["status", "metrics"]).await.stdout).contains("num_replicas 1 in the cluster") };
    eventually("the status names it", LONG, told).await;
    let doctor = member.cli(&["doctor"]).await;
    let shown = String::from_utf8_lossy(&doctor.stdout).into_owned();
    assert!(!doctor.status.success() && shown.contains("stream alpha_metrics may lose what it has confirmed: num_replicas 1"), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_node_of_a_stream_of_one_copy_killed_right_after_a_delivery_to_two_replicas_doubles_nothing() {
    require!("nats-server", "database");
    let mut fortune = Fortune::new("one-copy");
    let (cluster, mongo) = tokio::join!(NatsCluster::start(), Mongo::start());
    let node = one_copy(&cluster).await;
    // Connected elsewhere, so that none of them notices.
    let elsewhere = |cluster: &NatsCluster| [cluster.urls_without(&[node]), cluster.urls_without(&[node])];
    let mut nodes = Nodes::on(cluster, mongo, elsewhere).await;
    nodes.publish(&plain("metrics").replace("20ms", "100ms")).await;
    let ledger = nodes.load().await;
    let mut done = Done::default();
    for _ in 0..3 * rounds(Duration::from_secs(30)) {
        nodes.flows(300).await;
        fortune.some_moment(300).await;
        let before = received(&nodes.members).await;
        // Within milliseconds of a delivery: both hold something all the time.
        while received(&nodes.members).await == before {}
        nodes.cluster.kill9(node);
        done.kills_of_the_only_copys_node += 1;
        nodes.cluster.restart(node).await;
    }
    nodes.settle(ledger, fortune, done).await;
    let (received, messages) = (received(&nodes.members).await, nodes.info("alpha_metrics").await.state.last_sequence);
    assert!(received > messages, "{received} deliveries of {messages} messages: nothing was forgotten");
}
