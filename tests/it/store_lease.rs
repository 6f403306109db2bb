//! The lease on a real nats-server: one holder, validity from before the renewal, expiry, takeover, release.

use crate::store::prepared;
use crate::support::Nats;
use sluice::store::lease::LEASE_TTL;
use sluice::store::{LeaseHolder, LeaseStore, StoreErrorKind};
use std::time::{Duration, Instant};

fn someone() -> LeaseHolder {
    LeaseHolder { process: uuid::Uuid::now_v7(), host: "here".into(), executor: "in_process".into(), epoch: 0 }
}

async fn leases(nats: &Nats) -> LeaseStore {
    prepared(nats).await.lease
}

#[tokio::test]
async fn one_process_holds_the_lease_and_the_others_are_told_who() {
    require!("nats-server");
    let nats = Nats::start().await;
    let leases = leases(&nats).await;
    assert_eq!(leases.current().await.unwrap(), None);
    let (me, other) = (someone(), someone());
    let before = Instant::now();
    let mut lease = leases.acquire(&me).await.unwrap().unwrap();
    assert!(lease.valid(Instant::now()) && lease.remaining(before) >= LEASE_TTL - Duration::from_millis(500));
    assert!(!lease.valid(Instant::now() + LEASE_TTL), "validity is counted from before the write");

    let held = LeaseHolder { epoch: lease.epoch, ..me.clone() };
    assert_eq!(leases.acquire(&other).await.unwrap().unwrap_err(), held);
    assert_eq!(leases.current().await.unwrap(), Some(held.clone()));
    let epoch = lease.epoch;
    leases.renew(&mut lease, &me).await.unwrap();
    leases.renew(&mut lease, &me).await.unwrap();
    assert_eq!(lease.epoch, epoch, "the epoch is the acquisition's");
    assert_eq!(leases.current().await.unwrap(), Some(held));

    leases.release(lease).await.unwrap();
    assert_eq!(leases.current().await.unwrap(), None);
    let next = leases.acquire(&other).await.unwrap().unwrap();
    assert!(next.epoch > epoch);
}

#[tokio::test]
async fn of_many_who_want_the_lease_at_once_one_gets_it() {
    require!("nats-server");
    let nats = Nats::start().await;
    let leases = leases(&nats).await;
    let tries = (0..16).map(|_| async { leases.acquire(&someone()).await.unwrap() });
    let won = futures_util::future::join_all(tries).await.into_iter().filter(Result::is_ok).count();
    assert_eq!(won, 1);
}

#[tokio::test]
async fn an_abandoned_lease_expires_and_its_old_holder_cannot_renew_or_release_it() {
    require!("nats-server");
    let nats = Nats::start().await;
    let leases = leases(&nats).await;
    let (me, other) = (someone(), someone());
    let mut old = leases.acquire(&me).await.unwrap().unwrap();
    let start = Instant::now();
    let new = loop {
        match leases.acquire(&other).await.unwrap() {
            Ok(lease) => break lease,
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
        assert!(start.elapsed() < LEASE_TTL + Duration::from_secs(5), "never expires");
    };
    assert!(!old.valid(Instant::now()), "two hold it at once");
    assert!(new.epoch > old.epoch);
    assert_eq!(leases.renew(&mut old, &me).await.unwrap_err().kind(), StoreErrorKind::Conflict);
    assert_eq!(leases.release(old).await.unwrap_err().kind(), StoreErrorKind::Conflict);
    assert_eq!(leases.current().await.unwrap().unwrap().process, other.process);
}

#[tokio::test]
async fn a_renewal_whose_answer_was_lost_does_not_cost_the_lease() {
    require!("nats-server");
    let nats = Nats::start().await;
    let leases = leases(&nats).await;
    let me = someone();
    let mut lease = leases.acquire(&me).await.unwrap().unwrap();
    // The clone stands for the state before a renewal that was stored and never answered.
    let mut unaware = lease.clone();
    leases.renew(&mut lease, &me).await.unwrap();
    leases.renew(&mut unaware, &me).await.unwrap();
    assert_eq!(unaware.epoch, lease.epoch);
    leases.release(lease).await.unwrap();

    // So does an acquisition: the same process gets a new epoch.
    let first = leases.acquire(&me).await.unwrap().unwrap();
    let second = leases.acquire(&me).await.unwrap().unwrap();
    assert!(second.epoch > first.epoch);
}

#[tokio::test]
async fn a_lease_in_a_bucket_without_a_max_age_ends_too() {
    require!("nats-server");
    let nats = Nats::start().await;
    let config = async_nats::jetstream::kv::Config { bucket: "alpha-lease".into(), ..Default::default() };
    nats.jetstream().await.create_key_value(config).await.unwrap();
    let leases = leases(&nats).await;
    leases.acquire(&someone()).await.unwrap().unwrap();
    let start = Instant::now();
    while leases.acquire(&someone()).await.unwrap().is_err() {
        assert!(start.elapsed() < LEASE_TTL + Duration::from_secs(5), "never ends");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert!(start.elapsed() >= LEASE_TTL);
}
