//! A real database: the one that `SLUICE_TEST_MONGO_URL` names, else a mongod or secantusd-rs on a port of its own. Where a test
//! says so, FerretDB: written by others, and without time-series collections, fail points and several nodes.

use super::{Process, Proxy, eventually, free_port, random_name, temp_dir, tool};
use futures_util::TryStreamExt;
use mongodb::bson::{Document, doc};
use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

/// A database server (killed when dropped) and one database in it.
pub struct Mongo {
    process: Option<Process>,
    own: Option<Own>,
    /// In front of a server that is there already, so that proxies of tests reach it on loopback, too.
    forward: Option<Proxy>,
    url: String,
    database: String,
}

/// Which server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Server {
    /// The one that most tests run on.
    Database,
    /// FerretDB, on SQLite.
    FerretDb,
}

struct Own {
    server: Server,
    host: IpAddr,
    port: u16,
    durable: bool,
    arguments: Vec<String>,
    dir: PathBuf,
    // Last: the process must be gone before its directory is.
    _temp: tempfile::TempDir,
}

impl Mongo {
    /// Starts one that does not wait for the disk: fast, but what it confirmed last dies with its process.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// Starts one whose `j: true` is real (`--sync-on-commit`): for tests that kill it.
    pub async fn start_durable() -> Self {
        Self::start_with(&["--sync-on-commit"]).await
    }

    /// Starts a durable one that listens on `host` (a mongod on loopback too): on the address at which containers reach this
    /// machine. A database of `SLUICE_TEST_MONGO_URL` must listen there itself.
    pub async fn start_on(host: IpAddr) -> Self {
        Self::build(host, &["--sync-on-commit"]).await
    }

    /// Starts secantusd-rs with further arguments; a mongod has its journal anyway and gets none.
    pub async fn start_with(arguments: &[&str]) -> Self {
        Self::build(Ipv4Addr::LOCALHOST.into(), arguments).await
    }

    /// Starts one that asks for TLS and for a password: this test's own client is `root`, and `sluice` has `password`. `None`
    /// where the database is not a secantusd-rs of this test's own.
    pub async fn start_guarded(password: &str) -> Option<Self> {
        let mut mongo = Self::start_durable().await;
        if is_mongod() || !mongo.is_own() {
            return None;
        }
        let admin = mongo.client().await.database("admin");
        for (user, password) in [("root", "root"), ("sluice", password)] {
            let user = doc! {"createUser": user, "pwd": password, "roles": [{"role": "root", "db": "admin"}]};
            admin.run_command(user).await.expect("the user is created");
        }
        mongo.stop().await;
        mongo.url = mongo.url_of("root", "root");
        let own = mongo.own.as_mut().expect("a server of this test's own");
        let certificate = |option: &str, name: &str| [option.to_owned(), certificate(name).display().to_string()];
        own.arguments.push("--auth".into());
        own.arguments.extend(certificate("--tls-cert-file", "server.pem"));
        own.arguments.extend(certificate("--tls-key-file", "server-key.pem"));
        mongo.restart().await;
        Some(mongo)
    }

    /// The connection string of a user of a guarded server.
    pub fn url_of(&self, user: &str, password: &str) -> String {
        let ca = certificate("ca.pem").display().to_string().replace('/', "%2F");
        let options = format!("directConnection=true&authSource=admin&tls=true&tlsCAFile={ca}");
        format!("mongodb://{user}:{password}@127.0.0.1:{}/?{options}", self.port())
    }

    /// Starts a server of this kind, which keeps what it confirmed when it is killed.
    pub async fn start_server(server: Server) -> Self {
        Self::build_server(server, Ipv4Addr::LOCALHOST.into(), &["--sync-on-commit"]).await
    }

    async fn build(host: IpAddr, arguments: &[&str]) -> Self {
        Self::build_server(Server::Database, host, arguments).await
    }

