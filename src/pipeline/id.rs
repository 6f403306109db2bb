//! The names that people choose, as types that can only hold valid ones: namespace, pipeline id, version.
//!
//! Entries come from anyone with write access to a bucket, so a name is checked once, here, and trusted afterwards:
//! it is safe in NATS subjects, stream names, object names, container names and file names.

use serde::{Deserialize, Serialize};
use std::{fmt, sync::Arc};

/// Why a name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} '{name}' is not allowed: {rule}")]
pub struct NameError {
    kind: &'static str,
    name: String,
    rule: &'static str,
}

impl NameError {
    /// The rule that the name broke, for a remedy.
    pub fn rule(&self) -> &'static str {
        self.rule
    }
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $rule:literal, $valid:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            #[doc = concat!("Checks `name`. Errors where it is not a valid ", $kind, ".")]
            pub fn parse(name: &str) -> Result<Self, NameError> {
                let valid: fn(&str) -> bool = $valid;
                if valid(name) {
                    Ok(Self(name.into()))
                } else {
                    // A hostile name may be a megabyte long or full of control characters; the message is for people.
                    let shown: String = name.chars().take(64).flat_map(char::escape_debug).collect();
                    Err(NameError { kind: $kind, name: shown, rule: $rule })
                }
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(name: String) -> Result<Self, NameError> {
                Self::parse(&name)
            }
        }

        impl std::str::FromStr for $name {
            type Err = NameError;
            fn from_str(name: &str) -> Result<Self, NameError> {
                Self::parse(name)
            }
        }

        #[cfg(feature = "server")]
        impl schemars::JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
                schemars::json_schema!({ "type": "string", "description": concat!($kind, ": ", $rule) })
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0.as_ref().to_owned()
            }
        }
    };
}

name_type!(
    /// The prefix of every name of one installation: `[A-Za-z0-9_]{1,32}`, and neither `KV` nor `OBJ`, which are
    /// JetStream's own stream prefixes.
    Namespace,
    "namespace",
    "1 to 32 of A-Z a-z 0-9 _, and neither KV nor OBJ",
    |name| {
        (1..=32).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
            && name != "KV"
            && name != "OBJ"
    }
);

name_type!(
    /// A pipeline's id, which is the key of its entry: `[A-Za-z0-9]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?`, and not `states`,
    /// the subject on which state requests are answered.
    PipelineId,
    "pipeline id",
    "1 to 63 of A-Z a-z 0-9 _ -, beginning and ending with a letter or digit, and not 'states'",
    |name| between(name, b"_-") && name != "states"
);

name_type!(
    /// The name of a config's version: `[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?`.
    VersionName,
    "version",
    "1 to 63 of A-Z a-z 0-9 . _ -, beginning and ending with a letter or digit",
    |name| between(name, b"._-")
);

/// Alphanumeric at both ends, alphanumeric or one of `inner` between them, 1 to 63 characters.
fn between(name: &str, inner: &[u8]) -> bool {
    let bytes = name.as_bytes();
    let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    bytes.len() <= 63 && edge(bytes.first()) && edge(bytes.last()) && bytes.iter().all(|b| b.is_ascii_alphanumeric() || inner.contains(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_names_are_refused() {
        for name in ["", "-a", "a-", "_a", "a b", "a.b", "a/b", "../a", "a*", "a>", "ä", "states", &"a".repeat(64)] {
            assert!(PipelineId::parse(name).is_err(), "{name:?}");
        }
        for name in ["a", "a_b-c", "A0", &"a".repeat(63)] {
            assert!(PipelineId::parse(name).is_ok(), "{name:?}");
        }
        for name in ["", "KV", "OBJ", "a-b", "a.b", &"a".repeat(33)] {
            assert!(Namespace::parse(name).is_err(), "{name:?}");
        }
        for name in ["", ".", "..", "a/b", ".a", "a.", "a b"] {
            assert!(VersionName::parse(name).is_err(), "{name:?}");
        }
        assert!(VersionName::parse("3-9f2c41aa").is_ok());
    }

    #[test]
    fn a_refused_name_is_shown_short_and_escaped() {
        let error = PipelineId::parse(&"\u{1b}[31m".repeat(1000)).unwrap_err().to_string();
        assert!(error.len() < 700 && !error.contains('\u{1b}'), "{error}");
    }
}
