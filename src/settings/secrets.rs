//! Secrets and the files that settings name: read while loading, so that what is missing is reported with its place.
//!
//! A secret may stand in the settings themselves, with a warning, or in a file of its own, whose last newline does not
//! belong to it. No problem ever shows one.

use super::TlsSettings;
use super::secret::{self, Secret};
use crate::pipeline::fields::{Fields, Report, Taken};
use std::path::{Path, PathBuf};
use std::{fs, io};

/// Reads files for the walk; `base` is the directory of the settings file, which relative paths in it start from.
pub(super) struct Files {
    /// Empty for the working directory.
    pub base: PathBuf,
}

impl Files {
    fn resolve(&self, taken: &Taken<String>) -> PathBuf {
        match taken.place.line {
            // From the environment or the command line: what a shell would take it for.
            0 => PathBuf::from(&taken.value),
            _ => self.base.join(&taken.value),
        }
    }

    /// Takes a secret from `name` or from the file that `file_name` names.
    pub fn secret(
        &self,
        fields: &mut Fields<'_>,
        name: &'static str,
        file_name: &'static str,
        report: &mut Report,
    ) -> Option<Taken<Secret>> {
        let secret = self.maybe_secret(fields, name, file_name, report)?;
        if let (secret, true) = &secret {
            warn_inline(secret, file_name, report);
        }
        Some(secret.0)
    }

    /// Like [`Files::secret`] for what only may be a secret; says whether it stood in the settings, and warns not.
    pub fn maybe_secret(
        &self,
        fields: &mut Fields<'_>,
        name: &'static str,
        file_name: &'static str,
        report: &mut Report,
    ) -> Option<(Taken<Secret>, bool)> {
        let inline = fields.string(name, report);
        let file = fields.string(file_name, report);
        if let (Some(_), Some(file)) = (&inline, &file) {
            file.error(report, format!("both {name} and {file_name} are given"), format!("remove {name}"));
            return None;
        }
        if let Some(inline) = inline {
            if inline.value.is_empty() {
                inline.error(report, "the value is empty", format!("remove it, or use {file_name}"));
                return None;
            }
            return Some((inline.map(Secret::new), true));
        }
        self.read(&file?, report).map(|secret| (secret, false))
    }

    /// Takes a secret that may only stand in a file.
    pub fn secret_file(&self, fields: &mut Fields<'_>, name: &'static str, report: &mut Report) -> Option<Taken<Secret>> {
        let file = fields.string(name, report)?;
        self.read(&file, report)
    }

    fn read(&self, file: &Taken<String>, report: &mut Report) -> Option<Taken<Secret>> {
        let path = self.resolve(file);
        let secret = match secret::read(&path) {
            Ok(secret) => secret,
            Err(error) => {
                file.error(report, format!("cannot read {}: {error}", path.display()), "name a file that this process may read");
                return None;
            }
        };
        warn_if_open(&path, file, report);
        Some(Taken { value: Secret::from_file(&secret, &path), place: file.place.clone(), path: file.path.clone() })
    }

    /// Takes the path of a file that must be readable; a `private` one should be so by its owner alone.
    pub fn path(&self, fields: &mut Fields<'_>, name: &'static str, private: bool, report: &mut Report) -> Option<Taken<PathBuf>> {
        let taken = fields.string(name, report)?;
        let path = self.resolve(&taken);
        let readable = fs::File::open(&path).and_then(|file| file.metadata()).and_then(|data| is_file(data.is_file()));
        if let Err(error) = readable {
            taken.error(report, format!("cannot read {}: {error}", path.display()), "name a file that this process may read");
            return None;
        }
        if private {
            warn_if_open(&path, &taken, report);
        }
        Some(taken.map(|_| path))
    }

    /// Takes a `tls` section.
    pub fn tls(&self, parent: &mut Fields<'_>, report: &mut Report) -> TlsSettings {
        let mut fields = parent.map("tls", report);
        let required = fields.boolean("required", report).is_some_and(|taken| taken.value);
        let halves = (fields.given("cert_file"), fields.given("key_file"));
        let ca_file = self.path(&mut fields, "ca_file", false, report);
        let cert_file = self.path(&mut fields, "cert_file", false, report);
        let key_file = self.path(&mut fields, "key_file", true, report);
        let missing = match halves {
            (true, false) => Some("key_file"),
            (false, true) => Some("cert_file"),
            _ => None,
        };
        if let Some(name) = missing {
            report.error(fields.place(), &fields.path_of(name), "a certificate and its key belong together", format!("add {name}"));
        }
        fields.finish(report);
        let value = |taken: Option<Taken<PathBuf>>| taken.map(|taken| taken.value);
        TlsSettings { required, ca_file: value(ca_file), cert_file: value(cert_file), key_file: value(key_file) }
    }
}

/// Warns about a secret that stands in the settings themselves.
pub(super) fn warn_inline<T>(secret: &Taken<T>, file_name: &str, report: &mut Report) {
    let message = match secret.place.line {
        0 => "a secret is given where others may see it",
        _ => "a secret stands in the settings file",
    };
    secret.warning(report, message, format!("put it into a file of its own, and name that as {file_name}"));
}

fn is_file(is: bool) -> io::Result<()> {
    if is { Ok(()) } else { Err(io::Error::other("it is not a file")) }
}

#[cfg(unix)]
fn warn_if_open(path: &Path, taken: &Taken<String>, report: &mut Report) {
    use std::os::unix::fs::PermissionsExt;
    let open = fs::metadata(path).is_ok_and(|data| data.permissions().mode() & 0o004 != 0);
    if open {
        let message = format!("everybody on this machine may read {}", path.display());
        taken.warning(report, message, format!("chmod 600 {}, or defaultMode: 0440 on Kubernetes", path.display()));
    }
}

#[cfg(not(unix))]
fn warn_if_open(_path: &Path, _taken: &Taken<String>, _report: &mut Report) {}
