//! Tests of the ledger's rules; the whole of them, under faults, in the simulation of the core.

use super::*;
use crate::collector::core::{Nanos, SECOND};

const LEASE: Duration = Duration::from_secs(15);

fn key() -> Key {
    Key { stream: "alpha_metrics".into(), created_ns: 7, collection: "metrics".into() }
}

fn keeper(me: u128, version: &str) -> Keeper {
    Keeper::new(Uuid::from_u128(me), key(), version, LEASE, 0)
}

fn page(owner: Option<u128>, term: u64, beat: u64) -> Page {
    Page { term, beat, owner: owner.map(Uuid::from_u128), version: "1".into(), reserved: 500, lease: LEASE }
}

/// Lets `keeper` ask until it waits; what is read is `page`, and every write succeeds.
fn ask(keeper: &mut Keeper, page: Option<&Page>, now: Nanos) -> Vec<Ask> {
    let mut asks = Vec::new();
    while let Some(ask) = keeper.next(now) {
        let answer = if ask == Ask::Read { Answer::Page(page.cloned()) } else { Answer::Written(true) };
        asks.push(ask);
        keeper.answered(answer, now);
    }
    asks
}

#[test]
fn a_page_that_does_not_exist_is_made_by_who_asks_first() {
    let mut keeper = Keeper::new(Uuid::from_u128(1), key(), "1", LEASE, 70);
    ask(&mut keeper, None, 0);
    assert_eq!(keeper.standing(), Standing::Owner { term: 1, known: 70 });
}

#[test]
fn who_stands_by_takes_over_when_the_beat_has_stood_for_the_lease_and_not_before() {
    let mut keeper = keeper(1, "1");
    let beats = |second: u64| page(Some(2), 4, second.min(20));
    for second in 0..35 {
        ask(&mut keeper, Some(&beats(second)), second * SECOND);
        assert_eq!(keeper.standing(), Standing::StandBy, "second {second}");
    }
    ask(&mut keeper, Some(&beats(40)), 40 * SECOND);
    assert_eq!(keeper.standing(), Standing::Owner { term: 5, known: 500 });
}

#[test]
fn a_page_that_was_given_back_is_taken_at_once_and_a_leaving_version_is_looked_at_often() {
    let mut keeper = keeper(1, "2");
    ask(&mut keeper, Some(&page(Some(2), 4, 1)), 0);
    assert!(keeper.due() <= SECOND / 4);
    let due = keeper.due();
    ask(&mut keeper, Some(&page(None, 4, 2)), due);
    assert_eq!(keeper.term(), Some(5));
}

#[test]
fn while_nobody_can_read_the_page_no_beat_counts_as_standing() {
    let mut keeper = keeper(1, "1");
    ask(&mut keeper, Some(&page(Some(2), 4, 1)), 0);
    keeper.next(5 * SECOND);
    keeper.answered(Answer::Failed, 5 * SECOND);
    assert!(!keeper.heard());
    ask(&mut keeper, Some(&page(Some(2), 4, 1)), 600 * SECOND);
    assert_eq!(keeper.standing(), Standing::StandBy, "the owner could not beat either");
}

#[test]
fn an_owner_steps_back_when_an_answer_says_so_and_never_because_of_silence() {
    let mut keeper = keeper(1, "1");
    ask(&mut keeper, None, 0);
    assert_eq!(keeper.next(5 * SECOND), Some(Ask::Renew { term: 1 }));
    assert!(!keeper.answered(Answer::Failed, 6 * SECOND) && keeper.term() == Some(1));
    assert_eq!(keeper.next(500 * SECOND), Some(Ask::Renew { term: 1 }));
    assert!(keeper.answered(Answer::Written(false), 500 * SECOND));
    assert_eq!(keeper.standing(), Standing::StandBy);
    assert_eq!(keeper.next(500 * SECOND), Some(Ask::Read));
}

#[test]
fn a_reservation_is_a_beat_and_one_of_an_earlier_term_says_nothing() {
    let mut keeper = keeper(1, "1");
    ask(&mut keeper, None, 0);
    keeper.wrote(1, 4 * SECOND);
    assert_eq!(keeper.due(), 9 * SECOND);
    keeper.lost(0, 4 * SECOND);
    assert_eq!(keeper.term(), Some(1));
    keeper.lost(1, 4 * SECOND);
    assert_eq!(keeper.term(), None);
}

#[test]
fn a_take_over_whose_answer_was_lost_is_taken_again_at_once() {
    let mut keeper = keeper(1, "1");
    assert_eq!(keeper.next(0), Some(Ask::Read));
    keeper.answered(Answer::Page(Some(page(None, 4, 1))), 0);
    assert!(matches!(keeper.next(0), Some(Ask::Take { .. })));
    keeper.answered(Answer::Failed, 0);
    let due = keeper.due();
    ask(&mut keeper, Some(&page(Some(1), 5, 2)), due);
    assert_eq!(keeper.term(), Some(6));
}

#[test]
fn under_load_a_block_is_asked_for_every_ten_thousand_messages_and_long_before_it_is_needed() {
    let (mut blocks, mut reserved, mut writes, mut last) = (Blocks::new(), 0, 0, 0);
    for arrived in 1..=400_000 {
        if let Some(upto) = blocks.wanted(arrived, reserved) {
            assert!(arrived == 1 || reserved - arrived >= 499);
            (reserved, writes) = (upto, writes + 1);
            blocks.reserved(Duration::from_micros((arrived - last) * 10));
            last = arrived;
        }
    }
    assert!((38..=46).contains(&writes), "{writes}");
}

#[test]
fn a_trickle_reserves_little_so_that_a_crash_makes_few_suspects() {
    let mut blocks = Blocks::new();
    for _ in 0..5 {
        blocks.reserved(Duration::from_secs(600));
    }
    assert_eq!(blocks.wanted(10, 0), Some(10 + Blocks::SMALLEST));
}

#[test]
fn a_record_is_looked_at_some_times_over_an_hour_and_then_forgotten() {
    let wait = Duration::from_secs(30);
    let at = |seconds, passes| fate(Duration::from_secs(seconds), passes, wait);
    assert_eq!([at(59, 0), at(60, 0), at(200, 1), at(240, 1)], [Fate::Rest, Fate::Keep, Fate::Rest, Fate::Keep]);
    assert_eq!([at(3000, 3), at(3840, 3)], [Fate::Rest, Fate::Forget]);
}

#[test]
fn a_page_that_does_not_exist_yet_knows_what_executions_without_a_ledger_may_have_inserted() {
    assert_eq!(known_at_first(0), 0);
    assert!(known_at_first(5) > 5);
}

#[test]
fn the_lease_of_a_page_is_half_of_a_messages_within_bounds() {
    assert_eq!([1, 10, 30, 600].map(|wait| lease(Duration::from_secs(wait)).as_secs()), [2, 5, 15, 15]);
}

#[test]
fn the_name_of_a_page_never_changes() {
    assert_eq!(key().id(), "alpha_metrics@7/metrics");
}
