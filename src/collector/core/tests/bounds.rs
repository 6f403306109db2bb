//! More rules of the core: other streams, what waits aside, pulls, leases and documents that single out themselves.

use super::rules::{Desk, LIMITS, insert};
use crate::collector::classify::Class;
use crate::collector::core::*;

fn pulls(effects: &[Effect]) -> usize {
    effects.iter().filter(|effect| matches!(effect, Effect::Pull { .. })).count()
}

#[test]
fn what_is_held_of_another_stream_is_released_without_a_word_and_late_replies_find_nothing() {
    let mut desk = Desk::new(2, true);
    let inserting = insert(&desk.deliver(2));
    let acking = insert(&desk.deliver(2));
    assert_eq!(desk.inserted(acking, &[]), [Effect::Ack(acking)]);
    desk.deliver(1);
    desk.deliver_kind(1, 0, Kind::Unreadable);
    let effects = desk.on(Event::OtherStream);
    let [Effect::Release(released)] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!((released.len(), desk.core.in_hand(), desk.core.in_hand_bytes()), (6, 0, 0));
    assert_eq!(desk.inserted(inserting, &[]), []);
    assert_eq!(desk.on(Event::Acked(acking, false)), []);
    assert_eq!(desk.after(40 * SECOND), []);
    assert_eq!(desk.core.troubles(), Troubles::default());
}

#[test]
fn too_many_aside_are_told_and_one_batch_is_fetched_past_them_every_half_minute() {
    let mut desk = Desk::new(10, false);
    desk.deliver_kind(1000, 500, Kind::Unreadable);
    desk.outstanding = 0;
    assert_eq!(pulls(&desk.on(Event::Tick)), 0);
    assert!(desk.core.troubles().aside && desk.core.troubles().nothing_stored);
    let mut fetched = 0;
    for _ in 0..90 {
        for effect in desk.after(SECOND) {
            match effect {
                Effect::Pull { batch, .. } => {
                    assert_eq!(batch, 10);
                    fetched += 1;
                }
                Effect::Renew(group) => assert_eq!(pulls(&desk.on(Event::Renewed(group, desk.now, true))), 0),
                other => panic!("{other:?}"),
            }
        }
    }
    assert_eq!(fetched, 3);
    // A good one proves the config: the others go, and pulling is free again.
    let group = insert(&desk.deliver(10));
    desk.inserted(group, &[]);
    assert!(!desk.core.troubles().nothing_stored);
}

#[test]
fn fewer_than_the_bound_aside_do_not_take_the_place_of_others() {
    let mut desk = Desk::new(10, false);
    desk.deliver_kind(500, 500, Kind::Unreadable);
    desk.outstanding = 0;
    assert_eq!(pulls(&desk.on(Event::Tick)), 1);
    assert!(!desk.core.troubles().aside);
}

#[test]
fn a_consumer_that_is_there_and_gone_again_is_asked_ever_more_slowly_until_it_brings_something() {
    let mut desk = Desk::new(10, true);
    desk.outstanding = 0;
    let mut asked = 0;
    let begun = desk.now;
    while desk.now < begun + 60 * SECOND {
        if pulls(&desk.on(Event::Tick)) > 0 {
            asked += 1;
            desk.on(Event::Consumer(false));
            desk.on(Event::Consumer(true));
        }
        desk.now += MS;
    }
    assert!((5..30).contains(&asked), "{asked} pulls in a minute");
    desk.deliver(1);
    desk.on(Event::Consumer(false));
    assert_eq!(pulls(&desk.on(Event::Consumer(true))), 1, "at once the first time");
}

#[test]
fn no_request_is_larger_than_the_consumer_allows() {
    let mut desk = Desk::new(100, true);
    desk.outstanding = 0;
    desk.on(Event::Limits(Limits { max_batch: 7, ..LIMITS }));
    let effects = desk.deliver_kind(1, 500, Kind::Document);
    assert!(matches!(effects[..], [Effect::Pull { batch: 7, .. }]), "{effects:?}");
}

#[test]
fn a_probe_that_cannot_begin_does_not_spin_the_clock() {
    for target in [Target::Good, Target::Bad] {
        let mut desk = Desk::new(2, true);
        let first = insert(&desk.deliver(2));
        insert(&desk.deliver(2));
        desk.on(Event::Inserted(first, Outcome::Failed(Class::Transient)));
        desk.on(Event::Target(target));
        insert(&if target == Target::Good { desk.after(SECOND) } else { vec![Effect::Insert(first)] });
        desk.after(5 * SECOND);
        assert!(desk.core.next_deadline() > desk.now + SECOND, "{target:?}");
    }
}

#[test]
fn a_shorter_ack_wait_shortens_the_leases_in_hand() {
    let mut desk = Desk::new(2, true);
    let group = insert(&desk.deliver(2));
    desk.after(8 * SECOND);
    let effects = desk.on(Event::Limits(Limits { ack_wait: 10 * SECOND, ..LIMITS }));
    assert_eq!(effects, [Effect::Renew(group)]);
    desk.now += 2 * SECOND;
    assert!(matches!(desk.inserted(group, &[])[..], [Effect::Release(_)]), "the server has given them to others");
}

#[test]
fn a_reply_to_an_earlier_renewal_does_not_stand_for_the_present_one() {
    let mut desk = Desk::new(4, true);
    let group = insert(&desk.deliver(4));
    let first = desk.now + 14 * SECOND;
    assert_eq!(desk.after(14 * SECOND), [Effect::Renew(group)]);
    desk.on(Event::Renewed(group, first, false));
    let effects = desk.after(4 * SECOND);
    assert_eq!(effects, [Effect::Renew(group)]);
    desk.on(Event::Renewed(group, first, true));
    assert!(desk.core.entries(group).iter().all(|entry| entry.lease_ends < desk.now + 15 * SECOND), "still the old lease");
    desk.on(Event::Renewed(group, desk.now, true));
    assert!(desk.core.entries(group).iter().all(|entry| entry.lease_ends > desk.now + 25 * SECOND));
}

#[test]
fn one_document_that_the_server_cannot_take_now_does_not_hold_up_the_others() {
    let mut desk = Desk::new(2, true);
    let group = insert(&desk.deliver(2));
    let effects = desk.inserted(group, &[(1, Class::Transient)]);
    assert_eq!(effects, [Effect::Ack(group)]);
    assert!(desk.core.troubles().unavailable);
    for _ in 0..20 {
        let next = desk.deliver(2);
        let busy: Vec<GroupId> = next.iter().filter_map(|e| if let Effect::Insert(group) = e { Some(*group) } else { None }).collect();
        assert!(!busy.is_empty(), "{next:?}");
        for group in busy {
            let alone = desk.core.entries(group).iter().any(|entry| entry.slot == 2);
            desk.inserted(group, if alone { &[(0, Class::Transient)] } else { &[] });
        }
        desk.now += 100 * MS;
    }
    assert_eq!(desk.core.totals().written, 41);
}

#[test]
fn a_pipeline_without_room_in_the_budget_looks_ever_more_seldom() {
    let mut desk = Desk::new(10, true);
    (desk.outstanding, desk.free) = (0, 0);
    desk.on(Event::Tick);
    let mut looks = 0;
    let begun = desk.now;
    while desk.now < begun + 60 * SECOND {
        desk.now = desk.core.next_deadline();
        desk.on(Event::Tick);
        looks += 1;
    }
    assert!(looks < 75, "{looks} looks in a minute");
}
