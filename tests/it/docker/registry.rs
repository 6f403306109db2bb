//! Pulls from a real registry that asks for a password: what comes, what does not and why, and when it is asked at all.

use super::Rig;
use crate::executor::{SOON, id, observed, runs};
use crate::support::{Docker, Process, eventually, free_port, temp_dir, tool};
use sluice::executor::{Executor, docker::DockerExecutor};
use sluice::pipeline::spec::ExecutionSpec;
use sluice::pipeline::status::Reason;
use sluice::settings::{PullPolicy, Secret};
use std::process::Command;
use std::sync::Arc;

const USER: &str = "sluice";
const PASSWORD: &str = "word-of-the-registry";
/// The same as `htpasswd -nbB` says it.
const HTPASSWD: &str = "sluice:$2b$04$aikFgZ8Q5h9r8A3Kb1L34uroJG9Ag/0WtuWs2z0MTkR7A63l2Mmnm\n";

/// A registry; killed when dropped.
struct Registry {
    process: Process,
    address: String,
    dir: tempfile::TempDir,
}

impl Registry {
    async fn start() -> Self {
        let (dir, address) = (temp_dir("registry"), format!("127.0.0.1:{}", free_port()));
        std::fs::write(dir.path().join("htpasswd"), HTPASSWD).unwrap();
        let at = dir.path().display();
        let config = format!(
            "version: 0.1\nstorage: {{filesystem: {{rootdirectory: {at}/data}}}}\nhttp: {{addr: '{address}'}}\n\
             auth: {{htpasswd: {{realm: it, path: {at}/htpasswd}}}}\n"
        );
        std::fs::write(dir.path().join("config.yml"), config).unwrap();
        let mut command = Command::new(tool("registry").unwrap());
        command.arg("serve").arg(dir.path().join("config.yml"));
        let process = Process::start("registry", command, &dir.path().join("registry.log"));
        eventually("the registry listens", SOON, || async { tokio::net::TcpStream::connect(&address).await.is_ok() }).await;
        Self { process, address, dir }
    }

    /// Puts the image of this binary there as `name`, and takes that name from the engine.
    async fn push(&self, docker: &Arc<Docker>, name: &str) -> String {
        let (image, config) = (format!("{}/{name}", self.address), self.dir.path().join("client").display().to_string());
        docker.cli(&["tag", &docker.image().await, &image]).await;
        docker.cli(&["--config", &config, "login", "-u", USER, "-p", PASSWORD, &self.address]).await;
        docker.cli(&["--config", &config, "push", "-q", &image]).await;
        docker.cli(&["rmi", &image]).await;
        image
    }
}

/// A backend for `image`, and what it is to run.
fn pulling(rig: &Rig, one: &ExecutionSpec, image: &str, pull: PullPolicy, password: &str) -> (DockerExecutor, ExecutionSpec) {
    let mut settings = rig.settings.as_ref().clone();
    let docker = &mut settings.executor.docker;
    (docker.image, docker.pull) = (image.to_owned(), pull);
    (docker.registry.username, docker.registry.password) = (Some(USER.into()), Some(Secret::new(password)));
    (DockerExecutor::new(Arc::new(settings), rig.installation), one.clone().seal(image))
}

#[tokio::test(flavor = "multi_thread")]
async fn images_are_pulled_from_a_registry_with_a_password_and_what_is_refused_is_said() {
    require!("docker", "nats-server", "database", "registry");
    let (mut registry, rig) = tokio::join!(Registry::start(), Rig::set());
    let one = rig.plain().await;
    let image = registry.push(&rig.docker, "pipelines/sluice:it").await;
    let refused = async |image: &str, pull, password: &str, what: &[&str]| {
        let (backend, spec) = pulling(&rig, &one, image, pull, password);
        backend.ensure(&spec).await.unwrap();
        eventually(&format!("{image} with {pull:?} is refused: {what:?}"), SOON, || async {
            let troubles = observed(&backend).await.map(|seen| seen.troubles).unwrap_or_default();
            let said = |message: &str| message.contains(image) && what.iter().any(|what| message.contains(what));
            troubles.iter().any(|trouble| trouble.reason == Reason::ImageMissing && said(&trouble.message))
        })
        .await;
        backend.destroy(&id()).await.unwrap();
        eventually("nothing of it is left", SOON, || async { rig.left().await.is_empty() }).await;
    };
    refused(&image, PullPolicy::Missing, "another word", &["unauthorized", "no basic auth", "denied"]).await;
    refused(&format!("{image}-nowhere"), PullPolicy::Missing, PASSWORD, &["not found", "manifest unknown"]).await;
    refused(&image, PullPolicy::Never, PASSWORD, &["executor.docker.pull is never"]).await;

    let (backend, spec) = pulling(&rig, &one, &image, PullPolicy::Missing, PASSWORD);
    backend.ensure(&spec).await.unwrap();
    runs(&backend, &spec).await;
    rig.world.send(0..10).await;
    rig.world.stored(10).await;
    let name = observed(&backend).await.unwrap().instances.remove(0).name;
    let shown = rig.docker.cli(&["inspect", &name, &image]).await + &format!("{:?}", observed(&backend).await);
    assert!(!shown.contains(PASSWORD), "the registry's password is nobody's business");
    backend.destroy(&id()).await.unwrap();
    eventually("nothing is left", SOON, || async { rig.left().await.is_empty() }).await;

    // Without a registry: what is there is used, unless it is to be asked for every time.
    registry.process.kill9();
    refused(&image, PullPolicy::Always, PASSWORD, &["connection refused", "refused"]).await;
    let (backend, spec) = pulling(&rig, &one, &image, PullPolicy::Missing, PASSWORD);
    backend.ensure(&spec).await.unwrap();
    runs(&backend, &spec).await;
    backend.destroy(&id()).await.unwrap();
    eventually("nothing is left", SOON, || async { rig.left().await.is_empty() }).await;
    rig.docker.try_cli(&["rmi", "-f", &image]).await;
}
