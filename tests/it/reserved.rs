//! Names that others need: refused by lint where they can be known, and by the holder where only it knows.

use crate::support::{Mongo, Nats, Run, Sluice, eventually};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(40);

fn config(subjects: &str, collection: &str) -> String {
    format!("schema: 1\ninput: {{nats_jetstream: {{subjects: [{subjects}]}}}}\noutput: {{mongodb: {{collection: {collection}}}}}\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_installation_needs_is_refused_before_it_is_published() {
    require!("nats-server", "database");
    let (nats, mongo) = (Nats::start().await, Mongo::start().await);
    let env = vec![("SLUICE_NATS_INBOX_PREFIX".to_owned(), "ctl_inbox".to_owned())];
    let sluice = Run { env, ..Run::new(&nats, &mongo) }.start().await;
    for (subject, collection) in [
        ("'_INBOX_ctl.>'", "c"),
        ("'ctl_inbox.>'", "c"),
        ("alpha-closed.m", "c"),
        ("'alpha-logs.*'", "c"),
        ("'alpha-reports.>'", "c"),
        ("plant.a", "sluice_ledger"),
    ] {
        std::fs::write(sluice.dir.join("bad.yml"), config(subject, collection)).unwrap();
        let output = sluice.cli(&["publish", "m", "-f", "bad.yml"]).await;
        assert!(!output.status.success(), "{subject} {collection}: {}", String::from_utf8_lossy(&output.stdout));
    }
    std::fs::write(sluice.dir.join("good.yml"), config("plant.a", "c")).unwrap();
    sluice.cli_ok(&["publish", "m", "-f", "good.yml", "--wait"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subject_of_another_pipeline_is_not_admitted_and_the_status_says_whose_it_is() {
    require!("nats-server", "database");
    let (nats, mongo) = (Nats::start().await, Mongo::start().await);
    let sluice = Sluice::start(&nats, &mongo).await;
    std::fs::write(sluice.dir.join("first.yml"), config("plant.a", "c")).unwrap();
    sluice.cli_ok(&["publish", "first", "-f", "first.yml", "--wait"]).await;
    for (id, subject) in [("second", "alpha.first"), ("third", "'plant.*'")] {
        std::fs::write(sluice.dir.join("taken.yml"), config(subject, "c")).unwrap();
        sluice.cli_ok(&["publish", id, "-f", "taken.yml"]).await;
        let path = format!("/api/v1/pipelines/{id}");
        eventually("it is said", SOON, || async {
            let (_, status) = sluice.get(&path).await;
            status.contains("SubjectTaken") && status.contains("pipeline first")
        })
        .await;
    }
}
