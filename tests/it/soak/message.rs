//! What the producers of a soak publish: every sort of message that a producer may send, told apart by producer, number and
//! attempt, so that each can be found again and held against what was sent.
//!
//! Pure. A publish that was not answered is sent again. With a `Nats-Msg-Id` or an `_id` of its own that is the same document;
//! without either it is another message by rights, and has the next attempt's number.

use bson::{Binary, Document, doc, spec::BinarySubtype};

/// Every so many messages of a producer are no BSON.
const POISON: i64 = 199;
/// Every so many bear an `_id` that another document has.
const TAKEN: i64 = 149;

/// Which publish it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    pub producer: i64,
    pub number: i64,
    /// From 0; counts only where a repeat is another message.
    pub attempt: i64,
}

/// Where a message belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Belongs {
    /// Into the collection.
    Stored,
    /// Into the dead letters, for this reason.
    Dead(&'static str),
    /// Into the collection if it is the first, else into the dead letters for this reason.
    FirstWins(&'static str),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sort {
    /// A document with neither a message id nor an `_id`.
    Bare,
    /// With a message id.
    Identified,
    /// With an `_id` of its own, and a message id or not.
    Own { identified: bool },
    /// With the same `_id` as others.
    Taken,
    /// No BSON, with a message id or not.
    Poison { identified: bool },
}

impl Key {
    fn sort(self) -> Sort {
        let even = self.number % 2 == 0;
        match self.number {
            n if n % POISON == POISON - 1 => Sort::Poison { identified: even },
            n if n % TAKEN == TAKEN - 1 => Sort::Taken,
            n if n % 4 == 0 => Sort::Bare,
            n if n % 4 == 1 => Sort::Identified,
            _ => Sort::Own { identified: even },
        }
    }

    /// What is sent when no answer came.
    pub fn again(self) -> Self {
        let another = matches!(self.sort(), Sort::Bare | Sort::Poison { identified: false });
        Self { attempt: self.attempt + i64::from(another), ..self }
    }

    /// The message id, where it has one.
    pub fn message_id(self) -> Option<String> {
        let has = match self.sort() {
            Sort::Identified | Sort::Taken => true,
            Sort::Own { identified } | Sort::Poison { identified } => identified,
            Sort::Bare => false,
        };
        has.then(|| format!("{}/{}", self.producer, self.number))
    }

    pub fn belongs(self) -> Belongs {
        match self.sort() {
            Sort::Poison { .. } => Belongs::Dead("not_bson"),
            Sort::Taken => Belongs::FirstWins("duplicate_id"),
            _ => Belongs::Stored,
        }
    }

    /// What is published.
    pub fn payload(self) -> Vec<u8> {
        match self.sort() {
            Sort::Poison { .. } => format!("poison {} {} {}", self.producer, self.number, self.attempt).into_bytes(),
            _ => self.document().to_vec().expect("a document"),
        }
    }

    fn document(self) -> Document {
        let Self { producer, number, attempt } = self;
        // Of every size from next to nothing to some hundred bytes, and nowhere twice the same.
        let bytes = (0..number * 7 % 311).map(|at| (producer * 31 + number + at) as u8).collect();
        let filler = Binary { subtype: BinarySubtype::Generic, bytes };
        let rest = doc! {"p": producer, "n": number, "a": attempt, "f": filler};
        let mut document = match self.sort() {
            Sort::Own { .. } => doc! {"_id": format!("{producer}-{number}")},
            Sort::Taken => doc! {"_id": "taken"},
            _ => doc! {},
        };
        document.extend(rest);
        document
    }

    /// Which publish a stored document comes from; `None` where it is not as any publish was.
    pub fn of_document(document: &Document) -> Option<Self> {
        let number = |name| document.get_i64(name).ok();
        let key = Self { producer: number("p")?, number: number("n")?, attempt: number("a")? };
        let mut found = document.clone();
        if matches!(key.sort(), Sort::Bare | Sort::Identified) {
            found.remove("_id");
        }
        (found == key.document()).then_some(key)
    }

    /// Which publish a dead letter comes from; `None` where it is not as any publish was.
    pub fn of_payload(payload: &[u8]) -> Option<Self> {
        let Some(words) = std::str::from_utf8(payload).ok().and_then(|text| text.strip_prefix("poison ")) else {
            return Self::of_document(&Document::from_reader(payload).ok()?);
        };
        let mut words = words.split(' ').map(str::parse);
        let mut next = || words.next()?.ok();
        let key = Self { producer: next()?, number: next()?, attempt: next()? };
        (key.payload() == payload).then_some(key)
    }
}

#[test]
fn each_message_is_found_again_by_what_it_says_and_damage_is_noticed() {
    for number in 0..1_000 {
        for attempt in 0..2 {
            let key = Key { producer: 3, number, attempt };
            let payload = key.payload();
            assert_eq!(Key::of_payload(&payload), Some(key));
            for at in [payload.len() / 2, payload.len() - 2] {
                let mut damaged = payload.clone();
                damaged[at] ^= 1;
                assert_ne!(Key::of_payload(&damaged), Some(key), "{number} with byte {at} damaged");
            }
        }
    }
    let keys = || (0..1_000).map(|number| Key { producer: 0, number, attempt: 0 });
    for belongs in [Belongs::Stored, Belongs::Dead("not_bson"), Belongs::FirstWins("duplicate_id")] {
        assert!(keys().any(|key| key.belongs() == belongs));
        assert!(keys().any(|key| key.belongs() == belongs && key.message_id().is_some()));
    }
    assert!(keys().filter(|key| key.again() != *key).all(|key| key.message_id().is_none()));
}
