//! How a process proves to NATS who it is: every way of the settings, read from its file again at each connect.
//!
//! What cannot be read just then (a file that is being replaced) is taken as it was read last; an nkey or a `.creds` file
//! that cannot be used fails that try, and the next one reads it again. No message holds a secret.

use super::connect::unusable;
use super::error::StoreError;
use crate::settings::{NatsSettings, Secret};
use async_nats::{Auth, AuthError};
use nkeys::KeyPair;
use std::io;
use std::path::Path;

/// User and password of an address; a user without a password is a token.
pub(super) type FromUrl = (String, Option<String>);

/// What the settings say of who we are.
pub(super) struct Credentials {
    settings: NatsSettings,
    from_url: Option<FromUrl>,
}

impl Credentials {
    pub(super) fn new(settings: &NatsSettings, from_url: Option<FromUrl>) -> Self {
        Self { settings: settings.clone(), from_url }
    }

    /// Errors: the `.creds` file cannot be used.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        let Some(path) = &self.settings.credentials_file else { return Ok(()) };
        decorated(path).map(drop).map_err(|error| unusable("nats.credentials_file", path, error))
    }

    /// What is said to a server that asks with `nonce`.
    pub(super) fn answer(&self, nonce: &[u8]) -> Result<Auth, AuthError> {
        let NatsSettings { token, user, password, nkey, credentials_file, .. } = &self.settings;
        let mut auth = Auth::new();
        match &self.from_url {
            Some((user, Some(password))) => (auth.username, auth.password) = (Some(user.clone()), Some(password.clone())),
            Some((token, None)) => auth.token = Some(token.clone()),
            None => {}
        }
        if let Some(token) = token {
            auth.token = Some(now(token));
        }
        if let Some(user) = user {
            auth.username = Some(user.clone());
            auth.password = Some(password.as_ref().map(now).unwrap_or_default());
        }
        if let Some(seed) = nkey {
            let key = key(now(seed).trim(), "nats.nkey_file")?;
            auth.signature = Some(signed(&key, nonce, "nats.nkey_file")?);
            auth.nkey = Some(key.public_key());
        }
        if let Some(path) = credentials_file {
            let (jwt, seed) = decorated(path).map_err(|error| AuthError::new(format!("nats.credentials_file: {error}")))?;
            auth.signature = Some(signed(&key(&seed, "nats.credentials_file")?, nonce, "nats.credentials_file")?);
            auth.jwt = Some(jwt);
        }
        Ok(auth)
    }
}

/// The secret as its file holds it now.
fn now(secret: &Secret) -> String {
    // One that cannot be read just now is what it was; `SecretFiles` says so.
    let _ = secret.refresh();
    secret.expose().to_string()
}

fn key(seed: &str, setting: &str) -> Result<KeyPair, AuthError> {
    // The library's own message might show it.
    KeyPair::from_seed(seed).map_err(|_| AuthError::new(format!("{setting} holds no nkey seed")))
}

fn signed(key: &KeyPair, nonce: &[u8], setting: &str) -> Result<Vec<u8>, AuthError> {
    key.sign(nonce).map_err(|_| AuthError::new(format!("the key of {setting} cannot sign")))
}

/// The user's JWT and seed of a `.creds` file.
fn decorated(path: &Path) -> io::Result<(String, String)> {
    let text = std::fs::read_to_string(path)?;
    let mut blocks = text.split_inclusive('\n').scan(false, |inside, line| {
        let line = line.trim();
        let is_rule = line.len() > 6 && line.starts_with("---") && line.ends_with("---");
        if is_rule {
            *inside = line.contains("BEGIN");
        }
        Some((*inside && !is_rule && !line.is_empty()).then(|| line.to_owned()))
    });
    let mut next = || blocks.by_ref().flatten().next();
    match (next(), next()) {
        (Some(jwt), Some(seed)) => Ok((jwt, seed)),
        _ => Err(io::Error::other("it is no credentials file, with a user's JWT and its seed")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Settings;

    #[test]
    fn a_credentials_file_is_taken_apart_and_read_at_each_connect() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.creds");
        let write = |jwt: &str, seed: &str| {
            let text = format!(
                "-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n****** IMPORTANT ******\n\n\
                 -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
            );
            std::fs::write(&path, text).unwrap();
        };
        let key = KeyPair::new_user();
        write("a.b.c", &key.seed().unwrap());
        let credentials = Credentials::new(&NatsSettings { credentials_file: Some(path.clone()), ..Settings::default().nats }, None);
        credentials.check().unwrap();
        let auth = credentials.answer(b"nonce").unwrap();
        assert_eq!((auth.jwt.as_deref(), auth.signature), (Some("a.b.c"), Some(key.sign(b"nonce").unwrap())));
        write("d.e.f", &key.seed().unwrap());
        assert_eq!(credentials.answer(b"nonce").unwrap().jwt.as_deref(), Some("d.e.f"));
        write("d.e.f", "canary");
        let error = credentials.answer(b"nonce").err().unwrap().to_string();
        assert!(error.contains("credentials_file") && !error.contains("canary"), "{error}");
        std::fs::write(&path, "nothing").unwrap();
        assert!(credentials.check().is_err());
    }
}
