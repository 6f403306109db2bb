//! The gatekeeper of a client, with its clock and its members: who is told what, and the pings. The rules are in
//! `collector::gate`.
//!
//! What always holds: every member is told of every change; a gate that is shut has a watch that gives turns until it is
//! open, and should the watch end before, the gate is open. Used by the driver of each pipeline.

use super::connect::Database;
use super::failure::CommandFailure;
use crate::collector::classify::{self, Class};
use crate::collector::core::Nanos;
use crate::collector::gate::{Gatekeeper, Member, Turn, concerns_all};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, watch};
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

/// How often it is looked, while the gate is shut, whether credentials or certificates have changed.
const LOOK: Duration = Duration::from_secs(2);

/// What a member is told.
#[derive(Debug, Clone, Default)]
pub struct Word {
    /// While the gate is shut: what that means, and for people why.
    pub shut: Option<(Class, Arc<str>)>,
    /// How many tries it was given so far.
    pub turns: u64,
}

/// The gate of one client.
#[derive(Debug)]
pub(super) struct Gate {
    zero: Instant,
    inner: Mutex<Inner>,
    /// Nothing is wrong or doubtful: an answer says nothing new.
    calm: AtomicBool,
    stirred: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    keeper: Gatekeeper,
    told: BTreeMap<Member, watch::Sender<Word>>,
    why: Option<Arc<str>>,
    watch: Option<AbortOnDropHandle<()>>,
    /// Whether the watch has not decided to end.
    watched: bool,
}

impl Default for Gate {
    fn default() -> Self {
        Self { zero: Instant::now(), inner: Mutex::default(), calm: AtomicBool::new(true), stirred: Notify::new() }
    }
}

impl Inner {
    fn word(&self) -> Option<(Class, Arc<str>)> {
        Some((self.keeper.shut()?, self.why.clone().unwrap_or_else(|| "".into())))
    }

    fn tell_all(&self) {
        let shut = self.word();
        for told in self.told.values() {
            told.send_modify(|word| word.shut.clone_from(&shut));
        }
    }
}

impl Gate {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Each change is one assignment: what a panicking member left is whole.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Nanos {
        Nanos::try_from(self.zero.elapsed().as_nanos()).unwrap_or(Nanos::MAX / 4)
    }

    fn answered(&self, wrote: bool) {
        if self.calm.load(Relaxed) {
            return;
        }
        let mut inner = self.inner();
        if inner.keeper.answered(wrote) {
            info!("the database answers again");
            inner.tell_all();
        }
        self.calm.store(inner.keeper.calm(), Relaxed);
        drop(inner);
        self.stirred.notify_one();
    }

    /// A command of `by` failed; `None`: the ping.
    fn failed(&self, database: &Arc<Database>, by: Option<Member>, failure: &CommandFailure) {
        let class = classify::command(failure.kind, failure.code, &failure.labels);
        if !concerns_all(failure.kind, class) {
            // A refusal is an answer.
            if failure.code.is_some() {
                self.answered(false);
            }
            return;
        }
        let mut inner = self.inner();
        self.calm.store(false, Relaxed);
        if inner.keeper.failed(by, class, self.now(), rand::random()) {
            warn!(error = %failure, pipelines = inner.told.len(), "the database is away: its pipelines wait, and try one at a time");
            inner.why = Some(failure.told().into());
            inner.tell_all();
            if !std::mem::replace(&mut inner.watched, true) {
                inner.watch = Some(AbortOnDropHandle::new(tokio::spawn(give_turns(Arc::downgrade(database)))));
            }
        }
        drop(inner);
        self.stirred.notify_one();
    }
}

/// One pipeline's place at the gate; given up when dropped.
#[derive(Debug)]
pub struct Seat {
    database: Arc<Database>,
    member: Member,
    told: watch::Receiver<Word>,
    wants: bool,
}

impl Database {
    /// A place at the gate that all pipelines of this client share.
    pub fn seat(self: &Arc<Self>) -> Seat {
        let mut inner = self.gate().inner();
        let member = inner.keeper.join();
        let (sender, told) = watch::channel(Word { shut: inner.word(), turns: 0 });
        inner.told.insert(member, sender);
        drop(inner);
        Seat { database: self.clone(), member, told, wants: false }
    }
}

impl Seat {
    /// A command was answered, whatever the server said; `wrote`: and something is stored.
    pub fn answered(&self, wrote: bool) {
        self.database.gate().answered(wrote);
    }

    /// A command failed as a whole.
    pub fn failed(&self, failure: &CommandFailure) {
        self.database.gate().failed(&self.database, Some(self.member), failure);
    }

    /// Whether there is something to write, while the gate is shut.
    pub fn wants(&mut self, wants: bool) {
        if self.wants != wants {
            self.wants = wants;
            self.database.gate().inner().keeper.wants(self.member, wants);
        }
    }

    /// Waits until there is something new to hear. Cancel-safe.
    pub async fn changed(&mut self) {
        if self.told.changed().await.is_err() {
            // The gate goes with the last seat only.
            std::future::pending::<()>().await;
        }
    }

    /// What was said last.
    pub fn heard(&mut self) -> Word {
        self.told.borrow_and_update().clone()
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let gate = self.database.gate();
        let mut inner = gate.inner();
        inner.told.remove(&self.member);
        inner.keeper.leave(self.member);
        drop(inner);
        gate.stirred.notify_one();
    }
}

/// Opens the gate where the watch ends before it decided to: by a panic.
struct Opens(Weak<Database>);

impl Drop for Opens {
    fn drop(&mut self) {
        let Some(database) = self.0.upgrade() else { return };
        if std::mem::take(&mut database.gate().inner().watched) {
            database.gate().answered(false);
        }
    }
}

/// Gives turns, and pings in them, until the gate is open or nobody needs it any more.
async fn give_turns(database: Weak<Database>) {
    let _opens = Opens(database.clone());
    loop {
        let Some(database) = database.upgrade() else { return };
        let gate = database.gate();
        let (turn, due) = {
            let mut inner = gate.inner();
            let Some(due) = inner.keeper.due() else {
                inner.watched = false;
                return;
            };
            let turn = inner.keeper.turn(gate.now());
            if let Some(told) = turn.and_then(|turn| if let Turn::Of(member) = turn { inner.told.get(&member) } else { None }) {
                told.send_modify(|word| word.turns += 1);
            }
            (turn, inner.keeper.due().unwrap_or(due))
        };
        if turn == Some(Turn::Ping) {
            match database.ping().await {
                Ok(()) => gate.answered(false),
                Err(failure) => gate.failed(&database, None, &failure),
            }
            continue;
        }
        // Whatever changes looks at the clock again. Who is refused need not wait for the next turn when the files hold
        // something else.
        let wait = Duration::from_nanos(due.saturating_sub(gate.now())).min(LOOK);
        if tokio::time::timeout(wait, gate.stirred.notified()).await.is_err() && database.renew().await {
            gate.answered(false);
        }
    }
}
