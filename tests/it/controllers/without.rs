//! Nobody can decide: what runs goes on.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn without_any_holder_what_runs_goes_on_and_edits_wait_until_somebody_decides() {
    require!("nats-server", "database");
    let mut fleet = Fleet::of(2).await;
    fleet.publish("metrics", &plain("metrics")).await;
    // The bucket of the lease takes no record any more: nobody can renew, and nobody can take over.
    let jetstream = fleet.nats.jetstream().await;
    let lease = jetstream.get_stream("KV_alpha-lease").await.unwrap().cached_info().config.clone();
    jetstream.update_stream(&jetstream::stream::Config { max_message_size: 1, ..lease.clone() }).await.unwrap();
    eventually("nobody decides", SOON, || async {
        fleet.lease().await.is_none()
            && health(&fleet.members[0]).await["holder"] == false
            && health(&fleet.members[1]).await["holder"] == false
    })
    .await;
    let written = fleet.status("metrics").await;
    fleet.operator.cli_ok(&["pause", "metrics"]).await;
    let mut sent = 0;
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(4) {
        fleet.send("metrics", sent..sent + 500).await;
        sent += 500;
    }
    fleet.exactly("metrics", "metrics", 0..sent).await;
    // One that starts now runs what was admitted, too.
    fleet.members[0].kill9();
    fleet.members[0].respawn();
    eventually("it runs again", SOON, || async { versions(&fleet.members[0], "metrics").await.len() == 1 }).await;
    fleet.members[1].kill9();
    fleet.send("metrics", sent..sent + 500).await;
    fleet.exactly("metrics", "metrics", 0..sent + 500).await;
    assert_eq!(fleet.status("metrics").await, written, "nobody decided anything");
    let says = |health: &Value| {
        health["checks"].as_array().is_some_and(|checks| checks.iter().any(|one| one["name"] == "lease" && one["ok"] == false))
    };
    eventually("health says that nobody decides", SOON, || async { says(&health(&fleet.members[0]).await) }).await;

    jetstream.update_stream(&lease).await.unwrap();
    fleet.phase_is("metrics", "stopped").await;
    eventually("it is ready again", SOON, || async { health(&fleet.members[0]).await["ready"] == true }).await;
}
