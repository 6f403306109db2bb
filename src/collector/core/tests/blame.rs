//! Which refusals make a dead letter, and which do not: company, doubt, unknown reasons, commands that one document spoils.

use super::rules::{Desk, insert};
use crate::collector::classify::Class;
use crate::collector::core::*;

/// What the database answers to an insert of these slots.
type Answers<'a> = &'a dyn Fn(&[u32]) -> Result<Vec<(u32, Class)>, Class>;

/// Lets the core work for some seconds, while `answers` is the database: the slots that were stored, and that became dead letters.
fn work(desk: &mut Desk, mut effects: Vec<Effect>, seconds: u64, answers: Answers<'_>) -> (Vec<u32>, Vec<u32>) {
    let (mut stored, mut buried) = (Vec::new(), Vec::new());
    for tick in 0..=seconds * 10 {
        while let Some(effect) = (!effects.is_empty()).then(|| effects.remove(0)) {
            match effect {
                Effect::Insert(group) => {
                    let slots: Vec<u32> = desk.core.entries(group).iter().map(|entry| entry.slot).collect();
                    let answer = answers(&slots);
                    match answer {
                        Ok(failures) => {
                            let failed = |index: usize| failures.iter().any(|(of, _)| *of as usize == index);
                            stored.extend(slots.iter().enumerate().filter(|(index, _)| !failed(*index)).map(|(_, slot)| *slot));
                            effects.extend(desk.inserted(group, &failures));
                        }
                        Err(class) => effects.extend(desk.on(Event::Inserted(group, Outcome::Failed(class)))),
                    }
                }
                Effect::Ack(group) | Effect::Terminate(group) => effects.extend(desk.on(Event::Acked(group, true))),
                Effect::Renew(group) => effects.extend(desk.on(Event::Renewed(group, desk.now, true))),
                Effect::Bury(group) => {
                    buried.push(desk.core.entries(group)[0].slot);
                    effects.extend(desk.on(Event::Buried(group, true)));
                }
                Effect::Ping => effects.extend(desk.on(Event::Pinged(None))),
                Effect::Release(_) => {}
                other => panic!("{other:?}"),
            }
        }
        if tick < seconds * 10 {
            effects = desk.after(100 * MS);
        }
    }
    stored.sort_unstable();
    (stored, buried)
}

/// Failures of `class` for the slots of which `of` is true.
fn each(slots: &[u32], class: Class, of: impl Fn(u32) -> bool) -> Vec<(u32, Class)> {
    (0..).zip(slots).filter(|(_, slot)| of(**slot)).map(|(index, _)| (index, class)).collect()
}

#[test]
fn one_bad_in_a_thousand_is_a_dead_letter_at_once_and_its_neighbours_are_stored_the_first_time() {
    let mut desk = Desk::new(1000, false);
    let group = insert(&desk.deliver(1000));
    let effects = desk.inserted(group, &[(500, Class::Document)]);
    assert!(matches!(effects[..], [Effect::Ack(_), Effect::Bury(_)]), "{effects:?}");
}

#[test]
fn a_code_that_hits_every_document_of_a_batch_blames_none_and_all_are_stored_when_it_is_gone() {
    for class in [Class::Document, Class::Doubtful, Class::Unknown, Class::Operator, Class::Transient] {
        let mut desk = Desk::new(5, true);
        let effects = desk.deliver(10);
        let (stored, buried) = work(&mut desk, effects, 600, &|slots| Ok(each(slots, class, |_| true)));
        assert_eq!((stored.len(), buried.len(), desk.core.in_hand()), (0, 0, 10), "{class:?}");
        let (stored, buried) = work(&mut desk, Vec::new(), 120, &|_| Ok(Vec::new()));
        assert_eq!((stored.len(), buried.len()), (10, 0), "{class:?}");
    }
}

