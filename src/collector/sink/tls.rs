//! TLS for the driver: which authorities to trust, and our certificate.
//!
//! Nothing is written to a disk: where executions run, no directory can be written to.

use crate::settings::TlsSettings;
use mongodb::options::{ClientOptions, Tls, TlsOptions};
use rustix::fs::{MemfdFlags, memfd_create};
use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
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
            tls.cert_key_file_path = Some(file.path());
            combined = Some(file);
        }
        (Some(file), _) | (None, Some(file)) => tls.cert_key_file_path = Some(file.clone()),
    }
    options.tls = Some(Tls::Enabled(tls));
    Ok(combined)
}

/// Certificate and key in one file that lies in memory, has no name, and goes with this.
#[derive(Debug)]
pub(super) struct Combined(File);

impl Combined {
    fn new(certificate: &Path, key: &Path) -> Result<Self, String> {
        let read = |path: &Path| std::fs::read(path).map_err(|error| format!("cannot read {}: {error}", path.display()));
        let (certificate, key) = (read(certificate)?, read(key)?);
        let failed = |error: std::io::Error| format!("cannot join certificate and key in memory (memfd_create): {error}");
        let file = memfd_create("sluice-certificate", MemfdFlags::CLOEXEC).map_err(|error| failed(error.into()))?;
        let mut file = File::from(file);
        file.write_all(&[&certificate[..], b"\n", &key[..]].concat()).map_err(failed)?;
        Ok(Self(file))
    }

    /// Where this process, and no other user, can open it.
    fn path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.0.as_raw_fd()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn certificate_and_key_are_joined_in_memory_and_no_file_is_written() {
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
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "CERT\nKEY", "each who opens it reads from the beginning");
        assert_eq!(std::fs::read_link(&file).unwrap().to_str().unwrap(), "/memfd:sluice-certificate (deleted)");
        drop(combined);
    }

    #[tokio::test]
    async fn without_settings_the_url_decides() {
        let mut options = ClientOptions::parse("mongodb://a").await.unwrap();
        assert!(apply(&mut options, &TlsSettings::default()).unwrap().is_none());
        assert!(options.tls.is_none());
    }
}
