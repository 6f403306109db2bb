//! The lease of the namespace: one key in a bucket whose max age is the lease's length, taken and renewed by
//! compare-and-set on its revision. The revision at acquisition is the fencing epoch.

use super::api::{Failure, Stored};
use super::bucket::Bucket;
use super::entries::Operation;
use super::error::{StoreError, StoreErrorKind};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a lease lasts after the renewal that was last sent.
pub const LEASE_TTL: Duration = Duration::from_secs(10);
/// How often it is renewed.
pub const LEASE_RENEW: Duration = Duration::from_secs(3);

/// Who holds the lease, as it stands in the bucket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseHolder {
    /// The controller instance.
    pub process: uuid::Uuid,
    /// Its hostname, for people.
    pub host: String,
    /// Its executor kind: a controller of another kind stands by.
    pub executor: String,
    /// The fencing epoch: 0 in the acquiring write itself, whose revision it is.
    pub epoch: u64,
}

/// A lease that we hold, or held.
#[derive(Debug, Clone)]
pub struct Lease {
    /// The fencing epoch.
    pub epoch: u64,
    revision: u64,
    valid_until: Instant,
}

impl Lease {
    /// Whether it holds at `now`, counted from before the last successful renewal was sent.
    pub fn valid(&self, now: Instant) -> bool {
        now < self.valid_until
    }

    /// How long it still holds.
    pub fn remaining(&self, now: Instant) -> Duration {
        self.valid_until.saturating_duration_since(now)
    }
}

/// The one key of the lease's bucket.
const KEY: &str = "holder";
/// Each call's time limit: a renewal that hangs must leave time for the next.
const TIMEOUT: Duration = Duration::from_secs(3);

/// The lease's bucket.
#[derive(Clone)]
pub struct LeaseStore {
    bucket: Bucket,
    /// The revision that was last seen held by another, and since when: see [`LeaseStore::acquire`].
    seen: Arc<Mutex<Option<(u64, Instant)>>>,
}

impl LeaseStore {
    pub(super) fn new(client: async_nats::Client, name: &str) -> Self {
        Self { bucket: Bucket::new(client, name).with_timeout(TIMEOUT), seen: Arc::default() }
    }

    /// Takes the lease where nobody holds it. `Ok(Err(holder))` where somebody does.
    ///
    /// The bucket's max age is what normally ends a dead holder's lease. Where a bucket has none, a revision that we have
    /// seen unchanged for [`LEASE_TTL`] is over too: its validity is counted from before it was written.
    pub async fn acquire(&self, me: &LeaseHolder) -> Result<Result<Lease, LeaseHolder>, StoreError> {
        // Twice, since the newest record may change between our write and our look at it.
        for _ in 0..2 {
            let conflict = match self.take(me, 0).await {
                Ok(lease) => return Ok(Ok(lease)),
                Err(failure) if failure.kind() == StoreErrorKind::Conflict => failure,
                Err(failure) => return Err(self.during("acquire", failure)),
            };
            let Some(record) = self.bucket.get(KEY).await.map_err(|failure| self.during("acquire", failure))? else { continue };
            let holder = self.holder(&record);
            let free = match &holder {
                None => true,
                // An acquisition of ours whose answer was lost.
                Some(holder) => holder.process == me.process || self.unchanged(record.sequence),
            };
            if !free {
                return Ok(Err(holder.unwrap_or_else(|| me.clone())));
            }
            match self.take(me, record.sequence).await {
                Ok(lease) => return Ok(Ok(lease)),
                Err(failure) if failure.kind() == StoreErrorKind::Conflict => tracing::debug!(%conflict, "lost a race for the lease"),
                Err(failure) => return Err(self.during("acquire", failure)),
            }
        }
        match self.current().await? {
            Some(holder) => Ok(Err(holder)),
            None => Err(StoreError::new(StoreErrorKind::Conflict, "acquire the lease: it changed hands meanwhile")),
        }
    }