#[test]
fn a_batch_of_bad_ones_alone_becomes_dead_letters_once_others_are_stored() {
    let mut desk = Desk::new(5, true);
    let bad = |slots: &[u32]| Ok(each(slots, Class::Document, |slot| slot <= 5));
    let effects = desk.deliver(5);
    let (_, buried) = work(&mut desk, effects, 200, &bad);
    assert_eq!(buried, [0; 0], "nobody was stored beside them");
    assert!(desk.core.troubles().lonely);
    let effects = desk.deliver(1);
    let (stored, mut buried) = work(&mut desk, effects, 10, &bad);
    buried.sort_unstable();
    assert_eq!((stored, buried), (vec![6], vec![1, 2, 3, 4, 5]));
    assert!(!desk.core.troubles().lonely);
}

#[test]
fn where_batches_are_of_one_a_refused_one_is_a_dead_letter_once_another_was_stored_meanwhile_not_before() {
    let mut desk = Desk::new(1, true);
    let bad = |slots: &[u32]| Ok(each(slots, Class::Document, |slot| slot == 2));
    let effects = desk.deliver(1);
    work(&mut desk, effects, 1, &bad);
    let effects = desk.deliver(1);
    assert_eq!(work(&mut desk, effects, 200, &bad).1, [0; 0], "what was stored before it says nothing");
    let effects = desk.deliver(1);
    assert_eq!(work(&mut desk, effects, 2, &bad), (vec![3], vec![2]));
}

#[test]
fn what_is_refused_in_company_with_a_doubt_is_tried_alone_and_stored_where_another_was_meant() {
    let mut desk = Desk::new(64, true);
    // A router hands on what a shard said of its part of the command because of slot 7: of every third document.
    let shard = |slots: &[u32]| Ok(each(slots, Class::Doubtful, |slot| slots.contains(&7) && slot % 3 == 1));
    let effects = desk.deliver(64);
    let (stored, buried) = work(&mut desk, effects, 5, &shard);
    assert_eq!((stored.len(), buried), (63, vec![7]));
}

#[test]
fn a_measurement_is_refused_alone_twice_while_others_are_stored_before_it_is_a_dead_letter() {
    let mut desk = Desk::series(64, true);
    // The whole bucket is refused, and once also a good one alone: somebody else's bad one was in the same bucket.
    let once = std::cell::Cell::new(true);
    let tries = std::cell::Cell::new(0);
    let bucket = |slots: &[u32]| {
        tries.set(tries.get() + usize::from(slots == [7]));
        let others = slots == [10] && once.replace(false);
        Ok(each(slots, Class::Doubtful, |slot| slots.contains(&7) && slot % 3 == 1 || others))
    };
    let effects = desk.deliver(64);
    let (mut stored, mut buried) = work(&mut desk, effects, 5, &bucket);
    // What is refused alone counts where others were stored in between.
    let effects = desk.deliver(64);
    let (more, late) = work(&mut desk, effects, 20, &bucket);
    stored.extend(more);
    buried.extend(late);
    assert_eq!((stored.len(), buried, tries.get()), (127, vec![7], 2));
}

#[test]
fn a_command_that_fails_for_an_unknown_or_an_operators_reason_is_narrowed_down_to_the_one_document_that_spoils_it() {
    for class in [Class::Unknown, Class::Operator] {
        let mut desk = Desk::new(8, true);
        let spoilt = |slots: &[u32]| if slots.contains(&6) { Err(class) } else { Ok(Vec::new()) };
        let effects = desk.deliver(8);
        let (mut stored, buried) = work(&mut desk, effects, 60, &spoilt);
        assert_eq!((stored.len(), buried.len()), (7, 0), "{class:?}");
        // Others go on at once, and in the end it is named.
        let mut buried = Vec::new();
        for _ in 0..40 {
            let effects = desk.deliver(8);
            let (more, letters) = work(&mut desk, effects, 10, &spoilt);
            assert_eq!(more.len(), 8, "{class:?}");
            stored.extend(more);
            buried.extend(letters);
        }
        assert_eq!(buried, [6], "{class:?}");
    }
}

#[test]
fn a_database_that_refuses_whole_commands_until_a_person_mends_it_makes_no_dead_letter_however_long_it_takes() {
    let mut desk = Desk::new(8, true);
    let effects = desk.deliver(16);
    assert_eq!(work(&mut desk, effects, 3_000, &|_| Err(Class::Operator)), (vec![], vec![]));
    assert!(desk.core.troubles().refuses);
    let (stored, buried) = work(&mut desk, Vec::new(), 120, &|_| Ok(Vec::new()));
    assert_eq!((stored.len(), buried.len()), (16, 0));
}