    async fn build_server(server: Server, host: IpAddr, arguments: &[&str]) -> Self {
        let database = random_name("it");
        if let (Server::Database, Ok(url)) = (server, std::env::var("SLUICE_TEST_MONGO_URL")) {
            let mut mongo = Self { process: None, own: None, forward: None, url, database };
            if let Some(server) = mongo.direct().await {
                mongo.forward = Some(Proxy::start_on(Ipv4Addr::LOCALHOST.into(), server).await);
            }
            return mongo;
        }
        let temp = temp_dir("mongo");
        let own = Own {
            server,
            host,
            port: free_port(),
            durable: arguments.contains(&"--sync-on-commit") || is_mongod(),
            arguments: arguments.iter().map(|a| (*a).to_owned()).collect(),
            dir: temp.path().to_owned(),
            _temp: temp,
        };
        // Direct, so that a driver behind a proxy stays behind it.
        let url = format!("mongodb://{}:{}/?directConnection=true", own.host, own.port);
        let mut mongo = Self { process: None, own: Some(own), forward: None, url, database };
        mongo.restart().await;
        mongo
    }

    /// Its connection string.
    pub fn url(&self) -> String {
        self.url.clone()
    }

    /// The same through a proxy in front of it.
    pub fn url_through(&self, proxy: &Proxy) -> String {
        format!("mongodb://{}/?directConnection=true", proxy.address())
    }

    /// Where a proxy can stand in front of it: `None` where the server of `SLUICE_TEST_MONGO_URL` asks for TLS or a password, or is
    /// found by other means than its address.
    pub async fn direct(&self) -> Option<SocketAddr> {
        if let Some(own) = &self.own {
            return Some((own.host, own.port).into());
        }
        let options = mongodb::options::ClientOptions::parse(&self.url).await.ok()?;
        if options.tls.is_some_and(|tls| matches!(tls, mongodb::options::Tls::Enabled(_))) || options.credential.is_some() {
            return None;
        }
        // The one that takes writes, by the name that it knows itself by.
        let hello = self.client().await.database("admin").run_command(doc! {"hello": 1}).await.ok()?;
        let named = hello.get_str("primary").map(str::to_owned).or_else(|_| options.hosts.first().map(ToString::to_string).ok_or(()));
        tokio::net::lookup_host(named.ok()?).await.ok()?.next()
    }

    /// The port at which this machine reaches it.
    pub fn port(&self) -> u16 {
        match &self.forward {
            Some(forward) => forward.address().port(),
            None => self.own().port,
        }
    }

    /// Whether this test started the server, and so may kill it.
    pub fn is_own(&self) -> bool {
        self.own.is_some()
    }

    fn own(&self) -> &Own {
        self.own.as_ref().expect("a server of this test's own, not the one of SLUICE_TEST_MONGO_URL")
    }

