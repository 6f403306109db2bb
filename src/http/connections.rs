//! The connections of one listener: how many there may be at the same time, and how long each may take for what.
//!
//! What always holds: a new connection finds room at once, so that health answers whoever else holds connections. Where
//! there are as many as there may be, the one that has waited longest for a request goes; where all are being answered, the
//! one whose reader has taken nothing for the longest time. Entered by the accept loop, looked at by each connection's task.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// How long a request's head may take, and how long a connection may be idle before and between requests.
pub(super) const HEAD: Duration = Duration::from_secs(10);
/// How long a reader may take nothing of an answer.
pub(super) const STALLED: Duration = Duration::from_secs(10);
/// After so long without a request a connection goes where descriptors are short.
const SILENT: Duration = Duration::from_secs(1);
/// How long an answer may take in all, however slowly it is read.
pub(super) const ANSWER: Duration = Duration::from_secs(60);

/// The connections of one listener.
#[derive(Debug)]
pub(super) struct Connections {
    most: usize,
    all: Mutex<Vec<Arc<Connection>>>,
    left: Notify,
}

impl Connections {
    /// At most `most` at the same time.
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Self { most: most.max(1), all: Mutex::default(), left: Notify::new() })
    }

    /// Enters one more; where there is no room, another is told to go, and is waited for.
    pub async fn enter(self: &Arc<Self>) -> Entered {
        loop {
            {
                let mut all = self.all();
                if all.len() < self.most {
                    let connection = Arc::new(Connection::new(Instant::now()));
                    all.push(connection.clone());
                    return Entered { connections: self.clone(), connection };
                }
            }
            self.evict();
            self.left.notified().await;
        }
    }

    /// Tells one to go; `false` where there is none, or all have been told.
    pub fn evict(&self) -> bool {
        let all = self.all();
        let staying = all.iter().filter(|connection| !connection.evicted.is_cancelled());
        match staying.min_by_key(|connection| connection.usefulness()) {
            Some(connection) => {
                connection.evicted.cancel();
                true
            }
            None => false,
        }
    }

    /// Tells the oldest of those to go that have been silent for a while.
    pub fn evict_silent(&self, now: Instant) {
        let all = self.all();
        let silent = |connection: &&Arc<Connection>| connection.is_silent(now) && !connection.evicted.is_cancelled();
        if let Some(connection) = all.iter().filter(silent).min_by_key(|connection| connection.usefulness()) {
            connection.evicted.cancel();
        }
    }

    fn all(&self) -> MutexGuard<'_, Vec<Arc<Connection>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection's place among the others, given back when dropped.
#[derive(Debug)]
pub(super) struct Entered {
    connections: Arc<Connections>,
    /// The connection.
    pub connection: Arc<Connection>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.connections.all().retain(|other| !Arc::ptr_eq(other, &self.connection));
        self.connections.left.notify_one();
    }
}

/// One connection.
#[derive(Debug)]
pub(super) struct Connection {
    evicted: CancellationToken,
    doing: Mutex<Doing>,
}

#[derive(Debug, Clone, Copy)]
struct Doing {
    /// Since when a request has been answered, where one is.
    answering: Option<Instant>,
    /// When it was opened, or its reader last took something, or its last answer ended.
    moved: Instant,
}

impl Connection {
    fn new(now: Instant) -> Self {
        Self { evicted: CancellationToken::new(), doing: Mutex::new(Doing { answering: None, moved: now }) }
    }

    /// Waits until it is told to go.
    pub async fn evicted(&self) {
        self.evicted.cancelled().await;
    }

    /// A request has come.
    pub fn begins(&self, now: Instant) {
        *self.doing() = Doing { answering: Some(now), moved: now };
    }

    /// Its reader has taken something.
    pub fn moves(&self, now: Instant) {
        self.doing().moved = now;
    }

    /// The answer is written.
    pub fn ends(&self, now: Instant) {
        *self.doing() = Doing { answering: None, moved: now };
    }

    /// Whether it has taken longer than it may.
    pub fn is_late(&self, now: Instant) -> bool {
        let doing = *self.doing();
        let quiet = now.saturating_duration_since(doing.moved);
        match doing.answering {
            Some(since) => quiet > STALLED || now.saturating_duration_since(since) > ANSWER,
            None => quiet > HEAD,
        }
    }

    /// Whether no request has come for longer than one who has something to ask takes.
    fn is_silent(&self, now: Instant) -> bool {
        let doing = *self.doing();
        doing.answering.is_none() && now.saturating_duration_since(doing.moved) > SILENT
    }

    /// Who has the least is the first to go.
    fn usefulness(&self) -> (bool, Instant) {
        let doing = *self.doing();
        (doing.answering.is_some(), doing.moved)
    }

    fn doing(&self) -> MutexGuard<'_, Doing> {
        self.doing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(entered: &Entered) -> bool {
        entered.connection.evicted.is_cancelled()
    }

    #[tokio::test]
    async fn where_there_is_no_room_the_one_that_has_waited_longest_for_a_request_goes() {
        let connections = Connections::new(3);
        let (answered, idle, new) = (connections.enter().await, connections.enter().await, connections.enter().await);
        let now = Instant::now();
        answered.connection.begins(now - Duration::from_secs(5));
        idle.connection.moves(now - Duration::from_secs(2));
        new.connection.moves(now);
        let another = tokio::spawn({
            let connections = connections.clone();
            async move { connections.enter().await }
        });
        idle.connection.evicted().await;
        assert!(!told(&answered) && !told(&new) && !another.is_finished(), "it is waited for");
        drop(idle);
        let another = another.await.unwrap();
        another.connection.begins(now);
        new.connection.begins(now);
        assert!(connections.evict() && told(&answered) && !told(&new) && !told(&another), "its reader took nothing for longest");
        assert!(connections.evict() && connections.evict() && !connections.evict(), "each is told once");
    }

    #[test]
    fn a_head_a_slow_reader_and_an_answer_have_their_times() {
        let begun = Instant::now();
        let after = |seconds: u64| begun + Duration::from_secs(seconds);
        let connection = Connection::new(begun);
        assert!(!connection.is_late(after(10)) && connection.is_late(after(11)), "no head");
        connection.begins(after(1));
        assert!(!connection.is_late(after(11)) && connection.is_late(after(12)), "nothing is read");
        (0..70).for_each(|second| connection.moves(after(second)));
        assert!(!connection.is_late(after(61)) && connection.is_late(after(62)), "a byte now and then is not enough");
        connection.ends(after(62));
        assert!(!connection.is_late(after(72)) && connection.is_late(after(73)), "idle");
    }
}
