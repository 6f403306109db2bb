//! What goes into the core and what comes out of it: events and effects, by batch.
//!
//! Messages are slots: the driver keeps payload and acknowledgement subject under a slot's number until the core releases
//! it. Times are nanoseconds since a moment that the driver chose. Made and carried out by the driver or a simulator.

use crate::collector::classify::Class;

/// Nanoseconds since the driver's own zero.
pub type Nanos = u64;

/// One millisecond.
pub const MS: Nanos = 1_000_000;
/// One second.
pub const SECOND: Nanos = 1_000 * MS;

/// What a payload is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A document that can be sent.
    Document,
    /// Nothing that can be sent: no BSON, or too large.
    Unreadable,
}

/// A message as it arrives.
#[derive(Debug, Clone, Copy)]
pub struct Arrival {
    /// Where the driver keeps it.
    pub slot: u32,
    /// Its sequence in the stream.
    pub sequence: u64,
    /// What it adds to an insert command at most, in bytes.
    pub bytes: u32,
    /// From when its lease runs.
    pub lease_from: Nanos,
    /// When it was published, nanoseconds since the epoch.
    pub published_ns: u64,
    /// What the payload is.
    pub kind: Kind,
    /// Whether it may lie in a previous target already, and is to be looked up there before it is inserted.
    pub check: bool,
}

/// A message that the core holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Where the driver keeps it.
    pub slot: u32,
    /// Its sequence in the stream.
    pub sequence: u64,
    /// What it adds to an insert command at most, in bytes.
    pub bytes: u32,
    /// When its lease ends: from then on nothing is sent for it.
    pub lease_ends: Nanos,
}

/// A group of messages that share their fate for now. Never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(pub u64);

/// How batches are made; from the config.
#[derive(Debug, Clone, Copy)]
pub struct Batches {
    /// Documents at most.
    pub count: u32,
    /// Bytes at most, as [`Entry::bytes`] counts them; no more than a command holds.
    pub bytes: u64,
    /// A batch goes this long after its first document arrived.
    pub period: Nanos,
    /// A batch goes this long after its last document arrived; 0: never for that reason.
    pub linger: Nanos,
    /// Inserts under way at most.
    pub max_in_flight: u32,
    /// No insert begins in the second half of a lease (time-series collections, where a late one would be a duplicate).
    pub first_half_only: bool,
}

/// What the live consumer allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// How long a lease is.
    pub ack_wait: Nanos,
    /// How many messages may be unacknowledged over all executions; 0 or less: no limit.
    pub max_ack_pending: i64,
    /// Executions that share the durable.
    pub live: u32,
    /// The most messages of one pull request; 0: no limit.
    pub max_batch: u64,
}

/// The moment, and what the world outside is like.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// The time.
    pub at: Nanos,
    /// Bytes that the process's budget still has.
    pub free: u64,
    /// Messages that outstanding pull requests may still bring.
    pub outstanding: u64,
}

/// What came of an insert or a look-up.
#[derive(Debug, Clone, Copy)]
pub enum Outcome<'a> {
    /// Every document was tried. `failures`: those that are not simply stored, by index, ascending. `uncertain`: the
    /// write concern was not met, so that nothing is known to be durable.
    Executed {
        /// Index in the group, and what the failure means.
        failures: &'a [(u32, Class)],
        /// What the failed write concern means.
        uncertain: Option<Class>,
    },
    /// The command failed.
    Failed(Class),
}

/// How the collection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Not known yet: pulling is fine, inserting is not.
    Unknown,
    /// Checked: as the config says.
    Good,
    /// Cannot be used now: neither pull nor insert.
    Bad,
}

/// The part that the core of a time-series pipeline plays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Another execution reads the stream, or nobody yet: neither pull nor insert.
    StandBy,
    /// This one alone reads it.
    Active {
        /// No message with a higher sequence was ever inserted.
        known: u64,
    },
    /// There is no ledger: all read it, and measurements are stored at least once.
    Unguarded,
}

/// What all pipelines are told that share a MongoDB client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gate {
    /// The database answers.
    Open,
    /// It does not, as one of them found out: neither pull nor write.
    Shut(Class),
    /// It is this one's turn to find out whether it does again: by one write, or a ping where there is nothing to write.
    Once,
}

