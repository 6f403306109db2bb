//! The least that each role needs on NATS and MongoDB, as text that their servers take. Pure.
//!
//! Whole tokens only: NATS has no wildcard for a part of one, and a pipeline's stream `{ns}_{id}` is one token, so
//! what concerns the pipelines' streams is granted for every stream of the account. Give an installation an account of
//! its own where that is too much. The buckets are named exactly.

use crate::collector::ledger;
use crate::pipeline::names::Names;
use serde::Serialize;
use std::fmt::Write as _;

/// Who needs permissions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// A person or CI that publishes, pauses, deletes and looks: every command but `run`, `execute` and `send`.
    Editor,
    /// Who publishes documents, with `sluice send` or any JetStream client.
    Producer,
    /// `sluice run` with an executor that runs elsewhere.
    Controller,
    /// One execution: `sluice execute`, or the part of `sluice run` that runs pipelines in-process.
    Execution,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 4] = [Self::Editor, Self::Producer, Self::Controller, Self::Execution];

    /// The word on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Editor => "editor",
            Self::Producer => "producer",
            Self::Controller => "controller",
            Self::Execution => "execution",
        }
    }
}

/// One subject, and what it is for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Grant {
    /// The subject, with wildcards.
    pub subject: String,
    /// What it is for.
    pub why: &'static str,
}

/// What a role may publish to and subscribe to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NatsGrants {
    /// Subjects to publish to; requests to JetStream are publishes too.
    pub publish: Vec<Grant>,
    /// Subjects to subscribe to.
    pub subscribe: Vec<Grant>,
}

/// What an execution may do in one database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MongoGrants {
    /// The database.
    pub database: String,
    /// What it may do there.
    pub privileges: Vec<Privilege>,
}

/// What is allowed on one collection, or all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Privilege {
    /// The collection; empty: every one of the database.
    pub collection: &'static str,
    /// The actions.
    pub actions: Vec<&'static str>,
}

/// Collects the grants of a role.
struct Builder<'a> {
    names: &'a Names,
    inbox: &'a str,
    publish: Vec<Grant>,
    subscribe: Vec<Grant>,
}

impl Builder<'_> {
    fn publish(&mut self, subject: impl Into<String>, why: &'static str) {
        self.publish.push(Grant { subject: subject.into(), why });
    }

    fn api(&mut self, operation: &str, why: &'static str) {
        self.publish(format!("$JS.API.{operation}"), why);
    }

    fn subscribe(&mut self, subject: impl Into<String>, why: &'static str) {
        self.subscribe.push(Grant { subject: subject.into(), why });
    }

    /// Reading one key, and all, of a stream that holds keys, by requests that are answered in JSON.
    fn read(&mut self, stream: &str, why: &'static str) {
        self.api(&format!("STREAM.MSG.GET.{stream}"), why);
    }

    /// Reading one key, and all, of a stream that holds keys, and following it.
    fn follow(&mut self, stream: &str, why: &'static str) {
        self.read(stream, why);
        self.list(stream, why);
    }

    /// A listing: a consumer of our own, ended when it is done.
    fn list(&mut self, stream: &str, why: &'static str) {
        self.api(&format!("CONSUMER.MSG.NEXT.{stream}.*"), why);
        self.watch(stream, why);
    }

    /// A watch: a consumer of our own that pushes.
    fn watch(&mut self, stream: &str, why: &'static str) {
        for operation in ["CREATE", "DELETE"] {
            self.api(&format!("CONSUMER.{operation}.{stream}.*"), why);
        }
    }

    /// A config: its info, its chunks. Not by direct gets: those publish what was stored wherever the asker says.
    fn read_configs(&mut self) {
        self.read(&format!("OBJ_{}", self.names.configs()), "read configs");
    }

    /// Answers to those who ask, to their inboxes. Not `allow_responses`, with which whoever asks, oneself included, gives the
    /// right to publish to any subject.
    fn respond(&mut self) {
        for prefix in self.names.inboxes() {
            self.publish(format!("{prefix}.>"), "answer those who ask for states and log lines");
        }
        self.publish("_R_.>", "answer those of other accounts");
    }

    fn answers(&mut self) {
        self.subscribe(format!("{}.>", self.inbox), "answers to requests");
    }
}

/// The least permissions on NATS of a process that has all of `roles`. `inbox` is the prefix of its own inboxes
/// (`nats.inbox_prefix`).
pub fn nats(roles: &[Role], names: &Names, inbox: &str) -> NatsGrants {
    let mut grants = Builder { names, inbox, publish: Vec::new(), subscribe: Vec::new() };
    for role in roles {
        match role {
            Role::Editor => editor(&mut grants),
            Role::Producer => producer(&mut grants),
            Role::Controller => controller(&mut grants),
            Role::Execution => execution(&mut grants),
        }
    }
    for list in [&mut grants.publish, &mut grants.subscribe] {
        list.sort();
        list.dedup_by(|a, b| a.subject == b.subject);
    }
    NatsGrants { publish: grants.publish, subscribe: grants.subscribe }
}