    /// The server's process id.
    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("the server runs").pid()
    }

    /// The name of this test's own database.
    pub fn database(&self) -> &str {
        &self.database
    }

    /// A client.
    pub async fn client(&self) -> mongodb::Client {
        mongodb::Client::with_uri_str(&self.url).await.expect("a valid connection string")
    }

    /// Kills the server at once.
    pub fn kill9(&mut self) {
        let own = self.own();
        assert!(own.durable, "secantusd-rs forgets what it confirmed when it is killed, unless it is started by start_durable()");
        self.process = None;
    }

    /// Ends the server as its operator would.
    pub async fn stop(&mut self) {
        self.own();
        let mut process = self.process.take().expect("the server runs");
        process.signal("TERM");
        process.wait(Duration::from_secs(30)).await;
    }

    /// Starts it again on the same port and data (kills it first where it still runs) and waits until it serves.
    pub async fn restart(&mut self) {
        self.process = None;
        let own = self.own();
        let ferretdb = own.server == Server::FerretDb;
        let program = tool(if ferretdb { "ferretdb" } else { "database" }).expect("a database");
        let mongod = !ferretdb && is_mongod();
        let data = own.dir.join("data");
        std::fs::create_dir_all(&data).expect("the data directory");
        let mut command = Command::new(program);
        if ferretdb {
            command.arg(format!("{}:{}", own.host, own.port)).arg(&data);
        } else if mongod {
            command
                .args(["--port", &own.port.to_string()])
                .args([
                    "--bind_ip",
                    &format!("127.0.0.1,{}", own.host),
                    "--replSet",
                    "it",
                    "--setParameter",
                    "enableTestCommands=1",
                    "--dbpath",
                ])
                .arg(&data);
        } else {
            // Small logs and cache: dozens of these run side by side on one disk.
            command
                .args(["--port", &own.port.to_string(), "--host", &own.host.to_string()])
                .args(["--enable-test-commands", "--log-file-max", "64MB", "--cache-size", "512M", "--log-level", "WARNING"])
                .args(&own.arguments)
                .arg("--storage-path")
                .arg(&data)
                .current_dir(&own.dir);
        }
        self.process = Some(Process::start("database", command, &own.dir.join("database.log")));
        self.wait_until_it_serves(mongod).await;
    }

    async fn wait_until_it_serves(&mut self, mongod: bool) {
        let start = Instant::now();
        while tokio::net::TcpStream::connect((self.own().host, self.own().port)).await.is_err() {
            let process = self.process.as_mut().expect("just started");
            let ended = process.ended();
            assert!(ended.is_none(), "the database ended: {ended:?}\n{}", process.log_tail());
            assert!(start.elapsed() < Duration::from_secs(30), "the database does not get ready\n{}", process.log_tail());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let client = self.client().await;
        let admin = client.database("admin");
        if mongod {
            // Refused where the set exists already, after a restart.
            let host = format!("{}:{}", self.own().host, self.own().port);
            let _ = admin.run_command(doc! {"replSetInitiate": {"_id": "it", "members": [{"_id": 0, "host": host}]}}).await;
        }
        eventually("the database takes writes", Duration::from_secs(30), || async {
            admin.run_command(doc! {"hello": 1}).await.is_ok_and(|hello| hello.get_bool("isWritablePrimary").unwrap_or(false))
        })
        .await;
    }

    /// Stops the server where it stands.
    pub fn sigstop(&self) {
        self.process.as_ref().expect("the server runs").signal("STOP");
    }

    /// Lets it go on.
    pub fn sigcont(&self) {
        self.process.as_ref().expect("the server runs").signal("CONT");
    }

    /// Sets the fail point `failCommand`: `document` holds `mode` and `data`, as in MongoDB's own test suites.
    pub async fn fail_command(&self, document: Document) {
        let mut command = doc! {"configureFailPoint": "failCommand"};
        command.extend(document);
        self.client().await.database("admin").run_command(command).await.expect("the fail point is set");
    }

    /// Turns the fail point off.
    pub async fn heal(&self) {
        self.fail_command(doc! {"mode": "off"}).await;
    }

    /// How many documents `collection` of this test's database holds.
    pub async fn count(&self, collection: &str) -> u64 {
        let collection = self.client().await.database(&self.database).collection::<Document>(collection);
        collection.count_documents(doc! {}).await.expect("the database counts")
    }

    /// All documents of `collection`, in the order of their `_id`s.
    pub async fn documents(&self, collection: &str) -> Vec<Document> {
        let collection = self.client().await.database(&self.database).collection::<Document>(collection);
        let cursor = collection.find(doc! {}).sort(doc! {"_id": 1}).await.expect("the database finds");
        cursor.try_collect().await.expect("the cursor ends")
    }
}

/// A file of the tests' certificates.
pub fn certificate(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tls").join(name)
}

fn is_mongod() -> bool {
    tool("database").is_ok_and(|program| program.file_name().is_some_and(|name| name == "mongod"))
}

impl Drop for Mongo {
    fn drop(&mut self) {
        // Ours is gone with its directory; a database on somebody else's server is dropped.
        if self.own.is_some() {
            return;
        }
        let (url, database) = (self.url.clone(), self.database.clone());
        let cleanup = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async { mongodb::Client::with_uri_str(url).await?.database(&database).drop().await })?;
            anyhow::Ok(())
        });
        if !matches!(cleanup.join(), Ok(Ok(()))) {
            eprintln!("the database {} is left behind", self.database);
        }
    }
}
