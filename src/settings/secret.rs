//! A secret that shows itself to nobody, and that can be read again while the process runs.
//!
//! What always holds: all clones of a secret are one, so that whoever asks for it gets what is so now; what cannot be read
//! again, is empty, or leads to other servers leaves it as it was. Made by the walk over the settings, used wherever a
//! connection is made, read again by `reload`.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

/// No secret is longer, and no connection string.
const MAX_BYTES: u64 = 64 << 10;

/// A secret. Neither `Debug` nor `Display` shows it, and it is not serializable. Clones share what it is now.
#[derive(Clone)]
pub struct Secret(Arc<Shared>);

struct Shared {
    now: RwLock<Now>,
    /// Whether one value may take another's place while the process runs.
    may_follow: fn(&str, &str) -> bool,
}

#[derive(Clone)]
struct Now {
    value: Arc<str>,
    /// The file that it stands in.
    file: Option<PathBuf>,
}

/// What became of a secret that was offered another value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offered {
    /// It is what it was.
    Same,
    /// It is the other one now.
    Taken,
    /// It is what it was, since the other one means more than another secret: other servers or options.
    NotTaken,
}

impl Secret {
    /// Wraps a secret.
    pub fn new(value: impl Into<String>) -> Self {
        Self::made(value.into(), None, |_, _| true)
    }

    /// A secret that stands in `file`.
    pub fn from_file(value: &str, file: &Path) -> Self {
        Self::made(value.to_owned(), Some(file.to_owned()), |_, _| true)
    }

    /// The same, but only what `may_follow` (the old value, the new one) takes its place later.
    pub(super) fn guarded(&self, may_follow: fn(&str, &str) -> bool) -> Self {
        let Now { value, file } = self.now();
        Self::made(value.to_string(), file, may_follow)
    }

    fn made(value: String, file: Option<PathBuf>, may_follow: fn(&str, &str) -> bool) -> Self {
        Self(Arc::new(Shared { now: RwLock::new(Now { value: value.into(), file }), may_follow }))
    }

    fn now(&self) -> Now {
        self.0.now.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The secret itself as it is now, for the one call that needs it.
    pub fn expose(&self) -> Arc<str> {
        self.now().value
    }

    /// The file that it stands in, where it does.
    pub fn file(&self) -> Option<PathBuf> {
        self.now().file
    }

    /// Reads its file again, if it stands in one. Errors: the file cannot be read or is empty; the secret stays as it was.
    pub fn refresh(&self) -> io::Result<Offered> {
        let Some(file) = self.file() else { return Ok(Offered::Same) };
        Ok(self.offer(read(&file)?.into(), Some(file)))
    }

    /// Takes the value and the file of `other`.
    pub(super) fn adopt(&self, other: &Self) -> Offered {
        let Now { value, file } = other.now();
        self.offer(value, file)
    }

    fn offer(&self, value: Arc<str>, file: Option<PathBuf>) -> Offered {
        let mut now = self.0.now.write().unwrap_or_else(PoisonError::into_inner);
        if now.value == value {
            now.file = file;
            return Offered::Same;
        }
        if !(self.0.may_follow)(&now.value, &value) {
            return Offered::NotTaken;
        }
        *now = Now { value, file };
        Offered::Taken
    }
}

/// Reads a secret from its file, without the last line's end, which does not belong to it.
pub(super) fn read(path: &Path) -> io::Result<String> {
    let data = fs::metadata(path)?;
    if !data.is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    if data.len() > MAX_BYTES {
        return Err(io::Error::other("it is too large for a secret"));
    }
    let text = fs::read_to_string(path)?;
    let secret = text.strip_suffix('\n').map_or(text.as_str(), |line| line.strip_suffix('\r').unwrap_or(line));
    if secret.is_empty() { Err(io::Error::other("it is empty")) } else { Ok(secret.to_owned()) }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.expose() == other.expose()
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_clones_are_what_the_file_holds_now_and_what_cannot_be_read_leaves_them_as_they_were() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("password");
        fs::write(&file, "one\n").unwrap();
        let secret = Secret::from_file("one", &file);
        let clone = secret.clone();
        assert_eq!(secret.refresh().unwrap(), Offered::Same);
        fs::write(&file, "two\n").unwrap();
        assert_eq!((secret.refresh().unwrap(), &*clone.expose()), (Offered::Taken, "two"));
        for broken in ["", "\n"] {
            fs::write(&file, broken).unwrap();
            assert!(secret.refresh().is_err());
        }
        fs::remove_file(&file).unwrap();
        assert!(secret.refresh().is_err() && &*clone.expose() == "two");
        assert_eq!(format!("{secret:?}"), "***");
    }

    #[cfg(unix)]
    #[test]
    fn a_file_that_is_swapped_by_a_link_as_kubernetes_does_is_read_anew() {
        use std::os::unix::fs::symlink;
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        for (version, text) in [("..1", "one"), ("..2", "two")] {
            fs::create_dir(path(version)).unwrap();
            fs::write(path(version).join("password"), text).unwrap();
        }
        symlink("..1", path("..data")).unwrap();
        symlink("..data/password", path("password")).unwrap();
        let secret = Secret::from_file("one", &path("password"));
        symlink("..2", path("..data_tmp")).unwrap();
        fs::rename(path("..data_tmp"), path("..data")).unwrap();
        assert_eq!((secret.refresh().unwrap(), &*secret.expose()), (Offered::Taken, "two"));
    }

    #[test]
    fn what_may_not_follow_does_not() {
        let secret = Secret::new("a1").guarded(|old, new| old.as_bytes()[0] == new.as_bytes()[0]);
        assert_eq!(secret.adopt(&Secret::new("b2")), Offered::NotTaken);
        assert_eq!((secret.adopt(&Secret::new("a2")), &*secret.expose()), (Offered::Taken, "a2"));
    }
}
