//! Walks the merged tree of file, environment and command line, and makes [`Settings`] of it.
//!
//! Every problem is collected; the result counts only where none of them is an error. What is not written keeps the
//! default of [`Settings::default`].

use super::secrets::{Files, warn_inline};
use super::{
    ExecutorKind, ExecutorSettings, HttpSettings, LogFormat, LogSettings, MongoConnection, NatsSettings, PipelineDefaults, Settings,
};
use super::{address, docker, kubernetes, reload, templates};
use crate::pipeline::config::{DEFAULT_ACK_WAIT, ON_DELETE, WRITE_TIMEOUT, check_database, longest_period};
use crate::pipeline::document::{Node, shown};
use crate::pipeline::fields::{Fields, Report, Taken, nearest};
use crate::pipeline::id::Namespace;
use crate::pipeline::reserved;
use humantime::format_duration as show;
use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

const ONE_SECOND: Duration = Duration::from_secs(1);

/// Reads settings out of `root`.
pub(super) fn settings(root: &Node, files: &Files, report: &mut Report) -> Settings {
    let mut settings = Settings::default();
    let mut root = Fields::of(root, "", report);
    if let Some(taken) = root.string("namespace", report) {
        match Namespace::parse(&taken.value) {
            Ok(namespace) => settings.namespace = namespace,
            Err(error) => taken.error(report, format!("'{}' is no namespace", shown(&taken.value)), error.rule()),
        }
    }
    section(&mut root, "nats", report, |fields, report| nats(fields, &mut settings.nats, files, report));
    section(&mut root, "mongodb", report, |fields, report| {
        if let Some(named) = fields.named("connections", report) {
            settings.mongodb.connections = connections(named, files, report);
        }
    });
    let mut kind = None;
    section(&mut root, "executor", report, |fields, report| kind = executor(fields, &mut settings.executor, files, report));
    section(&mut root, "limits", report, |fields, report| {
        if let Some(taken) = fields.bytes("memory", (1 << 20)..=u64::MAX, report) {
            settings.limits.memory = taken.value;
        }
    });
    section(&mut root, "jetstream", report, |fields, report| {
        if let Some(replicas) = fields.integer("replicas", 1..=5, report).and_then(|taken| usize::try_from(taken.value).ok()) {
            settings.jetstream.replicas = replicas;
        }
    });
    section(&mut root, "pipelines", report, |fields, report| pipelines(fields, &mut settings.pipelines, report));
    section(&mut root, "http", report, |fields, report| http(fields, &mut settings.http, files, report));
    section(&mut root, "log", report, |fields, report| log(fields, &mut settings.log, report));
    section(&mut root, "names", report, |fields, report| templates::read(fields, &mut settings.names, report));
    let (place, names) = (root.place().clone(), settings.names());
    for prefix in names.inboxes() {
        if let Some(taken) = reserved::inbox(prefix, &names) {
            let message = format!("inboxes '{prefix}.>' overlap '{taken}', which is a name of this installation");
            report.error(&place, "nats.inbox_prefix", message, "choose a prefix such as _INBOX_sluice");
        }
    }
    root.finish(report);
    if let Some(kind) = &kind {
        docker::check(&settings, kind, report);
        kubernetes::check(&settings, kind, report);
    }
    settings
}

fn section<'a>(root: &mut Fields<'a>, name: &'static str, report: &mut Report, walk: impl FnOnce(&mut Fields<'a>, &mut Report)) {
    let mut fields = root.map(name, report);
    walk(&mut fields, report);
    fields.finish(report);
}

