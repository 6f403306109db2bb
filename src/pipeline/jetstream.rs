//! What a person can do about a refusal of JetStream, by its error code: one remedy for all of them leads nowhere for most.
//!
//! Pure. The codes are those that creating, changing, binding, publishing and reading can be answered with; what the server
//! says stands in front. Said wherever such a refusal reaches a person: the store, the source, the dead letters, `sluice send`.

/// A durable cannot be made beside another one on a work queue.
pub const OTHER_READERS: [u64; 3] = [10099, 10100, 10101];

/// What the server said, its code, and what to do about it.
pub fn told(description: &str, code: u64) -> String {
    match remedy(code) {
        Some(remedy) => format!("{description} (error {code}): {remedy}"),
        None => format!("{description} (error {code})"),
    }
}

/// What to do about it; `None` for codes that are no refusal (nothing there, somebody else was faster) and unknown ones.
pub fn remedy(code: u64) -> Option<&'static str> {
    Some(match code {
        // Room and limits.
        10002 => "the account's JetStream limits are used up; raise them, or remove streams that are not needed (`nats account info`)",
        10023 | 10028 | 10047 => {
            "the server has no room left for JetStream; free its disk or memory, or raise `max_file_store` or `max_memory_store`"
        }
        10026 => {
            "the account or the stream takes no more consumers; raise `max_consumers` of the one that is full, or remove consumers that nobody uses"
        }
        10027 => "the account takes no more streams; raise its `max_streams`, or remove streams that are not needed",
        10053 => "the stream is beyond a limit of the account; raise the account's limit",
        10113 => {
            "the account demands a `max_bytes` of every stream; create this one by hand with one (`nats stream add`, `nats kv add \
             --max-bucket-size`, `nats object add --max-bucket-size`), which is then used as it is, or take `max_bytes_required` from the account"
        }
        10120 => {
            "the account has no JetStream limits for this number of copies; give it some, or set `jetstream.replicas` in the settings to one it has"
        }
        10121 => {
            "the account or the stream allows fewer unacknowledged messages; lower `input.nats_jetstream.max_ack_pending` in the config to \
             what it allows, or raise its `max_ack_pending`"
        }
        10122 => {
            "the account allows no stream of this size; create it by hand with a smaller `max_bytes`, or raise the account's `max_bytes` of a stream"
        }
        10153 => {
            "the stream limits how long a consumer may stay unused; raise `inactive_threshold` of its consumer limits to a minute or more"
        }
        // Where JetStream is not, or cannot be asked now.
        10035 | 10039 | 10076 => {
            "turn JetStream on for the server and this account (`jetstream: enabled`), or use the credentials of another account"
        }
        10004 | 10006..=10009 | 10041 | 10167 | 10202 => {
            "the cluster has no leader for it now; it goes on by itself once most of its nodes are there"
        }
        10005 | 10011 => {
            "the cluster has too few nodes with room for so many copies; start nodes, or lower `jetstream.replicas` in the settings"
        }
        10010 | 10074 => "a single server keeps one copy; set `jetstream.replicas: 1` in the settings, or run a cluster",
        10118 | 10119 | 10185 | 10194 | 10195 => {
            "the server cannot run it: its node is away, or a newer server made it; start the node, or upgrade nats-server"
        }
        // What the stream is.
        10065 => {
            "another stream listens on one of these subjects (`nats stream find --subject=…`); take the subject out of it, or name that stream as `input.nats_jetstream.stream` in the config"
        }
        10055 | 10031..=10034 => {
            "it is a mirror and takes nothing of its own; rename one of the two (`names` in the settings), or remove the mirror"
        }
        10109 => "the stream is sealed for ever; remove it or rename one of the two",
        10110 | 10057 => {
            "the stream does not let anything be removed; it was created with `deny_delete` or `deny_purge`, so make it anew without"
        }
        10111 => "the stream takes no rollups; allow them: `nats stream edit STREAM --allow-rollup`",
        10058 => "a stream of that name is there already and is another one; remove it or rename one of the two",
        10052 | 10049 | 10069 | 10025 | 10003 => {
            "the server does not take this configuration; what it says names the field, and one of 2.12 or newer takes ours"
        }
        10128 | 10127 | 10102 | 10103 => "NATS does not allow this name; choose another one",
        10123 | 10124 => "the stream is being moved or scaled; it goes on by itself when that is done",
        // The durable.
        10099 | 10100 => {
            "a work queue has one reader, and another durable reads this one; remove that (`nats consumer rm STREAM OTHER`, what it had not \
             acknowledged is delivered again), or name it as `input.nats_jetstream.consumer` in the config"
        }
        10084 | 10098 | 10101 => {
            "a durable of a work queue acknowledges explicitly and delivers all; remove it (`nats consumer rm STREAM NAME`), and it is made as it must be"
        }
        10093 => "the durable filters a subject that the stream does not have; remove the filter",
        10012 | 10104 => "the server could not store the consumer; look at its log and its disk",
        10126 | 10134 => "the durable asks for another number of copies than the stream has; remove it, and it is made like the stream",
        // Messages.
        10054 => "the stream takes no message so large; raise its `max_msg_size`: `nats stream edit STREAM --max-msg-size=-1`",
        10097 => "the headers are larger than the 64 KiB that NATS takes; send fewer",
        10056 | 10060 => "another stream takes this subject; take the subject out of that stream",
        10077 => "the stream is full or cannot store it; raise its `max_bytes` or `max_msgs`, or make room in it",
        10165 | 10166 => "the message has a TTL that the stream does not allow; send it without",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_cause_has_a_remedy_of_its_own_and_what_is_no_refusal_has_none() {
        // A reader that is there already, limits of the account, a stream that takes nothing so large: never the same words.
        let distinct = [10002, 10026, 10027, 10047, 10054, 10065, 10074, 10077, 10099, 10109, 10111, 10113, 10121, 10122, 10055, 10039];
        let told: std::collections::BTreeSet<_> = distinct.iter().map(|code| remedy(*code).unwrap()).collect();
        assert_eq!(told.len(), distinct.len());
        for nothing in [10014, 10037, 10059, 10071, 10148, 10164, 0, 99_999] {
            assert_eq!(remedy(nothing), None, "{nothing}");
        }
        assert!(told_of(10054).starts_with("no (error 10054): ") && told_of(1) == "no (error 1)");
    }

    fn told_of(code: u64) -> String {
        told("no", code)
    }
}
