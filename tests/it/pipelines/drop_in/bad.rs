//! Entries of producers with anything in them: they touch their own pipeline alone, and the status says why.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn bad_entries_of_producers_touch_their_own_pipeline_alone_and_what_ran_goes_on() {
    require!("nats-server", "database");
    let stage = stage().await;
    let (healthy, victim) = (Producer::of(&stage, "healthy").await, Producer::of(&stage, "victim").await);
    healthy.add().await;
    victim.add().await;
    for id in ["healthy", "victim"] {
        runs_derived(&stage, id).await;
    }
    let long = format!(r#"{{"key":"victim","collection":"{}"}}"#, "x".repeat(300));
    let cases = [
        (r#"{"key":"healthy","subs":null,"collection":"c"}"#, "EntryUnreadable"),
        (r#"{"key":7}"#, "EntryUnreadable"),
        (r#"{"key":"victim","subs":"a.b"}"#, "EntryUnreadable"),
        (r#"{"key":"victim","collection":{"$ne":null}}"#, "EntryUnreadable"),
        (r#"{"key":"victim","status":"Published"}"#, "EntryUnreadable"),
        (r#"{"key":"victim","collection":"a$b"}"#, "ConfigInvalid"),
        (r#"{"key":"victim","collection":"system.users"}"#, "ConfigInvalid"),
        (r#"{"key":"victim","collection":"mongodb://u:p@h/"}"#, "ConfigInvalid"),
        (&long, "ConfigInvalid"),
    ];
    let mut sent = 0;
    for (entry, reason) in cases {
        let revision = victim.put(entry).await;
        has_read(&stage, "victim", revision).await;
        stage.says("victim", "Valid", false, reason).await;
        for id in ["healthy", "victim"] {
            stage.send(&format!("alpha.{id}"), sent..sent + 20).await;
        }
        sent += 20;
        assert!(has(&stage.status("healthy").await, "Valid", true, "AsDesired"));
    }
    for id in ["healthy", "victim"] {
        stage.exactly(id, 0..sent).await;
    }
    // What can be left out is left out, and said.
    let odd = r#"{"key":"victim","subs":["alpha.states","a b","alpha.>","extra.ok"],"description":"","collection":"victim"}"#;
    victim.put(odd).await;
    stage.says("victim", "Valid", true, "AsDesired").await;
    stage.says("victim", "Advisory", true, "EntryAdjusted").await;
    stage.send("alpha.victim", sent..sent + 20).await;
    stage.exactly("victim", 0..sent + 20).await;
}
