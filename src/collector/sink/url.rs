//! The options of a connection string: which one the driver does not take, and which ones change nothing here.
//!
//! What the driver says of a connection string quotes it, passwords included; this names options and never their values. Pure.

use mongodb::options::ConnectionString;

/// Options that other drivers take and that change nothing for what is done here: each command has a limit of its own, and
/// what goes over the line may be compressed or not.
const WITHOUT_EFFECT: &[&str] = &[
    "sockettimeoutms",
    "timeoutms",
    "waitqueuetimeoutms",
    "waitqueuemultiple",
    "compressors",
    "zlibcompressionlevel",
    "uuidrepresentation",
    "keepalive",
    "socketkeepalive",
    "autoconnect",
    "autoreconnect",
    "usenewurlparser",
    "useunifiedtopology",
    "tz_aware",
    "tlsdisableocspendpointcheck",
    "tlsdisablecertificaterevocationcheck",
    "adaptiveretries",
    "maxadaptiveretries",
];

/// A connection string without the options that the driver refuses and that change nothing; the names of those.
pub(super) fn without_effect(url: &str) -> (String, Vec<String>) {
    let Some((base, query)) = split(url) else { return (url.to_owned(), Vec::new()) };
    let (mut kept, mut dropped) = (Vec::new(), Vec::new());
    for option in query.split('&') {
        let name = name_of(option);
        if WITHOUT_EFFECT.contains(&name.to_lowercase().as_str()) && !taken(option) {
            dropped.push(name.to_owned());
        } else {
            kept.push(option);
        }
    }
    (format!("{base}?{}", kept.join("&")), dropped)
}

/// The option for which the driver does not take the connection string, and what to do; `None` where it is something else.
pub(super) fn refused_option(url: &str) -> Option<String> {
    let (_, query) = split(url)?;
    let option = query.split('&').find(|option| !option.is_empty() && !taken(option))?;
    let name: String = name_of(option).chars().take(40).flat_map(char::escape_debug).collect();
    let why =
        if taken(&format!("{name}=true")) || taken(&format!("{name}=1")) { "has a value that is not allowed" } else { "is not known" };
    Some(format!("the url's option '{name}' {why} (correct it, or take it out of the url)"))
}

fn split(url: &str) -> Option<(&str, &str)> {
    // A password may hold a question mark that nobody encoded: what comes after the last one is the options.
    url.rsplit_once('?').filter(|(_, query)| !query.is_empty() && !query.contains('@'))
}

fn name_of(option: &str) -> &str {
    option.split_once('=').map_or(option, |(name, _)| name)
}

/// Whether the driver takes this option, alone or with the one that it needs beside it. It parses a `socketTimeoutMS` and
/// refuses it afterwards.
#[allow(deprecated)]
fn taken(option: &str) -> bool {
    ["", "&readPreference=secondary", "&authMechanism=GSSAPI"].iter().any(|beside| {
        ConnectionString::parse(format!("mongodb://u:p@localhost/?{option}{beside}")).is_ok_and(|parsed| parsed.socket_timeout.is_none())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_that_changes_nothing_is_left_out_and_named_and_any_other_is_kept() {
        let (url, dropped) = without_effect("mongodb://u:p@h/?retryWrites=true&socketTimeoutMS=5&useUnifiedTopology=true&w=majority");
        assert_eq!(url.split_once('?').unwrap().1, "retryWrites=true&w=majority", "{dropped:?}");
        assert_eq!(dropped, ["socketTimeoutMS", "useUnifiedTopology"]);
        assert_eq!(without_effect("mongodb://u:p@h/db"), ("mongodb://u:p@h/db".to_owned(), Vec::new()));
    }

    #[test]
    fn the_option_that_is_refused_is_named_without_its_value() {
        let said = refused_option("mongodb://u:hunter2@h/?w=majority&conectTimeoutMS=hunter3").unwrap();
        assert!(said.contains("'conectTimeoutMS' is not known") && !said.contains("hunter"), "{said}");
        let said = refused_option("mongodb://u:hunter2@h/?connectTimeoutMS=soon").unwrap();
        assert!(said.contains("'connectTimeoutMS' has a value that is not allowed") && !said.contains("soon"), "{said}");
        assert_eq!(refused_option("mongodb://u:hun/ter@h"), None);
        assert_eq!(refused_option("mongodb://h/?tls=true&replicaSet=a&maxPoolSize=5&readPreference=nearest"), None);
    }
}
