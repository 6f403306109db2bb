//! Who has the page: stands by, takes over, says that it lives, steps back. One question is under way at a time.
//!
//! What always holds: a page is taken only as it was read (same term, same beat), so that of two who try one succeeds; an
//! owner steps back only when an answer says that the page is another's. An outage makes nobody step back: neither does the beat
//! of the owner count as standing while nobody could have read it.

use super::{Key, Page};
use crate::collector::core::{MS, Nanos, SECOND};
use std::time::Duration;
use uuid::Uuid;

/// How often who stands by looks at the page.
const LOOK: Nanos = 2 * SECOND;
/// The same where the owner runs another version: it is about to leave.
const LOOK_HANDOVER: Nanos = 150 * MS;
/// After a failure.
const AGAIN: Nanos = SECOND;

/// What is to be asked of the database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// The page.
    Read,
    /// To become its owner, if it still is as it was read; `None`: if there is none.
    Take {
        /// As it was read.
        from: Option<Page>,
        /// As it is to be.
        to: Page,
    },
    /// To say that the owner of the term lives.
    Renew {
        /// The term.
        term: u64,
    },
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The page, where there is one.
    Page(Option<Page>),
    /// Whether it was as expected, and is written.
    Written(bool),
    /// Nobody knows.
    Failed,
}

/// How an execution stands to its stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Another one reads it, or nobody yet.
    StandBy,
    /// This one reads it: nobody has inserted anything above `known`, as of its beginning.
    Owner {
        /// The term.
        term: u64,
        /// The highest sequence that may have been inserted before.
        known: u64,
    },
}

/// Keeps one page for one execution.
#[derive(Debug)]
pub struct Keeper {
    me: Uuid,
    key: Key,
    version: String,
    lease: Duration,
    /// `known` of a page that does not exist yet.
    first_known: u64,
    standing: Standing,
    /// The page as it was last read: term, beat, and since when it has been so.
    seen: Option<(u64, u64, Nanos)>,
    /// What was read and is to be taken.
    free: Option<Option<Page>>,
    asked: Option<Ask>,
    next_at: Nanos,
    /// Whether the last question was answered.
    heard: bool,
}

impl Keeper {
    /// Stands by. `first_known`: see [`super::known_at_first`].
    pub fn new(me: Uuid, key: Key, version: &str, lease: Duration, first_known: u64) -> Self {
        Self {
            me,
            key,
            version: version.to_owned(),
            lease,
            first_known,
            standing: Standing::StandBy,
            seen: None,
            free: None,
            asked: None,
            next_at: 0,
            heard: false,
        }
    }

    /// Whose page it is.
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// How this execution stands.
    pub fn standing(&self) -> Standing {
        self.standing
    }

    /// The term, of an owner.
    pub fn term(&self) -> Option<u64> {
        match self.standing {
            Standing::Owner { term, .. } => Some(term),
            Standing::StandBy => None,
        }
    }

    /// Whether the last question was answered; not before the first.
    pub fn heard(&self) -> bool {
        self.heard
    }

    /// When [`Self::next`] has something to ask; `Nanos::MAX` while an answer is awaited.
    pub fn due(&self) -> Nanos {
        if self.asked.is_some() { Nanos::MAX } else { self.next_at }
    }

    /// What to ask now.
    pub fn next(&mut self, now: Nanos) -> Option<Ask> {
        if self.asked.is_some() || now < self.next_at {
            return None;
        }
        let ask = match (self.standing, self.free.take()) {
            (Standing::Owner { term, .. }, _) => Ask::Renew { term },
            (Standing::StandBy, None) => Ask::Read,
            (Standing::StandBy, Some(from)) => {
                let (term, beat, reserved) = from.as_ref().map_or((0, 0, self.first_known), |page| (page.term, page.beat, page.reserved));
                let to = Page {
                    term: term + 1,
                    beat: beat + 1,
                    owner: Some(self.me),
                    version: self.version.clone(),
                    reserved,
                    lease: self.lease,
                };
                Ask::Take { from, to }
            }
        };
        self.asked = Some(ask.clone());
        Some(ask)
    }

    /// Takes in what came of the last question; whether the standing changed.
    pub fn answered(&mut self, answer: Answer, now: Nanos) -> bool {
        let before = self.standing;
        let asked = self.asked.take();
        self.heard = answer != Answer::Failed;
        match (asked, answer) {
            (Some(Ask::Read), Answer::Page(page)) => self.read(page, now),
            (Some(Ask::Take { to, .. }), Answer::Written(true)) => {
                self.standing = Standing::Owner { term: to.term, known: to.reserved };
                self.seen = None;
                self.next_at = now + self.renew_every();
            }
            // Somebody was faster.
            (Some(Ask::Take { .. }), Answer::Written(false)) => self.next_at = now,
            (Some(Ask::Renew { .. }), Answer::Written(true)) => self.next_at = now + self.renew_every(),
            (Some(Ask::Renew { term }), Answer::Written(false)) => self.lost(term, now),
            // A page that nobody could read may have been beaten meanwhile, or could not be.
            _ => {
                self.seen = None;
                self.next_at = now + AGAIN;
            }
        }
        self.standing != before
    }

    /// Nobody could read the page for a while: that its beat stood says nothing.
    pub fn blind(&mut self) {
        self.seen = None;
        self.free = None;
    }

    /// A reservation in `term` was written: that is a beat, too.
    pub fn wrote(&mut self, term: u64, now: Nanos) {
        if self.term() == Some(term) && self.asked.is_none() {
            self.heard = true;
            self.next_at = now + self.renew_every();
        }
    }

    /// The page is not of `term` any more.
    pub fn lost(&mut self, term: u64, now: Nanos) {
        if self.term() == Some(term) {
            self.standing = Standing::StandBy;
            self.seen = None;
            self.next_at = now;
        }
    }

    fn read(&mut self, page: Option<Page>, now: Nanos) {
        let Some(page) = page else {
            self.free = Some(None);
            self.next_at = now;
            return;
        };
        // Its own, where the answer to taking it was lost.
        let mut free = page.owner.is_none() || page.owner == Some(self.me);
        match self.seen {
            Some((term, beat, since)) if (term, beat) == (page.term, page.beat) => free |= now >= since + nanos(page.lease),
            _ => self.seen = Some((page.term, page.beat, now)),
        }
        let look = if page.version == self.version { LOOK.min(nanos(page.lease) / 4) } else { LOOK_HANDOVER };
        self.next_at = if free { now } else { now + look };
        self.free = free.then_some(Some(page));
    }

    fn renew_every(&self) -> Nanos {
        nanos(self.lease) / 3
    }
}

fn nanos(duration: Duration) -> Nanos {
    Nanos::try_from(duration.as_nanos()).unwrap_or(Nanos::MAX / 4)
}
