//! Addresses taken apart as far as settings need it: credentials out of NATS URLs, hosts out of MongoDB's.
//!
//! No message in here repeats what it was given, since it may hold a password.

/// The parts of a NATS URL.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct NatsAddress {
    /// The URL without credentials.
    pub url: String,
    /// What stood before `@`, decoded: user and password, or a token.
    pub credentials: Option<(String, Option<String>)>,
}

/// Takes a NATS URL apart. Errors with what is wrong.
pub(super) fn nats(text: &str) -> Result<NatsAddress, &'static str> {
    let (scheme, rest) = text.split_once("://").unwrap_or(("nats", text));
    if !matches!(scheme, "nats" | "tls") {
        return Err("the scheme of a NATS address is nats:// or tls://");
    }
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let (credentials, host) = match rest.rsplit_once('@') {
        Some((credentials, host)) => (Some(credentials), host),
        None => (None, rest),
    };
    if !is_host(host) {
        return Err("this is no address of the form nats://host:4222");
    }
    let credentials = match credentials {
        Some(text) => Some(match text.split_once(':') {
            Some((user, password)) => (decode(user)?, Some(decode(password)?)),
            None => (decode(text)?, None),
        }),
        None => None,
    };
    Ok(NatsAddress { url: format!("{scheme}://{host}"), credentials })
}

/// The parts of a MongoDB connection string.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct MongoAddress {
    /// `host:port`, in lower case and sorted; without a port for `mongodb+srv`.
    pub hosts: Vec<String>,
    /// The user, undecoded.
    pub user: Option<String>,
    /// Whether a password stands in it.
    pub has_password: bool,
    /// The database behind the hosts.
    pub database: Option<String>,
    /// The options that are no secrets, sorted.
    pub options: Vec<String>,
}

/// Takes a connection string apart; the driver checks it more strictly when it connects. Errors with what is wrong.
pub(super) fn mongodb(text: &str) -> Result<MongoAddress, &'static str> {
    let (srv, rest) = match (text.strip_prefix("mongodb://"), text.strip_prefix("mongodb+srv://")) {
        (Some(rest), _) => (false, rest),
        (_, Some(rest)) => (true, rest),
        _ => return Err("a MongoDB address begins with mongodb:// or mongodb+srv://"),
    };
    let (rest, options) = rest.split_once('?').unwrap_or((rest, ""));
    // A password may hold a '/' that should have been escaped; the last '@' still ends the credentials.
    let (credentials, rest) = match rest.rsplit_once('@') {
        Some((credentials, rest)) => (Some(credentials), rest),
        None => (None, rest),
    };
    let (hosts, database) = rest.split_once('/').unwrap_or((rest, ""));
    let hosts: Vec<&str> = hosts.split(',').collect();
    if !hosts.iter().all(|host| is_host(host)) {
        return Err("this is no address of the form mongodb://host:27017");
    }
    if srv && (hosts.len() != 1 || hosts.iter().any(|host| has_port(host))) {
        return Err("a mongodb+srv address has one host and no port");
    }
    let with_port = |host: &&str| match srv || has_port(host) {
        true => host.to_lowercase(),
        false => format!("{}:27017", host.to_lowercase()),
    };
    let mut hosts: Vec<String> = hosts.iter().map(with_port).collect();
    hosts.sort();
    hosts.dedup();
    let secret = |option: &&str| {
        let name = option.split('=').next().unwrap_or_default().to_lowercase();
        !matches!(name.as_str(), "authmechanismproperties" | "tlscertificatekeyfilepassword")
    };
    let mut options: Vec<String> = options.split('&').filter(|option| !option.is_empty()).filter(secret).map(str::to_owned).collect();
    options.sort();
    Ok(MongoAddress {
        hosts,
        user: credentials.map(|text| text.split(':').next().unwrap_or_default().to_owned()),
        has_password: credentials.is_some_and(|text| text.contains(':')),
        database: (!database.is_empty()).then(|| decode(database)).transpose()?,
        options,
    })
}

/// Where the port of `host` begins, if it has one: behind the last colon, which in `[::1]` is none.
fn has_port(host: &str) -> bool {
    host.rsplit_once(':').is_some_and(|(_, port)| !port.ends_with(']'))
}

/// Whether `host` is a name or an address, with or without a port.
pub(super) fn is_host(host: &str) -> bool {
    let (name, port) = match has_port(host) {
        true => host.rsplit_once(':').unwrap_or((host, "")),
        false => (host, "1"),
    };
    let name = match name.strip_prefix('[') {
        Some(address) => return is_port(port) && address.strip_suffix(']').is_some_and(|a| a.parse::<std::net::Ipv6Addr>().is_ok()),
        None => name,
    };
    let valid = |c: char| c.is_alphanumeric() || matches!(c, '-' | '_' | '.');
    is_port(port) && !name.is_empty() && name.chars().all(valid)
}