#[test]
fn a_document_that_is_refused_alone_for_an_unknown_reason_is_a_dead_letter_after_minutes_if_others_are_stored_meanwhile() {
    let refused = |slots: &[u32]| Ok(each(slots, Class::Unknown, |slot| slot == 2));
    let mut desk = Desk::new(1, true);
    let effects = desk.deliver(2);
    let (_, buried) = work(&mut desk, effects, 600, &refused);
    assert_eq!(buried, [0; 0], "what was stored before it says nothing");
    let begun = desk.now;
    for _ in 0..100 {
        let effects = desk.deliver(1);
        if !work(&mut desk, effects, 5, &refused).1.is_empty() {
            break;
        }
    }
    let after = (desk.now - begun) / SECOND;
    assert!((20..400).contains(&after), "after {after} s");
}

#[test]
fn commands_that_fail_for_an_unknown_reason_make_no_dead_letter_while_none_succeeds() {
    let mut desk = Desk::new(1, true);
    let effects = desk.deliver(2);
    let (_, buried) = work(&mut desk, effects, 2_000, &|slots| if slots == [2] { Err(Class::Unknown) } else { Ok(Vec::new()) });
    assert_eq!(buried, [0; 0]);
}

#[test]
fn some_documents_of_which_an_operators_code_is_said_wait_and_the_others_are_stored() {
    let mut desk = Desk::new(10, true);
    let shard = |slots: &[u32]| Ok(each(slots, Class::Operator, |slot| slot % 2 == 0));
    let effects = desk.deliver(10);
    let (stored, buried) = work(&mut desk, effects, 5, &shard);
    assert_eq!((stored, buried), (vec![1, 3, 5, 7, 9], vec![]));
    assert!(desk.core.troubles().refuses);
    let effects = desk.deliver(10);
    assert_eq!(work(&mut desk, effects, 300, &shard).0.len(), 5, "others are tried all the while");
    assert_eq!(work(&mut desk, Vec::new(), 10, &|_| Ok(Vec::new())).0.len(), 10);
}

#[test]
fn what_a_look_up_finds_to_be_another_document_is_a_dead_letter_at_once_however_many_there_are() {
    let mut desk = Desk::new(100, true);
    let group = insert(&desk.deliver(100));
    let effects = desk.inserted(group, &each(&[0; 100], Class::LookUp, |_| true));
    let [Effect::LookUp(group)] = effects[..] else { panic!("{effects:?}") };
    let found = each(&[0; 100], Class::Document, |_| true);
    let effects = desk.on(Event::LookedUp(group, Outcome::Executed { failures: &found, uncertain: None }));
    assert!(effects.iter().filter(|effect| matches!(effect, Effect::Bury(_))).count() > 30, "{effects:?}");
}

#[test]
fn duplicates_of_our_own_that_are_found_nowhere_are_inserted_again() {
    let mut desk = Desk::new(2, true);
    let group = insert(&desk.deliver(2));
    let effects = desk.inserted(group, &[(0, Class::Done), (1, Class::Done)]);
    let [Effect::LookUp(group)] = effects[..] else { panic!("{effects:?}") };
    let nowhere = [(0, Class::Transient), (1, Class::Transient)];
    assert_eq!(desk.on(Event::LookedUp(group, Outcome::Executed { failures: &nowhere, uncertain: None })), []);
    assert!(desk.core.troubles().unavailable);
    let group = insert(&desk.after(SECOND));
    assert_eq!(desk.inserted(group, &[]), [Effect::Ack(group)]);
}

#[test]
fn a_duplicate_of_our_own_beside_one_that_was_stored_needs_no_look_up() {
    let mut desk = Desk::new(2, true);
    let group = insert(&desk.deliver(2));
    assert_eq!(desk.inserted(group, &[(0, Class::Done)]), [Effect::Ack(group)]);
}
