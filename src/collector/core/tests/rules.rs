//! One rule of the core a test.

use crate::collector::classify::Class;
use crate::collector::core::*;

pub(super) const LIMITS: Limits = Limits { ack_wait: 30 * SECOND, max_ack_pending: 0, live: 1, max_batch: 0 };

pub(super) struct Desk {
    pub(super) core: Core,
    pub(super) now: Nanos,
    next_slot: u32,
    pub(super) free: u64,
    pub(super) outstanding: u64,
}

impl Desk {
    pub(super) fn new(count: u32, proven: bool) -> Self {
        Self::with(
            Batches { count, bytes: 1 << 24, period: 5 * SECOND, linger: 0, max_in_flight: 2, first_half_only: false },
            LIMITS,
            proven,
        )
    }

    pub(super) fn with(batches: Batches, limits: Limits, proven: bool) -> Self {
        let mut desk = Self { core: Core::new(batches, limits, proven, 1), now: SECOND, next_slot: 0, free: 1 << 30, outstanding: 1 << 20 };
        assert_eq!(desk.on(Event::Target(Target::Good)), []);
        desk
    }

    /// The same for measurements, without a ledger.
    pub(super) fn series(count: u32, proven: bool) -> Self {
        let mut desk = Self::new(count, proven);
        let batches = Batches { count, bytes: 1 << 24, period: 5 * SECOND, linger: 0, max_in_flight: 2, first_half_only: true };
        desk.core = Core::new(batches, LIMITS, proven, 1).with_series();
        desk.on(Event::Target(Target::Good));
        desk.on(Event::Part(Part::Unguarded));
        desk
    }

    pub(super) fn on(&mut self, event: Event<'_>) -> Vec<Effect> {
        let mut out = Vec::new();
        self.core.on(event, Now { at: self.now, free: self.free, outstanding: self.outstanding }, &mut out);
        out
    }

    pub(super) fn deliver_kind(&mut self, count: usize, pending: u64, kind: Kind) -> Vec<Effect> {
        let messages: Vec<Arrival> = (0..count)
            .map(|_| {
                self.next_slot += 1;
                Arrival {
                    slot: self.next_slot,
                    sequence: u64::from(self.next_slot),
                    bytes: 100,
                    lease_from: self.now,
                    published_ns: 1,
                    kind,
                    check: false,
                }
            })
            .collect();
        self.on(Event::Delivered { messages: &messages, pending })
    }

    /// Messages that may lie in a previous target.
    pub(super) fn deliver_doubtful(&mut self, count: u32) -> Vec<Effect> {
        let arrival = |slot| Arrival {
            slot,
            sequence: u64::from(slot),
            bytes: 100,
            lease_from: self.now,
            published_ns: 1,
            kind: Kind::Document,
            check: true,
        };
        let messages: Vec<Arrival> = (1..=count).map(|n| arrival(self.next_slot + n)).collect();
        self.next_slot += count;
        self.on(Event::Delivered { messages: &messages, pending: 0 })
    }

    pub(super) fn deliver(&mut self, count: usize) -> Vec<Effect> {
        self.deliver_kind(count, 0, Kind::Document)
    }

    pub(super) fn after(&mut self, time: Nanos) -> Vec<Effect> {
        self.now += time;
        self.on(Event::Tick)
    }

    pub(super) fn inserted(&mut self, group: GroupId, failures: &[(u32, Class)]) -> Vec<Effect> {
        self.on(Event::Inserted(group, Outcome::Executed { failures, uncertain: None }))
    }
}

pub(super) fn insert(effects: &[Effect]) -> GroupId {
    let found = effects.iter().find_map(|effect| if let Effect::Insert(group) = effect { Some(*group) } else { None });
    found.unwrap_or_else(|| panic!("no insert in {effects:?}"))
}

#[test]
fn a_batch_goes_by_count_at_once_and_the_rest_after_the_period() {
    let mut desk = Desk::new(10, true);
    let effects = desk.deliver(25);
    assert_eq!(effects.iter().filter(|e| matches!(e, Effect::Insert(_))).count(), 2);
    for effect in effects {
        desk.inserted(insert(&[effect]), &[]);
    }
    assert_eq!(desk.after(4 * SECOND), []);
    let group = insert(&desk.after(SECOND));
    assert_eq!(desk.core.entries(group).len(), 5);
}

#[test]
fn a_partial_batch_goes_after_the_linger() {
    let batches = Batches { count: 10, bytes: 1 << 24, period: 5 * SECOND, linger: 5 * MS, max_in_flight: 2, first_half_only: false };
    let mut desk = Desk::with(batches, LIMITS, true);
    assert_eq!(desk.deliver(1), []);
    assert_eq!(desk.core.next_deadline(), desk.now + 5 * MS);
    insert(&desk.after(5 * MS));
}