fn is_port(port: &str) -> bool {
    port.parse::<u16>().is_ok_and(|port| port != 0)
}

/// Whether `address` (a host, with or without a scheme and a port) means the machine that asks.
pub(super) fn is_loopback(address: &str) -> bool {
    let host = address.split_once("://").map_or(address, |(_, host)| host);
    let name = if has_port(host) { host.rsplit_once(':').map_or(host, |(name, _)| name) } else { host };
    let name = name.trim_matches(['[', ']']).to_lowercase();
    let unspecified = |ip: std::net::IpAddr| ip.to_canonical().is_loopback() || ip.is_unspecified();
    name == "localhost" || name.ends_with(".localhost") || name.parse().is_ok_and(unspecified)
}

/// A connection string with other hosts and all else as it is. The options that a `mongodb+srv` one finds in the DNS are
/// lost, but for TLS, which it means.
pub(super) fn with_hosts(text: &str, hosts: &[String]) -> String {
    let (scheme, rest) = text.split_once("://").unwrap_or(("mongodb", text));
    let (before, options) = rest.split_once('?').unwrap_or((rest, ""));
    let (credentials, place) = before.rsplit_once('@').map_or((String::new(), before), |(user, place)| (format!("{user}@"), place));
    let database = place.split_once('/').map_or("", |(_, database)| database);
    let mut options = options.to_owned();
    if scheme == "mongodb+srv" && !options.to_lowercase().contains("tls=") {
        options = if options.is_empty() { "tls=true".into() } else { format!("{options}&tls=true") };
    }
    let options = if options.is_empty() { options } else { format!("?{options}") };
    format!("mongodb://{credentials}{}/{database}{options}", hosts.join(","))
}

/// Undoes percent encoding.
fn decode(text: &str) -> Result<String, &'static str> {
    const WRONG: &str = "a '%' in an address must be followed by two hexadecimal digits";
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let [high, low, tail @ ..] = rest else { return Err(WRONG) };
        let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok()).ok_or(WRONG);
        bytes.push(digit(*high)? * 16 + digit(*low)?);
        rest = tail;
    }
    String::from_utf8(bytes).map_err(|_| WRONG)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_leave_a_nats_url() {
        let address = nats("nats://me:p%40ss@host:4222").unwrap();
        assert_eq!(address.url, "nats://host:4222");
        assert_eq!(address.credentials, Some(("me".into(), Some("p@ss".into()))));
        assert_eq!(nats("tls://token@h").unwrap().credentials, Some(("token".into(), None)));
        assert_eq!(nats("host:4222").unwrap().url, "nats://host:4222");
        assert_eq!(nats("nats://[::1]:4222/").unwrap().url, "nats://[::1]:4222");
        for wrong in ["", "http://h", "nats://", "nats://h:0", "nats://h:99999", "nats://a b", "nats://[x]:1", "nats://%zz@h", "nats://h/x"]
        {
            assert!(nats(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_execution_reaches_other_hosts_with_the_same_words() {
        let hosts = ["x:1".to_owned(), "y:2".to_owned()];
        assert_eq!(with_hosts("mongodb://u:p@a:1,b/db?w=1", &hosts), "mongodb://u:p@x:1,y:2/db?w=1");
        assert_eq!(with_hosts("mongodb+srv://c.example", &hosts), "mongodb://x:1,y:2/?tls=true");
        for own in ["localhost", "nats://127.0.0.1:4222", "127.9.9.9:1", "[::1]:4222", "tls://[::1]", "0.0.0.0:1", "LOCALHOST:1"] {
            assert!(is_loopback(own), "{own}");
        }
        for other in ["host.docker.internal:4222", "nats://10.0.0.1:4222", "[fd00::1]:1", "localhost.example"] {
            assert!(!is_loopback(other), "{other}");
        }
    }

    #[test]
    fn hosts_are_found_in_connection_strings() {
        let address = mongodb("mongodb://u:p@B:1,a/db?w=1&authMechanismProperties=SECRET:x&replicaSet=r").unwrap();
        assert_eq!(address.hosts, ["a:27017", "b:1"]);
        assert_eq!((address.user.as_deref(), address.has_password, address.database.as_deref()), (Some("u"), true, Some("db")));
        assert_eq!(address.options, ["replicaSet=r", "w=1"]);
        assert_eq!(mongodb("mongodb+srv://cluster.example.com").unwrap().hosts, ["cluster.example.com"]);
        for wrong in ["", "localhost", "http://h", "mongodb://", "mongodb://h:x", "mongodb+srv://a:1", "mongodb+srv://a,b"] {
            assert!(mongodb(wrong).is_err(), "{wrong}");
        }
    }
}