fn producer(grants: &mut Builder<'_>) {
    grants.publish(grants.names.subjects(), "documents");
    grants.answers();
}

fn editor(grants: &mut Builder<'_>) {
    let names = grants.names;
    let (entries, status, configs) = (names.entries(), names.status(), names.configs());
    let dead_letters = names.dead_letters();
    grants.publish(format!("$KV.{entries}.*"), "edit entries");
    grants.read(&format!("KV_{entries}"), "read entries and their history");
    grants.read(&format!("KV_{status}"), "read the status");
    grants.publish(format!("$O.{configs}.>"), "store configs");
    grants.read_configs();
    grants.read(&dead_letters, "read dead letters");
    let payloads = format!("OBJ_{}", names.dead_letter_objects());
    grants.read(&payloads, "read large dead letters");
    grants.api(&format!("STREAM.MSG.DELETE.{dead_letters}"), "remove dead letters");
    grants.api(&format!("STREAM.PURGE.{payloads}"), "remove large dead letters");
    grants.publish(names.subjects(), "replay dead letters");
    grants.api(&format!("STREAM.MSG.GET.KV_{}", names.lease()), "whether a controller is there");
    grants.publish(names.logs("*"), "ask for log lines");
    grants.api("STREAM.INFO.*", "what is in the buckets, and how much waits in the pipelines' streams");
    grants.api("INFO", "what the account allows, for `sluice doctor`");
    grants.api(&format!("CONSUMER.INFO.*.{}", names.consumer()), "how much is unacknowledged");
    grants.answers();
}

fn controller(grants: &mut Builder<'_>) {
    let names = grants.names;
    let (entries, status, lease) = (names.entries(), names.status(), names.lease());
    let configs = names.configs();
    grants.follow(&format!("KV_{entries}"), "read and watch entries");
    grants.follow(&format!("KV_{status}"), "read and watch the status");
    grants.publish(format!("$KV.{status}.*"), "write the status");
    grants.api(&format!("STREAM.MSG.GET.KV_{lease}"), "read the lease");
    grants.publish(format!("$KV.{lease}.*"), "hold the lease");
    grants.read_configs();
    grants.watch(&format!("OBJ_{configs}"), "watch configs");
    grants.publish(format!("$O.{configs}.>"), "store the configs derived from what producers add");
    grants.subscribe(names.states(), "answer producers who ask for the state of an idle pipeline");
    grants.subscribe(names.logs("*"), "hand out its log lines");
    grants.respond();
    grants.api("STREAM.INFO.*", "look at streams and buckets");
    grants.api("STREAM.CREATE.*", "create the buckets and the pipelines' streams");
    grants.api("STREAM.UPDATE.*", "move a stream aside before it is drained");
    grants.api("STREAM.PURGE.*", "make sure that a drained stream of several copies is empty, by a purge of nothing");
    grants.api("STREAM.DELETE.*", "delete the stream of a deleted pipeline");
    grants.api(&format!("CONSUMER.CREATE.*.{}", names.consumer()), "create the pipelines' durables");
    grants.api(&format!("CONSUMER.INFO.*.{}", names.consumer()), "look at the pipelines' durables");
    grants.api(&format!("CONSUMER.PAUSE.*.{}", names.consumer()), "withhold messages while a target changes");
    grants.publish(names.report("*"), "say what this process runs, ask the others");
    grants.subscribe(names.report("*"), "hear what the others run");
    grants.answers();
}

fn execution(grants: &mut Builder<'_>) {
    let names = grants.names;
    let dead_letters = names.dead_letters();
    grants.read_configs();
    grants.api("STREAM.INFO.*", "look at the pipeline's stream");
    grants.api("STREAM.MSG.GET.*", "whether a dead letter is what was published, and what the stream lost");
    grants.api(&format!("CONSUMER.INFO.*.{}", names.consumer()), "look at the pipeline's durable");
    grants.api(&format!("CONSUMER.MSG.NEXT.*.{}", names.consumer()), "pull");
    grants.publish(format!("$JS.ACK.*.{}.>", names.consumer()), "acknowledge");
    grants.publish(format!("{dead_letters}.*.*"), "set a document aside that MongoDB refuses");
    let payloads = names.dead_letter_objects();
    grants.publish(format!("$O.{payloads}.>"), "payloads of dead letters that are too large for a message");
    grants.follow(&format!("KV_{}", names.status()), "follow its share and what is proven");
    grants.publish(names.report("*"), "say how it is");
    grants.subscribe(names.logs("*"), "hand out its log lines");
    grants.subscribe(names.states(), "answer producers who ask how much it holds");
    grants.respond();
    let inbox = grants.inbox.to_owned();
    grants.publish(format!("{inbox}.>"), "markers to itself, which date what arrives");
    grants.answers();
}

