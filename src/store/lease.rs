//! The lease of the namespace: one key in a bucket whose max age is the lease's length, taken and renewed by
//! compare-and-set on its revision. The revision at acquisition is the fencing epoch.

use super::error::StoreError;
use serde::{Deserialize, Serialize};
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

/// The lease's bucket.
#[derive(Clone)]
pub struct LeaseStore {}

impl LeaseStore {
    /// Takes the lease where nobody holds it. `Ok(Err(holder))` where somebody does.
    pub async fn acquire(&self, me: &LeaseHolder) -> Result<Result<Lease, LeaseHolder>, StoreError> {
        let _ = me;
        todo!()
    }

    /// Renews `lease`. `Conflict` where it was lost: then it is over, whatever the clock says.
    pub async fn renew(&self, lease: &mut Lease, me: &LeaseHolder) -> Result<(), StoreError> {
        let _ = (lease, me);
        todo!()
    }

    /// Gives the lease back, so that another takes over at once.
    pub async fn release(&self, lease: Lease) -> Result<(), StoreError> {
        let _ = lease;
        todo!()
    }
}
