//! Looks now and then whether the collection deletes what it confirmed. Part of the driver.

use super::Driver;
use super::work::{self, Done};
use crate::collector::sink::{CommandFailure, Keeping};
use crate::pipeline::backoff::jittered;
use crate::pipeline::report::Trouble;
use crate::pipeline::status::Reason;
use std::time::{Duration, Instant};

/// When to look first: not while everybody starts.
const FIRST: Duration = Duration::from_secs(5);
/// And then.
const AGAIN: Duration = Duration::from_secs(300);
/// The same where there was no answer.
const FAILED: Duration = Duration::from_secs(60);

/// When to look.
#[derive(Debug)]
pub(super) struct Keeper {
    at: Instant,
    asking: bool,
}

impl Keeper {
    pub(super) fn new() -> Self {
        Self { at: Instant::now() + jittered(FIRST, rand::random()), asking: false }
    }

    /// When it is time; `None` while it is being asked.
    pub(super) fn deadline(&self) -> Option<Instant> {
        (!self.asking).then_some(self.at)
    }
}

impl Driver {
    /// Asks where it is time, and the collection is there.
    pub(super) fn look_after_the_collection(&mut self) {
        if self.keeper.asking || Instant::now() < self.keeper.at {
            return;
        }
        if self.collection.is_none() || self.shut.is_some() || self.stopping {
            self.keeper.at = Instant::now() + FIRST;
            return;
        }
        self.keeper.asking = true;
        let (database, target) = (self.deps.database.clone(), self.job.target.clone());
        let work = async move { Done::Keeping(Box::pin(database.keeping(&target)).await) };
        work::begin(&mut self.work, work, || Done::Keeping(Err(work::panicked("looking at the collection"))));
    }

    pub(super) fn collection_keeps(&mut self, answer: Result<Keeping, CommandFailure>) {
        self.keeper.asking = false;
        let keeping = match answer {
            Ok(keeping) => keeping,
            Err(error) => {
                tracing::debug!(%error, "the collection's options could not be looked at");
                self.keeper.at = Instant::now() + jittered(FAILED, rand::random());
                return;
            }
        };
        self.keeper.at = Instant::now() + jittered(AGAIN, rand::random());
        let wanted = self.job.output.time_series.as_ref().and_then(|series| series.expire_after);
        let advice = keeping.deletes(&self.job.target, Some(wanted)).into_iter();
        self.state.advise(Reason::TargetUnsafe, advice.map(|message| Trouble { reason: Reason::TargetUnsafe, message }).collect());
    }
}