/// What a process with `roles` may do in each of `databases`: an execution writes, a controller only asks of which kind
/// a collection is that a producer names.
pub fn mongodb(roles: &[Role], databases: &[String]) -> Vec<MongoGrants> {
    let everywhere = |actions| Privilege { collection: "", actions };
    let privileges = match (roles.contains(&Role::Execution), roles.contains(&Role::Controller)) {
        // Time-series collections: copies are removed, and what came back as a normal collection is dropped.
        (true, _) => vec![
            everywhere(vec!["insert", "find", "remove", "listCollections", "listIndexes", "createCollection", "dropCollection"]),
            Privilege { collection: ledger::COLLECTION, actions: vec!["update"] },
        ],
        (false, true) => vec![everywhere(vec!["listCollections"])],
        (false, false) => return Vec::new(),
    };
    databases.iter().map(|database| MongoGrants { database: database.clone(), privileges: privileges.clone() }).collect()
}

/// The grants as a `permissions` block of a nats-server's configuration
/// (<https://docs.nats.io/running-a-nats-service/configuration/securing_nats/authorization>).
pub fn nats_block(grants: &NatsGrants) -> String {
    let mut text = String::from("permissions: {\n");
    for (verb, list) in [("publish", &grants.publish), ("subscribe", &grants.subscribe)] {
        let _ = writeln!(text, "  {verb}: {{allow: [");
        for grant in list {
            let subject = format!("\"{}\"", grant.subject);
            let _ = writeln!(text, "    {subject:<52} # {}", grant.why);
        }
        text.push_str("  ]}\n");
    }
    text.push_str("}\n");
    text
}

/// The grants as commands of MongoDB's shell: one role a database, `sluice`.
pub fn mongodb_commands(grants: &[MongoGrants]) -> String {
    let mut text = String::new();
    for grant in grants {
        let _ =
            writeln!(text, "db.getSiblingDB({database:?}).createRole({{\n  role: \"sluice\",\n  privileges: [", database = grant.database);
        for Privilege { collection, actions } in &grant.privileges {
            let actions = actions.iter().map(|action| format!("\"{action}\"")).collect::<Vec<_>>().join(", ");
            let database = &grant.database;
            let _ = writeln!(text, "    {{resource: {{db: {database:?}, collection: {collection:?}}}, actions: [{actions}]}},");
        }
        text.push_str("  ],\n  roles: [],\n})\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::id::Namespace;
    use crate::pipeline::names::NameTemplates;

    fn names() -> Names {
        Names::new(Namespace::parse("alpha").unwrap(), NameTemplates::default()).with_inboxes(vec!["_INBOX".into()])
    }

    #[test]
    fn a_producer_may_publish_documents_and_nothing_else() {
        let grants = nats(&[Role::Producer], &names(), "_INBOX_p");
        let subjects = |list: &[Grant]| list.iter().map(|grant| grant.subject.clone()).collect::<Vec<_>>();
        assert_eq!(subjects(&grants.publish), ["alpha.*"]);
        assert_eq!(subjects(&grants.subscribe), ["_INBOX_p.>"]);
    }

    #[test]
    fn only_an_editor_writes_entries_and_only_a_controller_the_status() {
        for role in Role::ALL {
            let grants = nats(&[role], &names(), "_INBOX");
            let writes = |subject: &str| grants.publish.iter().any(|grant| grant.subject == subject);
            assert_eq!(writes("$KV.alpha.*"), role == Role::Editor, "{role:?}");
            assert_eq!(writes("$KV.alpha-status.*"), role == Role::Controller, "{role:?}");
            assert_eq!(writes("$JS.API.STREAM.DELETE.*"), role == Role::Controller, "{role:?}");
        }
    }

    #[test]
    fn only_executions_write_to_mongodb() {
        for role in Role::ALL {
            let grants = mongodb(&[role], &["example".into()]);
            let may = |action: &str| grants.iter().flat_map(|grant| &grant.privileges).any(|privilege| privilege.actions.contains(&action));
            assert_eq!(may("insert"), role == Role::Execution, "{role:?}");
            assert_eq!(may("remove"), role == Role::Execution, "{role:?}");
            assert_eq!(may("listCollections"), matches!(role, Role::Execution | Role::Controller), "{role:?}");
        }
    }

    #[test]
    fn no_role_gets_directly_what_is_stored_and_who_writes_has_no_consumers() {
        for role in Role::ALL {
            let grants = nats(&[role], &names(), "_INBOX");
            let asks = |operation: &str| grants.publish.iter().any(|grant| grant.subject.starts_with(&format!("$JS.API.{operation}")));
            assert!(!asks("DIRECT.GET"), "{role:?}");
            assert_eq!(
                asks("CONSUMER.MSG.NEXT") || asks("CONSUMER.CREATE"),
                matches!(role, Role::Controller | Role::Execution),
                "{role:?}"
            );
            assert_eq!(asks("STREAM.CREATE"), role == Role::Controller, "{role:?}");
        }
    }

    #[test]
    fn no_role_may_do_everything() {
        for role in Role::ALL {
            let grants = nats(&[role], &names(), "_INBOX");
            let all = grants.publish.iter().chain(&grants.subscribe);
            assert!(all.clone().all(|grant| ![">", "$JS.API.>", "$KV.>", "$JS.>"].contains(&grant.subject.as_str())), "{role:?}");
        }
    }
}
