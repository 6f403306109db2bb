//! The files of an execution as an archive that an engine takes: its settings, and its secrets unless those come from
//! the engine's own machine. Each readable by the container's user alone. An engine unpacks in the archive's order, so that the
//! last file, an empty one, says that all are there. Called by `fill`.

use super::config::{COMPLETE, secrets_directory};
use crate::executor::error::BackendError;
use crate::settings::{ContainerUser, FileContent, Settings};
use sha2::{Digest, Sha256};
use std::fs;
use tar::{Builder, EntryType, Header};

/// Nobody but the container's user reads it, and nobody writes it.
const READ: u32 = 0o400;
/// The same for a directory.
const ENTER: u32 = 0o500;

/// What files hold, by their names.
type Named = Vec<(String, Vec<u8>)>;

/// An archive of what each of `copies` executions needs, in directories `0`, `1` and so on. Errors: a certificate that the
/// settings name cannot be read.
pub fn archive(settings: &Settings, copies: usize) -> Result<Vec<u8>, BackendError> {
    let docker = &settings.executor.docker;
    let failed = |path: &str, error: &std::io::Error| BackendError::File { path: path.to_owned(), message: error.to_string() };
    let (settings_text, secrets) = contents(settings)?;
    let mut archive = Builder::new(Vec::new());
    for copy in 0..copies {
        let mut put = |name: String, content: &[u8]| {
            append(&mut archive, &format!("{copy}/{name}"), content, docker.user).map_err(|error| failed(&name, &error))
        };
        put("sluice.yml".into(), settings_text.as_bytes())?;
        if !secrets.is_empty() {
            put("secrets/".into(), &[])?;
        }
        for (name, content) in &secrets {
            put(format!("secrets/{name}"), content)?;
        }
        put(COMPLETE.into(), &[])?;
    }
    archive.into_inner().map_err(|error| failed("the archive", &error))
}

/// The settings of an execution, and its secrets by name. Errors: a certificate that the settings name cannot be read.
fn contents(settings: &Settings) -> Result<(String, Named), BackendError> {
    let docker = &settings.executor.docker;
    let files = settings.execution_files(secrets_directory(docker), docker.memory);
    let failed = |path: &str, error: &std::io::Error| BackendError::File { path: path.to_owned(), message: error.to_string() };
    let mut secrets = Vec::new();
    for file in files.secrets.into_iter().filter(|_| docker.secrets_dir.is_none()) {
        let content = match &file.content {
            FileContent::Secret(secret) => secret.expose().as_bytes().to_vec(),
            FileContent::CopyOf(path) => fs::read(path).map_err(|error| failed(&path.display().to_string(), &error))?,
        };
        secrets.push((file.name, content));
    }
    Ok((files.settings, secrets))
}

/// A digest of the secrets that executions find.
pub fn digest(settings: &Settings) -> Result<[u8; 32], BackendError> {
    let mut hash = Sha256::new();
    for (name, content) in contents(settings)?.1 {
        for field in [name.as_bytes(), &content] {
            hash.update((field.len() as u64).to_be_bytes());
            hash.update(field);
        }
    }
    Ok(hash.finalize().into())
}

fn header(size: u64, mode: u32, user: ContainerUser) -> Header {
    let mut header = Header::new_gnu();
    header.set_size(size);
    header.set_mode(mode);
    header.set_uid(user.uid.into());
    header.set_gid(user.gid.into());
    header.set_mtime(0);
    header
}

/// Adds a file, or a directory where the name ends in a slash.
fn append(archive: &mut Builder<Vec<u8>>, name: &str, content: &[u8], user: ContainerUser) -> std::io::Result<()> {
    let directory = name.ends_with('/');
    let mut header = header(u64::try_from(content.len()).unwrap_or(u64::MAX), if directory { ENTER } else { READ }, user);
    if directory {
        header.set_entry_type(EntryType::Directory);
    }
    archive.append_data(&mut header, name, content)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Secret;
    use std::io::Read;

    #[test]
    fn only_the_containers_user_reads_what_an_execution_finds() {
        let mut settings = Settings::default();
        settings.nats.token = Some(Secret::new("canary"));
        let bytes = archive(&settings, 2).unwrap();
        let mut seen = Vec::new();
        for entry in tar::Archive::new(bytes.as_slice()).entries().unwrap() {
            let mut entry = entry.unwrap();
            let header = entry.header();
            assert_eq!((header.uid().unwrap(), header.gid().unwrap(), header.mode().unwrap() & 0o077), (65532, 65532, 0));
            let (path, mut text) = (entry.path().unwrap().display().to_string(), String::new());
            entry.read_to_string(&mut text).unwrap();
            seen.push((path, text.contains("canary")));
        }
        let secret = |name: &str| seen.iter().find(|(path, _)| path == name).map(|(_, secret)| *secret);
        for copy in 0..2 {
            assert_eq!(secret(&format!("{copy}/sluice.yml")), Some(false));
            assert_eq!(secret(&format!("{copy}/secrets/nats-token")), Some(true));
        }
        assert_eq!(seen.len(), 10, "{seen:?}");
        // Whoever sees it sees all.
        assert_eq!([&seen[4].0, &seen[9].0], ["0/complete", "1/complete"]);
    }
}