/// What happened.
#[derive(Debug, Clone, Copy)]
pub enum Event<'a> {
    /// Messages arrived; `pending` more wait behind the last of them.
    Delivered {
        /// The messages.
        messages: &'a [Arrival],
        /// How many wait behind them.
        pending: u64,
    },
    /// An insert was answered.
    Inserted(GroupId, Outcome<'a>),
    /// A look-up was answered: a document without a failure is stored as it was sent.
    LookedUp(GroupId, Outcome<'a>),
    /// Suspects were recorded and looked up: a failure of class `Done` is in the collection, the others are not.
    Resolved(GroupId, Outcome<'a>),
    /// The block that was asked for is reserved, or could not be.
    Reserved(Option<Class>),
    /// The part to play, for a time-series collection.
    Part(Part),
    /// A look-up in previous targets was answered: a failure of class `Done` lies in one of them, one of class `Document` among
    /// the dead letters, and the others nowhere.
    Checked(GroupId, Outcome<'a>),
    /// Acknowledgements or terminations were confirmed, all of them or not.
    Acked(GroupId, bool),
    /// Renewals sent at a time were confirmed, all of them or not.
    Renewed(GroupId, Nanos, bool),
    /// A dead letter is stored, or could not be.
    Buried(GroupId, bool),
    /// The stream holds other bytes of the group's one message than were delivered: it is forgotten and not settled, so that
    /// it is delivered again.
    Disowned(GroupId),
    /// The database answered, or not.
    Pinged(Option<Class>),
    /// What others found out about the database, or whose turn it is to do so.
    Gate(Gate),
    /// All pull requests are lost.
    Gap,
    /// A pull request was refused or could not be sent.
    PullRefused,
    /// The consumer is there, or gone.
    Consumer(bool),
    /// The consumer's limits.
    Limits(Limits),
    /// The stream is another one, or lost what it had: what is held is not its messages any more, and an acknowledgement
    /// would delete others.
    OtherStream,
    /// The collection.
    Target(Target),
    /// Write what is held by the deadline, then end.
    Stop(Nanos),
    /// Time passed, or a request ended.
    Tick,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Ask for messages.
    Pull {
        /// How many.
        batch: u64,
        /// How many bytes.
        max_bytes: u64,
    },
    /// Take back what outstanding pull requests may still bring; a message that is on its way all the same is delivered.
    Withdraw,
    /// Insert the group.
    Insert(GroupId),
    /// Reserve the stream's sequences up to this one.
    Reserve(u64),
    /// Record the group's suspects, then look up which of them are in the collection.
    Resolve(GroupId),
    /// The answer to an insert of these came after the end of their leases: see to it that no other copy stays.
    Late(Vec<Entry>),
    /// Look up which documents of the group are stored.
    LookUp(GroupId),
    /// Look up which documents of the group lie in previous targets.
    Check(GroupId),
    /// Acknowledge the group.
    Ack(GroupId),
    /// Renew the leases of the group.
    Renew(GroupId),
    /// Put the group's one message into the dead letters.
    Bury(GroupId),
    /// Terminate the group, whose dead letters are stored.
    Terminate(GroupId),
    /// Give messages back, then forget them. They were never sent to the database, and their leases have not ended.
    Nak(Vec<Entry>),
    /// Ask the database whether it is there.
    Ping,
    /// Forget messages: settled, or past their lease. Give the vector back by [`super::Core::recycle`].
    Release(Vec<Entry>),
    /// Everything is done.
    Finished,
}

/// What is wrong, as the core sees it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Troubles {
    /// The database does not answer or cannot write now.
    pub unavailable: bool,
    /// The database refuses whole commands.
    pub refuses: bool,
    /// Documents are refused and none was ever stored.
    pub nothing_stored: bool,
    /// Documents are refused, and none was stored beside or since: it may be the collection that refuses them.
    pub lonely: bool,
    /// Dead letters cannot be stored.
    pub dead_letters: bool,
    /// Previous targets cannot be asked.
    pub previous: bool,
    /// The process's byte budget is used up.
    pub memory: bool,
    /// So many messages wait aside that hardly any others are fetched.
    pub aside: bool,
}

/// What was done, in messages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Stored.
    pub written: u64,
    /// Found stored.
    pub duplicates: u64,
    /// Put into the dead letters.
    pub dead_lettered: u64,
    /// Dropped without a word, because their leases had ended.
    pub expired: u64,
}