fn nats(fields: &mut Fields<'_>, nats: &mut NatsSettings, files: &Files, report: &mut Report) {
    let ways = [
        ("token", fields.given("token") || fields.given("token_file")),
        ("user", fields.given("user") || fields.given("password") || fields.given("password_file")),
        ("credentials_file", fields.given("credentials_file")),
        ("nkey_file", fields.given("nkey_file")),
    ];
    let password_given = fields.given("password") || fields.given("password_file");
    let mut ways: Vec<&str> = ways.iter().filter(|(_, given)| *given).map(|(name, _)| *name).collect();
    let urls = fields.strings("urls", report);
    nats.token = files.secret(fields, "token", "token_file", report).map(|taken| taken.value);
    let user = fields.string("user", report);
    let password = files.secret(fields, "password", "password_file", report);
    match (&user, &password) {
        (Some(user), None) if !password_given => user.error(report, "user needs a password", "add password_file"),
        (None, Some(password)) => password.error(report, "password needs a user", "add user"),
        _ => {}
    }
    nats.user = user.map(|taken| taken.value);
    nats.password = password.map(|taken| taken.value);
    nats.credentials_file = files.path(fields, "credentials_file", true, report).map(|taken| taken.value);
    nats.nkey = files.secret_file(fields, "nkey_file", report).map(|taken| taken.value);
    if let Some(prefix) = fields.string("inbox_prefix", report).filter(|prefix| is_inbox_prefix(prefix, report)) {
        nats.inbox_prefix = prefix.value;
    }
    if let Some(prefixes) = fields.strings("answer_inboxes", report) {
        let prefixes = prefixes.value.into_iter().filter(|prefix| is_inbox_prefix(prefix, report));
        nats.answer_inboxes = prefixes.map(|prefix| prefix.value).collect();
    }
    nats.tls = files.tls(fields, report);
    if let Some(urls) = urls {
        nats_urls(urls, nats, &mut ways, report);
    }
    if ways.len() > 1 {
        let message = format!("{} are given, but only one of them can be used", ways.join(" and "));
        report.error(fields.place(), "nats", message, "remove all but one");
    }
}

fn is_inbox_prefix(prefix: &Taken<String>, report: &mut Report) -> bool {
    let token = |token: &str| !token.is_empty() && token.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b));
    let good = prefix.value.len() <= 100 && prefix.value.split('.').all(token);
    if !good {
        prefix.error(report, "is no subject prefix", "use letters, digits, _ and -, with dots between tokens, such as _INBOX_sluice");
    }
    good
}

fn nats_urls(urls: Taken<Vec<Taken<String>>>, nats: &mut NatsSettings, ways: &mut Vec<&str>, report: &mut Report) {
    if urls.value.is_empty() {
        urls.error(report, "the list is empty", "name at least one server, such as nats://127.0.0.1:4222");
        return;
    }
    let mut found = None;
    nats.urls.clear();
    for taken in urls.value {
        let address = match address::nats(&taken.value) {
            Ok(address) => address,
            Err(message) => {
                taken.error(report, message, "write nats://host:port or tls://host:port");
                continue;
            }
        };
        nats.urls.push(address.url);
        let Some(credentials) = address.credentials else { continue };
        warn_inline(&taken, "nats.token_file or nats.password_file", report);
        if found.as_ref().is_some_and(|other| *other != credentials) {
            taken.error(report, "the addresses name different users", "use one user for all servers, under nats.user");
        }
        found = Some(credentials);
    }
    // They leave the addresses, which are shown in logs.
    match found {
        Some((user, Some(password))) => {
            ways.push("a user within urls");
            nats.user = Some(user);
            nats.password = Some(super::Secret::new(password));
        }
        Some((token, None)) => {
            ways.push("a token within urls");
            nats.token = Some(super::Secret::new(token));
        }
        None => {}
    }
}

fn connections(named: Vec<(Taken<String>, &Node)>, files: &Files, report: &mut Report) -> BTreeMap<String, MongoConnection> {
    let mut connections = BTreeMap::new();
    for (name, node) in named {
        let valid = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-');
        if name.value.is_empty() || name.value.len() > 63 || !name.value.bytes().all(valid) {
            name.error(report, format!("'{}' is no name of a connection", shown(&name.value)), "1 to 63 of A-Z a-z 0-9 _ -");
        }
        let mut fields = Fields::of(node, &name.path, report);
        let connection = connection(&name, &mut fields, files, report);
        fields.finish(report);
        connections.insert(name.value, connection);
    }
    connections
}