#[test]
fn a_partial_batch_goes_after_a_silence_while_more_are_pending() {
    let mut desk = Desk::new(10, true);
    assert_eq!(desk.deliver_kind(3, 500, Kind::Document), []);
    assert_eq!(desk.after(49 * MS), []);
    insert(&desk.after(MS));
}

#[test]
fn a_small_max_ack_pending_makes_small_batches() {
    let batches = Batches { count: 1000, bytes: 1 << 24, period: SECOND, linger: 0, max_in_flight: 2, first_half_only: false };
    let desk = Desk::with(batches, Limits { max_ack_pending: 1000, live: 4, ..LIMITS }, true);
    assert_eq!(desk.core.batch_count(), 83);
    let desk = Desk::with(batches, Limits { max_ack_pending: 2, ..LIMITS }, true);
    assert_eq!(desk.core.batch_count(), 1);
    assert_eq!(Desk::with(batches, Limits { max_ack_pending: -1, ..LIMITS }, true).core.batch_count(), 1000);
}

#[test]
fn nothing_is_acknowledged_before_the_insert_is_confirmed_nor_after_an_unmet_write_concern() {
    let mut desk = Desk::new(2, true);
    let group = insert(&desk.deliver(2));
    let uncertain = Outcome::Executed { failures: &[], uncertain: Some(Class::Transient) };
    assert_eq!(desk.on(Event::Inserted(group, uncertain)), []);
    assert!(desk.core.troubles().unavailable);
    let again = insert(&desk.after(SECOND));
    // Where nothing was stored, duplicates are looked up: the server may not have said that its write concern is unmet.
    let effects = desk.inserted(again, &[(0, Class::Done), (1, Class::Done)]);
    let [Effect::LookUp(again)] = effects[..] else { panic!("{effects:?}") };
    let effects = desk.on(Event::LookedUp(again, Outcome::Executed { failures: &[], uncertain: None }));
    assert_eq!(effects, [Effect::Ack(again)]);
    assert_eq!((desk.core.totals().written, desk.core.totals().duplicates), (0, 2));
    assert!(matches!(desk.on(Event::Acked(again, true))[..], [Effect::Release(_)]));
    assert_eq!((desk.core.in_hand(), desk.core.in_hand_bytes()), (0, 0));
}

#[test]
fn a_message_past_its_lease_is_dropped_without_a_word_even_if_it_was_inserted() {
    let mut desk = Desk::new(2, true);
    let group = insert(&desk.deliver(2));
    desk.now += 31 * SECOND;
    let effects = desk.inserted(group, &[]);
    assert!(matches!(&effects[..], [Effect::Release(entries)] if entries.len() == 2), "{effects:?}");
    assert_eq!(desk.core.totals().expired, 2);
}

#[test]
fn leases_are_renewed_before_half_is_gone_and_only_a_reply_in_time_counts() {
    let mut desk = Desk::new(2, true);
    let group = insert(&desk.deliver(2));
    let sent = desk.now + 14 * SECOND;
    let effects = desk.after(14 * SECOND);
    assert_eq!(effects, [Effect::Renew(group)]);
    desk.now += 20 * SECOND;
    desk.on(Event::Renewed(group, sent, true));
    assert!(matches!(&desk.inserted(group, &[])[..], [Effect::Release(_)]), "the reply came too late");

    let group = insert(&desk.deliver(2));
    let sent = desk.now + 14 * SECOND;
    assert_eq!(desk.after(14 * SECOND), [Effect::Renew(group)]);
    desk.on(Event::Renewed(group, sent, true));
    desk.now += 20 * SECOND;
    assert_eq!(desk.inserted(group, &[]), [Effect::Ack(group)]);
}

#[test]
fn while_the_database_is_away_nothing_is_given_back_or_pulled_and_one_batch_probes() {
    let mut desk = Desk::new(2, true);
    desk.outstanding = 0;
    let effects = desk.deliver(6);
    let groups: Vec<GroupId> = effects.iter().filter_map(|e| if let Effect::Insert(group) = e { Some(*group) } else { None }).collect();
    for group in groups {
        assert_eq!(desk.on(Event::Inserted(group, Outcome::Failed(Class::Transient))), []);
    }
    for _ in 0..200 {
        let effects = desk.after(SECOND);
        for effect in effects {
            match effect {
                Effect::Insert(group) => assert_eq!(desk.on(Event::Inserted(group, Outcome::Failed(Class::Transient))), []),
                Effect::Renew(group) => assert_eq!(desk.on(Event::Renewed(group, desk.now, true)), []),
                other => panic!("{other:?}"),
            }
        }
    }
    assert_eq!(desk.core.in_hand(), 6);
    assert_eq!(desk.core.totals().expired, 0);
}