    async fn take(&self, me: &LeaseHolder, expected: u64) -> Result<Lease, Failure> {
        let sent = Instant::now();
        let revision = self.bucket.put(KEY, document(&LeaseHolder { epoch: 0, ..me.clone() })?, expected).await?;
        Ok(Lease { epoch: revision, revision, valid_until: sent + LEASE_TTL })
    }

    /// Renews `lease`. `Conflict` where it was lost: then it is over, whatever the clock says.
    pub async fn renew(&self, lease: &mut Lease, me: &LeaseHolder) -> Result<(), StoreError> {
        let held = LeaseHolder { epoch: lease.epoch, ..me.clone() };
        let value = document(&held).map_err(|failure| self.during("renew", failure))?;
        // Twice, since what conflicts may be an earlier renewal of ours whose answer was lost.
        for last in [false, true] {
            let sent = Instant::now();
            match self.bucket.put(KEY, value.clone(), lease.revision).await {
                Ok(revision) => {
                    lease.revision = revision;
                    lease.valid_until = sent + LEASE_TTL;
                    return Ok(());
                }
                Err(failure) if !last && failure.kind() == StoreErrorKind::Conflict => {
                    lease.revision = self.same_epoch(lease.epoch, failure, "renew").await?;
                }
                Err(failure) => return Err(self.during("renew", failure)),
            }
        }
        Ok(())
    }

    /// Gives the lease back, so that another takes over at once.
    pub async fn release(&self, mut lease: Lease) -> Result<(), StoreError> {
        let failure = match self.bucket.mark(KEY, Operation::Delete, lease.revision).await {
            Ok(_) => return Ok(()),
            Err(failure) if failure.kind() == StoreErrorKind::Conflict => failure,
            Err(failure) => return Err(self.during("release", failure)),
        };
        lease.revision = self.same_epoch(lease.epoch, failure, "release").await?;
        let released = self.bucket.mark(KEY, Operation::Delete, lease.revision).await;
        released.map(|_| ()).map_err(|failure| self.during("release", failure))
    }

    /// Who holds the lease, with its epoch.
    pub async fn current(&self) -> Result<Option<LeaseHolder>, StoreError> {
        let record = self.bucket.get(KEY).await.map_err(|failure| self.during("read", failure))?;
        Ok(record.and_then(|record| self.holder(&record)))
    }

    /// The holder that a record names; `None` for a marker and for what does not parse, which holds nothing.
    fn holder(&self, record: &Stored) -> Option<LeaseHolder> {
        if record.operation != Operation::Put {
            return None;
        }
        let mut holder: LeaseHolder = serde_json::from_slice(&record.payload).ok()?;
        if holder.epoch == 0 {
            holder.epoch = record.sequence;
        }
        Some(holder)
    }

    /// Whether this process has seen `revision` as the newest one for the whole length of a lease.
    fn unchanged(&self, revision: u64) -> bool {
        let now = Instant::now();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        match *seen {
            Some((known, since)) if known == revision => now.duration_since(since) > LEASE_TTL,
            _ => {
                *seen = Some((revision, now));
                false
            }
        }
    }

    /// The revision of the newest record, where it is of `epoch`; else the conflict.
    async fn same_epoch(&self, epoch: u64, conflict: Failure, what: &str) -> Result<u64, StoreError> {
        let record = self.bucket.get(KEY).await.map_err(|failure| self.during(what, failure))?;
        let ours = record.filter(|record| self.holder(record).is_some_and(|holder| holder.epoch == epoch));
        ours.map(|record| record.sequence).ok_or_else(|| self.during(what, conflict))
    }

    fn during(&self, what: &str, failure: Failure) -> StoreError {
        failure.during(format!("{what} the lease in {}", self.bucket.stream()))
    }
}

fn document(holder: &LeaseHolder) -> Result<Bytes, Failure> {
    serde_json::to_vec(holder).map(Bytes::from).map_err(|error| Failure::Protocol(error.to_string()))
}