fn connection(name: &Taken<String>, fields: &mut Fields<'_>, files: &Files, report: &mut Report) -> MongoConnection {
    let mut connection = MongoConnection::default();
    let given = fields.given("url") || fields.given("url_file");
    let secret_given = fields.given("password") || fields.given("password_file");
    let url = files.maybe_secret(fields, "url", "url_file", report);
    let username = fields.string("username", report);
    let password = files.secret(fields, "password", "password_file", report);
    let auth_source = fields.string("auth_source", report);
    let database = fields.string("database", report);
    for host in fields.strings("known_as", report).map(|taken| taken.value).unwrap_or_default() {
        if !address::is_host(&host.value) {
            host.error(report, format!("'{}' is no host", shown(&host.value)), "write host:27017");
        }
        connection.known_as.push(host.value.to_lowercase());
    }
    connection.tls = files.tls(fields, report);
    if let Some(taken) = &database {
        check_database(taken, report);
    }
    if !given && name.value != "default" {
        name.error(report, "the connection has no address", "add url: mongodb://host:27017");
    }
    connection.database = database.map(|taken| taken.value);
    let mut user_in_url = false;
    if let Some((url, inline)) = url {
        match address::mongodb(&url.value.expose()) {
            Ok(address) => {
                if address.has_password && inline {
                    warn_inline(&url, "url_file, or the password alone as password_file", report);
                }
                user_in_url = address.user.is_some();
                // `/admin` in a URL is where the user is defined, not where documents go.
                let named = address.database.filter(|name| !matches!(name.as_str(), "admin" | "local" | "config"));
                connection.database = connection.database.or(named);
            }
            Err(message) => url.error(report, message, "write mongodb://host:27017, or mongodb+srv://cluster.example.com"),
        }
        connection.url = url.value.guarded(reload::same_servers);
    }
    match &username {
        Some(taken) if user_in_url => taken.error(report, "the url names a user too", "remove one of them"),
        // Certificates and the like prove a user without a password.
        Some(taken) if !secret_given && !connection.url.expose().to_lowercase().contains("authmechanism=") => {
            taken.error(report, "username needs a password", "add password_file");
        }
        None => {
            if let Some(taken) = &password {
                taken.error(report, "password needs a username", "add username");
            }
            if let Some(taken) = auth_source.as_ref().filter(|_| !user_in_url) {
                taken.error(report, "auth_source needs a username", "add username, or remove it");
            }
        }
        Some(_) => {}
    }
    connection.username = username.map(|taken| taken.value);
    connection.password = password.map(|taken| taken.value);
    connection.auth_source = auth_source.map(|taken| taken.value);
    connection
}

const KINDS: [(&str, ExecutorKind); 3] =
    [("in_process", ExecutorKind::InProcess), ("docker", ExecutorKind::Docker), ("kubernetes", ExecutorKind::Kubernetes)];

/// Reads the section; where the kind was chosen, if it was.
fn executor(fields: &mut Fields<'_>, executor: &mut ExecutorSettings, files: &Files, report: &mut Report) -> Option<Taken<ExecutorKind>> {
    let chosen = fields.word("kind", &KINDS, report);
    if let Some(taken) = &chosen {
        executor.kind = taken.value;
    }
    for taken in fields.strings("retire", report).map(|taken| taken.value).unwrap_or_default() {
        match KINDS.iter().find(|(word, _)| *word == taken.value) {
            Some((_, kind)) if *kind == executor.kind => {
                taken.error(report, "this is the executor that runs everything", "remove it, or choose another kind");
            }
            Some((_, kind)) => executor.retire.push(*kind),
            None => taken.error(report, format!("'{}' is not known", shown(&taken.value)), "one of in_process, docker, kubernetes"),
        }
    }
    docker::read(fields, &mut executor.docker, files, report);
    kubernetes::read(fields, &mut executor.kubernetes, files, report);
    if let Some(replicas) = fields.integer("max_replicas", 1..=1000, report).and_then(|taken| u32::try_from(taken.value).ok()) {
        executor.max_replicas = replicas;
    }
    if let Some(taken) = fields.duration("shutdown_grace", ONE_SECOND, report) {
        executor.shutdown_grace = taken.value;
        if taken.value < WRITE_TIMEOUT {
            let message = format!("a write may take {}, longer than shutdown_grace {}", show(WRITE_TIMEOUT), show(taken.value));
            taken.warning(report, message, "what is not written in time is delivered again later; allow at least 10s");
        }
    }
    chosen
}