#[test]
fn refused_documents_wait_until_the_config_is_proven_and_only_they_are_dead_letters_then() {
    let mut desk = Desk::new(4, false);
    let group = insert(&desk.deliver(4));
    let all = [(0, Class::Document), (1, Class::Document), (2, Class::Document), (3, Class::Document)];
    assert_eq!(desk.inserted(group, &all), []);
    desk.deliver_kind(1, 0, Kind::Unreadable);
    assert!(desk.core.troubles().nothing_stored && !desk.core.proven());
    let good = insert(&desk.deliver(4));
    let effects = desk.inserted(good, &[(0, Class::Document)]);
    assert!(desk.core.proven() && !desk.core.troubles().nothing_stored);
    assert_eq!(effects[0], Effect::Ack(good));
    assert_eq!(desk.core.entries(good).len(), 3);
    // The unreadable one and the one just refused go at once; those refused before are tried again, one by one.
    assert_eq!(effects.iter().filter(|e| matches!(e, Effect::Bury(_))).count(), 2, "{effects:?}");
    let mut buried = 0;
    let mut effects = effects;
    while let Some(effect) = effects.pop() {
        match effect {
            Effect::Insert(group) => {
                assert_eq!(desk.core.entries(group).len(), 1);
                effects.extend(desk.inserted(group, &[(0, Class::Document)]));
            }
            Effect::Bury(_) => buried += 1,
            Effect::Ack(_) => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(buried, 6);
}

#[test]
fn what_waits_for_proof_is_bounded_since_pulling_stops() {
    let mut desk = Desk::new(10, false);
    desk.outstanding = 0;
    for _ in 0..100 {
        let group = insert(&desk.deliver(10));
        let all: Vec<(u32, Class)> = (0..10).map(|index| (index, Class::Document)).collect();
        desk.inserted(group, &all);
    }
    let effects = desk.on(Event::Tick);
    assert!(!effects.iter().any(|e| matches!(e, Effect::Pull { .. })), "{effects:?}");
    assert!(desk.core.troubles().aside);
    // They are tried again, slowly.
    let mut tried = 0;
    for _ in 0..4 {
        let mut effects = desk.after(10 * SECOND);
        while let Some(effect) = effects.pop() {
            match effect {
                Effect::Renew(group) => effects.extend(desk.on(Event::Renewed(group, desk.now, true))),
                Effect::Insert(_) => tried += 1,
                // While they are tried again, there is room for further ones.
                Effect::Pull { .. } => desk.outstanding = 1 << 20,
                other => panic!("{other:?}"),
            }
        }
    }
    assert_eq!(tried, 2, "as many as may be in flight");
}

#[test]
fn a_message_is_terminated_only_after_its_dead_letter_is_stored() {
    let mut desk = Desk::new(4, true);
    desk.outstanding = 0;
    let effects = desk.deliver_kind(1, 0, Kind::Unreadable);
    let bury = effects.iter().find_map(|e| if let Effect::Bury(group) = e { Some(*group) } else { None }).unwrap();
    let effects = desk.on(Event::Buried(bury, false));
    assert_eq!(effects, [], "no termination, and no pull while dead letters cannot be stored");
    assert!(desk.core.troubles().dead_letters);
    let effects = desk.after(SECOND);
    let [Effect::Bury(bury)] = effects[..] else { panic!("{effects:?}") };
    let effects = desk.on(Event::Buried(bury, true));
    assert_eq!(effects[0], Effect::Terminate(bury));
    assert!(!desk.core.troubles().dead_letters);
    assert_eq!(desk.core.totals().dead_lettered, 1);
}

#[test]
fn what_the_stream_holds_otherwise_than_it_was_delivered_is_forgotten_and_nothing_is_sent_for_it() {
    let mut desk = Desk::new(4, true);
    desk.outstanding = 0;
    let effects = desk.deliver_kind(1, 0, Kind::Unreadable);
    let bury = effects.iter().find_map(|e| if let Effect::Bury(group) = e { Some(*group) } else { None }).unwrap();
    let effects = desk.on(Event::Disowned(bury));
    assert!(matches!(effects[0], Effect::Release(_)), "{effects:?}");
    assert!(!effects.iter().any(|effect| matches!(effect, Effect::Terminate(_) | Effect::Ack(_) | Effect::Nak(_) | Effect::Bury(_))));
    assert_eq!((desk.core.in_hand(), desk.core.totals().dead_lettered, desk.core.troubles().dead_letters), (0, 0, false));
}

#[test]
fn an_unknown_failure_of_a_command_is_narrowed_down_to_one_document() {
    let mut desk = Desk::new(8, true);
    let mut effects = desk.deliver(8);
    // Slot 6 makes any command fail.
    let mut stored = 0;
    for _ in 0..200 {
        for effect in std::mem::take(&mut effects) {
            let Effect::Insert(group) = effect else { continue };
            let poisoned = desk.core.entries(group).iter().any(|entry| entry.slot == 6);
            stored += if poisoned { 0 } else { desk.core.entries(group).len() };
            effects.extend(if poisoned {
                desk.on(Event::Inserted(group, Outcome::Failed(Class::Unknown)))
            } else {
                desk.inserted(group, &[])
            });
        }
        effects.extend(desk.after(100 * MS));
    }
    assert_eq!(stored, 7);
    assert_eq!(desk.core.totals().dead_lettered, 0);
}

#[test]
fn stopping_writes_what_is_held_and_gives_back_past_the_deadline_only_what_was_never_sent() {
    let mut desk = Desk::new(10, true);
    desk.outstanding = 0;
    desk.deliver(5);
    let group = insert(&desk.on(Event::Stop(desk.now + 10 * SECOND)));
    let effects = desk.inserted(group, &[]);
    assert_eq!(effects, [Effect::Ack(group)]);
    let effects = desk.on(Event::Acked(group, true));
    assert!(matches!(effects[..], [Effect::Release(_), Effect::Finished]), "{effects:?}");

    let mut desk = Desk::new(5, true);
    desk.outstanding = 0;
    let effects = desk.deliver(5);
    desk.on(Event::Inserted(insert(&effects), Outcome::Failed(Class::Transient)));
    desk.deliver(3);
    desk.on(Event::Stop(desk.now + 50 * MS));
    let effects = desk.after(50 * MS);
    let [Effect::Nak(back), Effect::Release(gone), Effect::Finished] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!((back.len(), gone.len()), (3, 5));
    assert_eq!(desk.core.in_hand(), 0);
}

#[test]
fn stopping_waits_for_short_requests_and_takes_long_ones_back() {
    let mut beginner = Desk::new(10, true);
    assert_eq!(beginner.on(Event::Stop(beginner.now + 30 * SECOND)), [Effect::Withdraw], "nothing came yet");

    let mut idle = Desk::new(10, true);
    idle.outstanding = 0;
    assert!(matches!(idle.on(Event::Tick)[..], [Effect::Pull { batch: 10, .. }]) && !idle.core.pulls_last(), "perhaps some wait");
    assert!(matches!(idle.after(2 * SECOND)[..], [Effect::Pull { batch: 1, .. }]) && idle.core.pulls_last(), "none came");
    idle.outstanding = 1;
    let effects = idle.on(Event::Stop(idle.now + 30 * SECOND));
    assert_eq!(effects, [Effect::Withdraw], "nothing flows");
    assert_eq!(idle.after(50 * MS), [], "what was on its way may still come");
    idle.outstanding = 0;
    assert_eq!(idle.on(Event::Tick), [Effect::Finished]);

    let mut busy = Desk::new(10, true);
    let group = insert(&busy.deliver(10));
    busy.inserted(group, &[]);
    busy.on(Event::Acked(group, true));
    assert_eq!(busy.on(Event::Stop(busy.now + 30 * SECOND)), []);
    assert_eq!(busy.after(SECOND), [], "short requests end by themselves");
    let group = insert(&busy.deliver(3));
    busy.inserted(group, &[]);
    assert!(matches!(busy.on(Event::Acked(group, true))[..], [Effect::Release(_)]), "what comes meanwhile is written");
    assert_eq!(busy.after(3 * SECOND), [Effect::Withdraw], "they did not end");
    assert_eq!(busy.after(2 * SECOND), [Effect::Finished], "nobody says what became of them");
}

#[test]
fn no_insert_into_a_time_series_collection_begins_in_the_second_half_of_a_lease() {
    let batches = Batches { count: 10, bytes: 1 << 24, period: 20 * SECOND, linger: 0, max_in_flight: 2, first_half_only: true };
    let mut desk = Desk::with(batches, LIMITS, true);
    desk.deliver(5);
    let sent = desk.now + 16 * SECOND;
    let effects = desk.after(16 * SECOND);
    let [Effect::Renew(group)] = effects[..] else { panic!("{effects:?}") };
    assert_eq!(desk.after(5 * SECOND), [], "the period is over, the lease too far gone");
    let effects = desk.on(Event::Renewed(group, sent, true));
    insert(&effects);
}

#[test]
fn nobody_pulls_above_the_byte_budget() {
    let mut desk = Desk::new(10, true);
    (desk.outstanding, desk.free) = (0, 0);
    assert_eq!(desk.on(Event::Tick), []);
    assert!(desk.core.troubles().memory);
    desk.free = 1 << 20;
    assert!(matches!(desk.after(50 * MS)[..], [Effect::Pull { .. }]));
}
