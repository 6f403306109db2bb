//! TLS for the driver: which authorities to trust, and our certificate.

use crate::settings::TlsSettings;
use mongodb::options::{ClientOptions, Tls, TlsOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Where Linux distributions keep the certificates of the authorities; the driver's own list is used where there is
/// none.
const SYSTEM_AUTHORITIES: [&str; 3] = ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

/// Applies `settings`. What is returned must live until the client is made: the driver wants certificate and key in one
/// file, and reads it then.
pub(super) fn apply(options: &mut ClientOptions, settings: &TlsSettings) -> Result<Option<Combined>, String> {
    let given = match options.tls.take() {
        Some(Tls::Enabled(given)) => Some(given),
        other => {
            options.tls = other;
            None
        }
    };
    if given.is_none() && *settings == TlsSettings::default() {
        return Ok(None);
    }
    let mut tls = given.unwrap_or_else(|| TlsOptions::builder().build());
    if let Some(file) = &settings.ca_file {
        tls.ca_file_path = Some(file.clone());
    }
    if tls.ca_file_path.is_none() {
        tls.ca_file_path = SYSTEM_AUTHORITIES.iter().map(PathBuf::from).find(|file| file.exists());
    }
    let mut combined = None;
    match (&settings.cert_file, &settings.key_file) {
        (None, None) => {}
        (Some(certificate), Some(key)) if certificate != key => {
            let file = Combined::new(certificate, key)?;
            tls.cert_key_file_path = Some(file.0.clone());
            combined = Some(file);
        }
        (Some(file), _) | (None, Some(file)) => tls.cert_key_file_path = Some(file.clone()),
    }
    options.tls = Some(Tls::Enabled(tls));
    Ok(combined)
}

/// Certificate and key in one file that only we may read, removed when dropped.
#[derive(Debug)]
pub(super) struct Combined(PathBuf);

impl Combined {
    fn new(certificate: &Path, key: &Path) -> Result<Self, String> {
        let read = |path: &Path| std::fs::read(path).map_err(|error| format!("cannot read {}: {error}", path.display()));
        let (certificate, key) = (read(certificate)?, read(key)?);
        let path = std::env::temp_dir().join(format!("sluice-{}.pem", uuid::Uuid::new_v4()));
        let mut open = std::fs::OpenOptions::new();
        open.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut open, 0o600);
        let failed = |error| format!("cannot join certificate and key in {}: {error}", path.display());
        let mut file = open.open(&path).map_err(failed)?;
        let combined = Self(path.clone());
        file.write_all(&[&certificate[..], b"\n", &key[..]].concat()).map_err(failed)?;
        Ok(combined)
    }
}

impl Drop for Combined {
    fn drop(&mut self) {
        // Nothing more can be done about a file that does not go; nobody else can read it.
        std::fs::remove_file(&self.0).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn certificate_and_key_are_joined_and_the_file_goes_again() {
        let dir = tempfile::tempdir().unwrap();
        let (certificate, key) = (dir.path().join("cert"), dir.path().join("key"));
        std::fs::write(&certificate, "CERT").unwrap();
        std::fs::write(&key, "KEY").unwrap();
        let mut options = ClientOptions::parse("mongodb://a").await.unwrap();
        let settings = TlsSettings { cert_file: Some(certificate), key_file: Some(key.clone()), ca_file: Some(key), required: true };
        let combined = apply(&mut options, &settings).unwrap().unwrap();
        let Some(Tls::Enabled(tls)) = options.tls else { panic!("no TLS") };
        let file = tls.cert_key_file_path.unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "CERT\nKEY");
        drop(combined);
        assert!(!file.exists());
    }

    #[tokio::test]
    async fn without_settings_the_url_decides() {
        let mut options = ClientOptions::parse("mongodb://a").await.unwrap();
        assert!(apply(&mut options, &TlsSettings::default()).unwrap().is_none());
        assert!(options.tls.is_none());
    }
}