fn pipelines(fields: &mut Fields<'_>, pipelines: &mut PipelineDefaults, report: &mut Report) {
    if let Some(taken) = fields.word("on_delete", ON_DELETE, report) {
        pipelines.on_delete = taken.value;
    }
    if let Some(taken) = fields.duration("drain_timeout", ONE_SECOND, report) {
        pipelines.drain_timeout = taken.value;
    }
    if let Some(count) = fields.integer("batch_count", 1..=100_000, report).and_then(|taken| u32::try_from(taken.value).ok()) {
        pipelines.batch_count = count;
    }
    if let Some(taken) = fields.duration("batch_period", Duration::from_millis(1), report) {
        let longest = longest_period(DEFAULT_ACK_WAIT);
        if taken.value > longest {
            let message = format!("{} is too long for a durable with ack_wait {}", show(taken.value), show(DEFAULT_ACK_WAIT));
            taken.error(report, message, format!("at most {}", show(longest)));
        }
        pipelines.batch_period = taken.value;
    }
}

fn http(fields: &mut Fields<'_>, http: &mut HttpSettings, files: &Files, report: &mut Report) {
    let token_given = fields.given("token") || fields.given("token_file");
    http.token = files.secret(fields, "token", "token_file", report).map(|taken| taken.value);
    if let Some(taken) = fields.string("listen", report) {
        http.listen = listen(&taken, report);
        if let Some(address) = http.listen.filter(|address| !address.ip().to_canonical().is_loopback() && !token_given) {
            let remedy = "add http.token_file, or listen on 127.0.0.1; http.health_listen is for probes from outside";
            taken.error(report, format!("{address} can be reached from other machines, and no token is set"), remedy);
        }
    }
    if let Some(taken) = fields.string("health_listen", report) {
        http.health_listen = listen(&taken, report);
        if http.health_listen.is_some_and(|address| address.port() != 0) && http.health_listen == http.listen {
            taken.error(report, "http.listen is the same address", "it answers health too; take another port, or off");
        }
    }
}

fn listen(taken: &Taken<String>, report: &mut Report) -> Option<SocketAddr> {
    if taken.value == "off" {
        return None;
    }
    let address = taken.value.parse().ok();
    if address.is_none() {
        let message = format!("'{}' is no address to listen on", shown(&taken.value));
        taken.error(report, message, "write 127.0.0.1:8080, 0.0.0.0:8080, [::]:8080 or off");
    }
    address
}

fn log(fields: &mut Fields<'_>, log: &mut LogSettings, report: &mut Report) {
    let formats = [("auto", LogFormat::Auto), ("text", LogFormat::Text), ("json", LogFormat::Json)];
    if let Some(taken) = fields.word("format", &formats, report) {
        log.format = taken.value;
    }
    let Some(taken) = fields.string("level", report) else { return };
    // A bare word that is no level would be taken for a target, and turn everything else off.
    let levels = ["off", "error", "warn", "info", "debug", "trace"];
    let wrong = taken.value.split(',').map(str::trim).find(|part| !part.contains(['=', '[']) && !levels.contains(part));
    if let Some(part) = wrong {
        let remedy = match nearest(part, levels) {
            Some(level) => format!("did you mean '{level}'?"),
            None => "write a level such as info, or targets such as 'info,sluice=debug'".to_owned(),
        };
        taken.error(report, format!("'{}' is no level", shown(part)), remedy);
    } else if let Err(error) = tracing_subscriber::EnvFilter::builder().parse(&taken.value) {
        taken.error(report, format!("this is no filter for logs: {error}"), "write 'info', or 'info,sluice=debug'");
    }
    log.level = taken.value;
}
