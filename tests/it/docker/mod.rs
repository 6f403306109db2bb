//! The Docker backend on a real engine: the contract that every backend keeps, what an engine adds to it, and whole
//! pipelines. The engine is shared with other tests; what is made on it goes at the end.

mod backend;
mod ends;
mod engine;
mod pipelines;
mod places;
mod registry;
mod restarts;

use crate::executor::{PLAIN, World};
use crate::support::{Cleaning, Docker, Mongo, Nats};
use sluice::executor::docker::DockerExecutor;
use sluice::pipeline::spec::ExecutionSpec;
use sluice::settings::{ExecutorKind, PullPolicy, Settings};
use std::sync::Arc;

/// A backend, servers that its containers reach, and an installation of this test's own.
struct Rig {
    docker: Arc<Docker>,
    world: World,
    settings: Arc<Settings>,
    installation: uuid::Uuid,
    _cleaning: Cleaning,
}

impl Rig {
    async fn set() -> Self {
        Self::on(Docker::shared().await).await
    }

    async fn on(docker: Arc<Docker>) -> Self {
        let gateway = docker.gateway();
        let (nats, mongo) = tokio::join!(Nats::start_on(gateway), Mongo::start_on(gateway));
        let world = World::on(nats, mongo).await;
        let mut settings = world.settings.clone();
        settings.executor.kind = ExecutorKind::Docker;
        settings.executor.docker.image = docker.image().await;
        settings.executor.docker.pull = PullPolicy::Never;
        settings.executor.docker.host = host(&docker);
        settings.executor.docker.memory = 256 << 20;
        let installation = uuid::Uuid::new_v4();
        let _cleaning = docker.clean(&format!("sluice/installation={installation}"));
        Self { docker, world, settings: Arc::new(settings), installation, _cleaning }
    }

    /// A backend, as a controller makes it when it starts.
    fn backend(&self) -> DockerExecutor {
        DockerExecutor::new(self.settings.clone(), self.installation)
    }

    /// Stores a config under `version`, and what runs it.
    async fn version(&self, version: &str, config: &str) -> ExecutionSpec {
        let spec = self.world.version(version, config).await;
        ExecutionSpec { installation: self.installation, ..spec }.seal(&self.settings.executor.docker.image)
    }

    async fn plain(&self) -> ExecutionSpec {
        self.version("1", PLAIN).await
    }

    /// What the engine has of this installation.
    async fn left(&self) -> Vec<String> {
        left(&self.docker, &format!("label=sluice/installation={}", self.installation)).await
    }
}

/// What an engine has, by the CLI: containers, volumes, networks.
pub async fn left(docker: &Docker, filter: &str) -> Vec<String> {
    let mut left = Vec::new();
    for list in [&["ps", "-aq"][..], &["volume", "ls", "-q"], &["network", "ls", "-q"]] {
        let listed = docker.cli(&[list, &["--filter", filter]].concat()).await;
        left.extend(listed.lines().map(str::to_owned));
    }
    left
}

/// What the settings say of an engine.
pub async fn section(docker: &Arc<Docker>) -> String {
    let (host, image) = (host(docker), docker.image().await);
    format!("  docker: {{host: '{host}', image: '{image}', pull: never, memory: 256MiB, health_interval: 2s}}\n")
}

/// The address of an engine, as settings name it.
fn host(docker: &Docker) -> String {
    docker.host().map_or_else(|| std::env::var("DOCKER_HOST").unwrap_or("unix:///var/run/docker.sock".into()), str::to_owned)
}
