//! A database that fails with every code of the error table, as a refusal and as an unmet write concern, one after another
//! under load: nothing is lost, nothing doubled, and no document is blamed for it.

use super::plan::Failure;
use crate::collector_support::World;
use crate::support::eventually;
use futures_util::future::join_all;
use mongodb::bson::doc;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(60);
/// Documents that meet each failure.
const EACH: i64 = 40;

/// Lets the database fail in all these ways, one after another.
async fn meets(failures: Vec<Failure>) {
    let world = World::start(10_000).await;
    let running = world.run(world.output(), false).await;
    world.publish([doc! {"n": -1i64}]).await;
    world.drained(SOON).await;
    let mut sent = 0;
    for failure in failures {
        world.mongo.fail_command(failure.document(1, false)).await;
        world.publish((sent..sent + EACH).map(|n| doc! {"n": n})).await;
        sent += EACH;
        eventually(&format!("{failure:?} is over"), SOON, || async { world.waiting().await == 0 }).await;
        assert_eq!(world.dead().await, 0, "{failure:?}");
    }
    let all = usize::try_from(sent).unwrap() + 1;
    assert_eq!(world.counted().await, (all, all));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_code_the_database_fails_with_nothing_is_lost_doubled_or_dead_lettered() {
    require!("nats-server", "database");
    let codes = Failure::codes();
    let ways = codes.iter().flat_map(|code| [Failure::Code(*code), Failure::Concern(*code)]).chain([Failure::Close, Failure::Block(300)]);
    let ways: Vec<_> = ways.collect();
    // A fail point is the whole server's, and most of the time is spent waiting for the next try: several servers at once.
    join_all(ways.chunks(ways.len().div_ceil(6)).map(|ways| meets(ways.to_vec()))).await;
}
