//! The one NATS connection, watched once for all sources that use it: was it made anew, and how late can what it brings
//! be?
//!
//! A marker goes to an inbox of the link every quarter of a second. NATS keeps the order within a connection, so
//! whatever arrives after a marker was delivered after the marker was sent: the time it was sent is a *floor*. It holds
//! after a stall of this process too, where clocks and timers say nothing: what lay in the socket meanwhile arrives before
//! the next marker does. One link exists for each connection while a source uses it.

use async_nats::connection::State;
use futures_util::StreamExt;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

const INTERVAL: Duration = Duration::from_millis(250);
/// Markers in a row that do not come back while there is a connection: then they never will.
const UNANSWERED: u32 = 20;

/// The links of this process, by their connection's statistics, the only thing that tells connections apart.
static LINKS: Mutex<Option<HashMap<usize, Weak<Link>>>> = Mutex::new(None);

/// What is known about a connection.
#[derive(Debug)]
pub(super) struct Link {
    epoch: Instant,
    floor: Arc<AtomicU64>,
    mute: Arc<AtomicBool>,
    connects: watch::Receiver<u64>,
    /// Keeps the address that the link is found by.
    statistics: Arc<async_nats::Statistics>,
    task: tokio::task::JoinHandle<()>,
}

impl Link {
    /// The link of the client's connection.
    pub(super) fn of(client: &async_nats::Client) -> Arc<Self> {
        let statistics = client.statistics();
        let key = Arc::as_ptr(&statistics).addr();
        let mut links = LINKS.lock().unwrap_or_else(PoisonError::into_inner);
        let links = links.get_or_insert_default();
        if let Some(link) = links.get(&key).and_then(Weak::upgrade).filter(|link| !link.task.is_finished()) {
            return link;
        }
        let epoch = Instant::now();
        let floor = Arc::new(AtomicU64::new(0));
        let (sender, connects) = watch::channel(statistics.connects.load(Ordering::Relaxed));
        let mute = Arc::new(AtomicBool::new(false));
        let shared = (floor.clone(), mute.clone());
        let task = tokio::spawn(watch_connection(client.clone(), statistics.clone(), epoch, shared, sender));
        let link = Arc::new(Self { epoch, floor, mute, connects, statistics, task });
        links.retain(|_, link| link.strong_count() > 0);
        links.insert(key, Arc::downgrade(&link));
        link
    }

    /// Whatever arrives from now on was delivered after this moment.
    pub(super) fn floor(&self) -> Instant {
        self.epoch + Duration::from_nanos(self.floor.load(Ordering::Acquire))
    }

    /// A request that was sent at `sent` was answered, which is as good as a marker that came back.
    pub(super) fn answered(&self, sent: Instant) {
        let sent = u64::try_from(sent.saturating_duration_since(self.epoch).as_nanos()).unwrap_or(0);
        self.floor.fetch_max(sent, Ordering::AcqRel);
    }

    /// Whether markers do not come back although there is a connection: a permission is missing.
    pub(super) fn mute(&self) -> bool {
        self.mute.load(Ordering::Relaxed)
    }

    /// How often the connection was made; changes with every new one.
    pub(super) fn connects(&self) -> watch::Receiver<u64> {
        self.connects.clone()
    }

    /// The count itself, without the delay of the watch.
    pub(super) fn count(&self) -> u64 {
        self.statistics.connects.load(Ordering::Relaxed)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Sends markers and takes them in, until the client is closed or the link dropped.
async fn watch_connection(
    client: async_nats::Client,
    statistics: Arc<async_nats::Statistics>,
    epoch: Instant,
    (floor, mute): (Arc<AtomicU64>, Arc<AtomicBool>),
    connects: watch::Sender<u64>,
) {
    let mut unanswered = 0;
    let inbox = client.new_inbox();
    let Ok(mut markers) = client.subscribe(inbox.clone()).await else { return };
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            marker = markers.next() => {
                let Some(marker) = marker else { return };
                unanswered = 0;
                mute.store(false, Ordering::Relaxed);
                if let Ok(sent) = <[u8; 8]>::try_from(marker.payload.as_ref()) {
                    floor.fetch_max(u64::from_be_bytes(sent), Ordering::AcqRel);
                }
            }
            _ = ticks.tick() => {
                let count = statistics.connects.load(Ordering::Relaxed);
                connects.send_if_modified(|known| std::mem::replace(known, count) != count);
                if client.connection_state() != State::Connected {
                    unanswered = 0;
                    continue;
                }
                unanswered += 1;
                if unanswered > UNANSWERED {
                    mute.store(true, Ordering::Relaxed);
                }
                let sent = u64::try_from(epoch.elapsed().as_nanos()).unwrap_or(u64::MAX).to_be_bytes();
                let publish = client.publish(inbox.clone(), sent.to_vec().into());
                // A marker that cannot be sent now is no loss: the floor stays where it is.
                if let Ok(Err(_)) = tokio::time::timeout(INTERVAL, publish).await {
                    return;
                }
            }
        }
    }
}
