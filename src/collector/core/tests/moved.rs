//! What may lie in a previous target: one rule a test.

use super::rules::{Desk, insert};
use crate::collector::classify::Class;
use crate::collector::core::*;

fn check(effects: &[Effect]) -> GroupId {
    let found = effects.iter().find_map(|effect| if let Effect::Check(group) = effect { Some(*group) } else { None });
    found.unwrap_or_else(|| panic!("no look-up in {effects:?}"))
}

fn executed<'a>(failures: &'a [(u32, Class)]) -> Outcome<'a> {
    Outcome::Executed { failures, uncertain: None }
}

#[test]
fn what_lies_in_a_previous_target_is_acknowledged_and_the_rest_inserted() {
    let mut desk = Desk::new(10, true);
    let effects = desk.deliver_doubtful(10);
    assert!(!effects.iter().any(|effect| matches!(effect, Effect::Insert(_))), "{effects:?}");
    let effects = desk.on(Event::Checked(check(&effects), executed(&[(2, Class::Done), (5, Class::Done)])));
    let acked = effects.iter().find_map(|effect| if let Effect::Ack(group) = effect { Some(*group) } else { None }).unwrap();
    assert_eq!(desk.core.entries(acked).iter().map(|entry| entry.slot).collect::<Vec<_>>(), [3, 6]);
    assert_eq!(desk.core.entries(insert(&effects)).len(), 8);
    assert_eq!(desk.core.totals().duplicates, 2);
}

#[test]
fn while_a_previous_target_cannot_be_asked_nothing_is_inserted_and_leases_are_kept() {
    let mut desk = Desk::new(10, true);
    let effects = desk.deliver_doubtful(10);
    assert!(desk.on(Event::Checked(check(&effects), Outcome::Failed(Class::Transient))).is_empty());
    assert!(desk.core.troubles().previous && !desk.core.troubles().nothing_stored);
    // Also while it is asked again.
    let asked_again = (0..100).find_map(|_| Some(desk.after(100 * MS)).filter(|effects| !effects.is_empty())).unwrap();
    assert!(desk.core.troubles().previous);
    desk.on(Event::Checked(check(&asked_again), Outcome::Failed(Class::Transient)));
    let (mut asked, mut renewed) = (0, 0);
    for _ in 0..600 {
        for effect in desk.after(100 * MS) {
            match effect {
                Effect::Check(group) => {
                    asked += 1;
                    assert!(desk.on(Event::Checked(group, Outcome::Failed(Class::Transient))).is_empty());
                }
                Effect::Renew(group) => {
                    renewed += 1;
                    let now = desk.now;
                    desk.on(Event::Renewed(group, now, true));
                }
                Effect::Pull { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    }
    assert!(asked > 10 && renewed > 1 && desk.core.in_hand() == 10, "{asked} {renewed}");
    let effects = (0..100).find_map(|_| Some(desk.after(100 * MS)).filter(|effects| !effects.is_empty())).unwrap();
    let effects = desk.on(Event::Checked(check(&effects), executed(&[])));
    assert_eq!(desk.core.entries(insert(&effects)).len(), 10);
    assert!(!desk.core.troubles().previous);
}

#[test]
fn new_messages_do_not_wait_for_those_that_cannot_be_looked_up() {
    let mut desk = Desk::new(10, true);
    let effects = desk.deliver_doubtful(10);
    desk.on(Event::Checked(check(&effects), Outcome::Failed(Class::Transient)));
    let new = insert(&desk.deliver(10));
    assert_eq!(desk.core.entries(new).len(), 10);
}

#[test]
fn a_dead_letter_of_before_is_never_tried_as_a_document() {
    let mut desk = Desk::new(10, true);
    let effects = desk.deliver_doubtful(10);
    let effects = desk.on(Event::Checked(check(&effects), executed(&[(0, Class::Document)])));
    assert_eq!(desk.core.entries(insert(&effects)).len(), 9);
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Bury(_))), "{effects:?}");
}

#[test]
fn a_stop_gives_back_what_could_not_be_looked_up() {
    let mut desk = Desk::new(10, true);
    desk.outstanding = 0;
    let effects = desk.deliver_doubtful(10);
    desk.on(Event::Checked(check(&effects), Outcome::Failed(Class::Transient)));
    let deadline = desk.now + 20 * SECOND;
    let effects = desk.on(Event::Stop(deadline));
    assert!(matches!(&effects[..], [Effect::Nak(back), Effect::Finished] if back.len() == 10), "{effects:?}");
}
