//! Three real nats-servers with routes between them, each of which can be killed, stopped, or cut off from the others while
//! its own clients stay connected.
//!
//! Every node dials every other through a proxy of its own, and tells nobody where it really listens: what is cut stays cut.
//! Each syncs what it acknowledges.

use super::{Nats, Proxy, eventually, free_port};
use async_nats::jetstream;
use futures_util::future::join_all;
use std::time::Duration;

const NODES: usize = 3;
const SOON: Duration = Duration::from_secs(60);

/// Three nodes, killed when dropped.
pub struct NatsCluster {
    nodes: Vec<Nats>,
    /// From, to, and what lies between.
    routes: Vec<(usize, usize, Proxy)>,
}

impl NatsCluster {
    /// Starts them and waits until JetStream works on each.
    pub async fn start() -> Self {
        let ports: Vec<_> = (0..NODES).map(|_| free_port()).collect();
        let mut routes = Vec::new();
        for from in 0..NODES {
            for to in (0..NODES).filter(|to| *to != from) {
                routes.push((from, to, Proxy::start(ports[to]).await));
            }
        }
        let configs = (0..NODES).map(|node| {
            let dialled: Vec<_> =
                routes.iter().filter(|(from, ..)| *from == node).map(|(.., proxy)| format!("nats-route://{}", proxy.address())).collect();
            let (port, dialled) = (ports[node], dialled.join(", "));
            // Nobody listens where it says it does: the others know each other's proxies already.
            format!(
                "server_name: node{node}\ncluster {{ name: it, host: 127.0.0.1, port: {port}, advertise: \"127.0.0.1:1\", \
                 no_advertise: true, routes: [{dialled}] }}\n"
            )
        });
        let configs: Vec<_> = configs.collect();
        let nodes = join_all(configs.iter().map(|config| Nats::start_synced_with(config))).await;
        let cluster = Self { nodes, routes };
        join_all((0..NODES).map(|node| cluster.works(node))).await;
        cluster
    }

    /// Waits until JetStream answers through this node.
    pub async fn works(&self, node: usize) {
        let jetstream = self.nodes[node].jetstream().await;
        let answers = || async { jetstream.query_account().await.is_ok() };
        eventually(&format!("JetStream works on node {node}"), SOON, answers).await;
    }

    /// One of them.
    pub fn node(&self, node: usize) -> &Nats {
        &self.nodes[node]
    }

    /// The addresses of all but these.
    pub fn urls_without(&self, nodes: &[usize]) -> Vec<String> {
        self.nodes.iter().enumerate().filter(|(node, _)| !nodes.contains(node)).map(|(_, nats)| nats.url()).collect()
    }

    /// The addresses of all.
    pub fn urls(&self) -> Vec<String> {
        self.urls_without(&[])
    }

    /// A client of any node that lives.
    pub async fn client(&self) -> async_nats::Client {
        async_nats::ConnectOptions::new().connect(self.urls()).await.expect("a node takes a client")
    }

    /// A JetStream context on a client of its own.
    pub async fn jetstream(&self) -> jetstream::Context {
        jetstream::new(self.client().await)
    }

    /// The node that leads a stream.
    pub async fn leader_of(&self, stream: &str) -> usize {
        let jetstream = self.jetstream().await;
        let mut leader = None;
        for _ in 0..600 {
            if let Ok(stream) = jetstream.get_stream(stream).await {
                leader = stream.cached_info().cluster.as_ref().and_then(|cluster| cluster.leader.clone());
            }
            if let Some(node) = leader.as_deref().and_then(|name| name.strip_prefix("node")) {
                return node.parse().expect("a node's number");
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("{stream} has no leader");
    }

    /// Kills a node at once.
    pub fn kill9(&mut self, node: usize) {
        self.nodes[node].kill9();
    }

    /// Starts it again.
    pub async fn restart(&mut self, node: usize) {
        self.nodes[node].restart().await;
    }

    /// Cuts a node off from the others; its clients stay.
    pub fn cut_off(&self, node: usize) {
        self.routes_of(node).for_each(Proxy::cut);
    }

    /// Ends that.
    pub fn heal(&self, node: usize) {
        self.routes_of(node).for_each(Proxy::resume);
    }

    fn routes_of(&self, node: usize) -> impl Iterator<Item = &Proxy> {
        self.routes.iter().filter(move |(from, to, _)| [*from, *to].contains(&node)).map(|(.., proxy)| proxy)
    }
}
