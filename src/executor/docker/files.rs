//! The files of an execution as an archive that an engine takes: its settings, and its secrets unless those come from
//! the engine's own machine. Each readable by the container's user alone.

use super::config::secrets_directory;
use super::engine::EngineError;
use crate::settings::{ContainerUser, FileContent, Settings};
use std::fs;
use tar::{Builder, EntryType, Header};

/// Nobody but the container's user reads it, and nobody writes it.
const READ: u32 = 0o400;
/// The same for a directory.
const ENTER: u32 = 0o500;

/// An archive of what an execution needs. Errors: a certificate that the settings name cannot be read.
pub fn archive(settings: &Settings) -> Result<Vec<u8>, EngineError> {
    let docker = &settings.executor.docker;
    let files = settings.execution_files(secrets_directory(docker), docker.memory);
    let mut archive = Builder::new(Vec::new());
    let failed = |path: &str, error: &std::io::Error| EngineError::File { path: path.to_owned(), message: error.to_string() };
    append(&mut archive, "sluice.yml", files.settings.as_bytes(), docker.user).map_err(|error| failed("sluice.yml", &error))?;
    if docker.secrets_dir.is_none() {
        let mut directory = header(0, ENTER, docker.user);
        directory.set_entry_type(EntryType::Directory);
        archive.append_data(&mut directory, "secrets/", std::io::empty()).map_err(|error| failed("secrets", &error))?;
        for file in &files.secrets {
            let name = format!("secrets/{}", file.name);
            let written = match &file.content {
                FileContent::Secret(secret) => append(&mut archive, &name, secret.expose().as_bytes(), docker.user),
                FileContent::CopyOf(path) => {
                    let content = fs::read(path).map_err(|error| failed(&path.display().to_string(), &error))?;
                    append(&mut archive, &name, &content, docker.user)
                }
            };
            written.map_err(|error| failed(&name, &error))?;
        }
    }
    archive.into_inner().map_err(|error| failed("the archive", &error))
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

fn append(archive: &mut Builder<Vec<u8>>, name: &str, content: &[u8], user: ContainerUser) -> std::io::Result<()> {
    let mut header = header(u64::try_from(content.len()).unwrap_or(u64::MAX), READ, user);
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
        let bytes = archive(&settings).unwrap();
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
        assert_eq!(secret("sluice.yml"), Some(false));
        assert_eq!(secret("secrets/nats-token"), Some(true));
        assert_eq!(seen.len(), 4, "{seen:?}");
    }
}
