//! What a client proves with who it is, as a digest: another one means that the client has to be made anew.

use crate::settings::MongoConnection;
use sha2::{Digest, Sha256};
use std::fmt;

/// A digest of credentials and of what certificate files hold.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Proof([u8; 32]);

impl Proof {
    /// As it is now. A file that cannot be read is like one that is not there: the client says so when it is made.
    pub(super) fn of(settings: &MongoConnection) -> Self {
        let mut hash = Sha256::new();
        let mut add = |field: &[u8]| {
            hash.update((field.len() as u64).to_be_bytes());
            hash.update(field);
        };
        add(settings.url.expose().as_bytes());
        add(settings.username.as_deref().unwrap_or_default().as_bytes());
        add(settings.password.as_ref().map(|password| password.expose()).unwrap_or_default().as_bytes());
        for file in settings.tls_files() {
            add(&std::fs::read(file).unwrap_or_default());
        }
        Self(hash.finalize().into())
    }
}

impl fmt::Debug for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}
