//! Text of others, made fit to be kept and to be shown: entries, servers, engines and documents say what they like, as long
//! as they like, in any characters.
//!
//! What always holds: [`bounded`] text measures no more than it may once it stands in JSON, and says how much was left out;
//! [`printable`] text has nothing in it that moves a cursor, changes a colour or turns the direction of writing. Pure.

use std::borrow::Cow;
use std::fmt::Write;

/// The longest message of a condition, a trouble or a check, bytes in JSON.
pub const MESSAGE: usize = 1000;
/// The longest message in the history of conditions.
pub const PAST_MESSAGE: usize = 200;
/// The longest name, of a pipeline for people, a host, a container.
pub const NAME: usize = 256;

/// `text`, cut off where it measures more than `most` bytes in JSON (200 at least), with a word on how much was left out.
pub fn bounded(text: &str, most: usize) -> String {
    /// Room for the word.
    const WORD: usize = 48;
    let most = most.max(200);
    let (mut measure, mut fits) = (0, 0);
    for (at, c) in text.char_indices() {
        measure += in_json(c);
        if measure <= most - WORD {
            fits = at + c.len_utf8();
        }
        if measure > most {
            return format!("{} … ({} more bytes are left out)", &text[..fits], text.len() - fits);
        }
    }
    text.to_owned()
}

/// Bytes of a character in a JSON string.
fn in_json(c: char) -> usize {
    match c {
        '"' | '\\' | '\n' | '\r' | '\t' | '\u{8}' | '\u{c}' => 2,
        '\u{0}'..='\u{1f}' => 6,
        c => c.len_utf8(),
    }
}

/// `text` on one line: white space is a space, and what does something to a terminal is written as `\u{9b}`.
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.contains(acts) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '\n' | '\r' | '\t' | '\u{85}' | '\u{2028}' | '\u{2029}' => shown.push(' '),
            c if acts(c) => shown.extend(c.escape_unicode()),
            c => shown.push(c),
        }
    }
    Cow::Owned(shown)
}

/// JSON that means the same, where what does something to a terminal is written as `\u009b`. Such characters stand in
/// strings alone; line ends between the values stay.
pub fn printable_json(json: String) -> String {
    let acts = |c: char| c != '\n' && acts(c);
    if !json.contains(acts) {
        return json;
    }
    let mut shown = String::with_capacity(json.len() + 64);
    for c in json.chars() {
        if acts(c) {
            for unit in c.encode_utf16(&mut [0; 2]) {
                // Writing into a String cannot fail.
                let _ = write!(shown, "\\u{unit:04x}");
            }
        } else {
            shown.push(c);
        }
    }
    shown
}

/// Whether a character does something instead of being seen: controls (C0, C1, DEL), what sets the direction of writing,
/// line ends of Unicode, and what has no width and no use in a word.
pub fn acts(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_short_stays_and_of_what_is_long_it_is_said_how_much_is_left_out() {
        assert_eq!(bounded("short", MESSAGE), "short");
        let long = bounded(&"ä".repeat(5_000), MESSAGE);
        assert!(long.len() <= MESSAGE && long.starts_with("ää") && long.ends_with("more bytes are left out)"), "{long}");
        let kept = long.chars().filter(|c| *c == 'ä').count() * 2;
        assert!(long.contains(&format!("({} more", 10_000 - kept)), "{long}");
        assert_eq!(bounded(&long, MESSAGE), long, "once is enough");
    }

    #[test]
    fn nothing_that_acts_on_a_terminal_is_left() {
        let hostile = "a\u{1b}[31mb\u{9b}2Jc\u{202e}d\u{7f}\u{2066}\ne\tf\u{e0041}";
        assert_eq!(printable(hostile), r"a\u{1b}[31mb\u{9b}2Jc\u{202e}d\u{7f}\u{2066} e f\u{e0041}");
        for seen in ["Größe 東京 👩\u{200d}🚒 می\u{200c}خواهم", "", "{\"a\": 1}"] {
            assert!(matches!(printable(seen), Cow::Borrowed(_)), "{seen}");
        }
    }

    proptest! {
        #[test]
        fn bounded_text_fits_whatever_it_is(text in "\\PC*|[\\x00-\\x20\"\\\\]{0,400}|.{0,600}", most in 200_usize..600) {
            let text = bounded(&text, most);
            prop_assert!(serde_json::to_string(&text).unwrap().len() <= most + 2);
        }

        #[test]
        fn printable_json_means_the_same(text in "[\\x00-\\u{9f}\\u{200b}-\\u{2070}\\u{e0000}-\\u{e0080}a-z]{0,60}") {
            let json = serde_json::to_string_pretty(&serde_json::json!({ "a": &text, &text: [1] })).unwrap();
            let shown = printable_json(json.clone());
            prop_assert!(!shown.contains(|c| c != '\n' && acts(c)));
            let (before, after): (serde_json::Value, serde_json::Value) =
                (serde_json::from_str(&json).unwrap(), serde_json::from_str(&shown).unwrap());
            prop_assert_eq!(before, after);
        }
    }
}
