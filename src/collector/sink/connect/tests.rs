//! Targets and credentials, without a server.

use super::*;
use crate::settings::Secret;

fn databases(url: &str, database: Option<&str>) -> Databases {
    let connection = MongoConnection { url: Secret::new(url), database: database.map(str::to_owned), ..MongoConnection::default() };
    Databases::new(&MongoSettings { connections: BTreeMap::from([("default".to_owned(), connection)]) })
}

#[test]
fn a_target_holds_sorted_hosts_and_no_credentials() {
    let databases = databases("mongodb://user:hunter2@b:1,a/there?authSource=admin", None);
    let target = databases.target("default", None, "metrics").unwrap();
    assert_eq!(target.to_string(), "a:27017,b:1/there.metrics");
    assert_eq!(databases.target("default", Some("own"), "metrics").unwrap().database, "own");
}

#[test]
fn the_settings_database_goes_before_the_url_s() {
    assert_eq!(databases("mongodb://a/there", Some("here")).target("default", None, "m").unwrap().database, "here");
    let error = databases("mongodb://a", None).target("default", None, "m").unwrap_err();
    assert!(error.to_string().contains("names a database"), "{error}");
}

#[test]
fn a_service_record_is_its_own_host() {
    let target = databases("mongodb+srv://u:p@cluster.example.com/there", None).target("default", None, "m").unwrap();
    assert_eq!(target.hosts, ["cluster.example.com"]);
}

#[tokio::test]
async fn what_is_wrong_with_a_url_is_said_without_its_password() {
    let databases = databases("mongodb://user:hunter2/5@host", None);
    for error in [databases.target("default", Some("d"), "m").unwrap_err(), databases.get("default").await.unwrap_err()] {
        let error = error.to_string();
        assert!(error.contains("percent-encoded") && !error.contains("hunter2"), "{error}");
    }
    let error = databases.get("other").await.unwrap_err();
    assert_eq!(error.to_string(), "the settings have no MongoDB connection 'other'");
}

#[tokio::test]
async fn equal_connections_share_a_client() {
    let one = MongoConnection::default();
    let same = MongoConnection { database: Some("elsewhere".into()), ..one.clone() };
    let other = MongoConnection { username: Some("u".into()), password: Some(Secret::new("p")), ..one.clone() };
    let connections = BTreeMap::from([("one".to_owned(), one), ("same".to_owned(), same), ("other".to_owned(), other)]);
    let databases = Databases::new(&MongoSettings { connections });
    let one = databases.get("one").await.unwrap();
    assert!(Arc::ptr_eq(&one, &databases.get("same").await.unwrap()));
    assert!(!Arc::ptr_eq(&one, &databases.get("other").await.unwrap()));
}

#[tokio::test]
async fn credentials_of_the_settings_go_before_those_of_the_url() {
    let mut options = ClientOptions::parse("mongodb://a:b@host/?authSource=c").await.unwrap();
    let settings = MongoConnection { username: Some("user".into()), password: Some(Secret::new("word")), ..MongoConnection::default() };
    credentials(&mut options, &settings);
    let credential = options.credential.unwrap();
    assert_eq!(
        (credential.username.as_deref(), credential.password.as_deref(), credential.source.as_deref()),
        (Some("user"), Some("word"), Some("c"))
    );
}

#[tokio::test]
async fn a_place_is_found_by_the_hosts_that_a_connection_is_known_as() {
    let connection = |url: &str, known_as: &[&str]| MongoConnection {
        url: Secret::new(url),
        known_as: known_as.iter().map(|host| (*host).to_owned()).collect(),
        ..MongoConnection::default()
    };
    let connections = BTreeMap::from([
        ("default".to_owned(), connection("mongodb://inside:1", &["localhost:27017", "db"])),
        ("other".to_owned(), connection("mongodb://elsewhere:1", &[])),
    ]);
    let databases = Databases::new(&MongoSettings { connections });
    let place = |hosts: &[&str]| {
        let hosts = hosts.iter().map(|host| (*host).to_owned()).collect();
        Place { target: Target { hosts, database: "d".into(), collection: "c".into() }, connection: "gone".into(), series: None }
    };
    for found in [&["localhost:27017"][..], &["db:27017"], &["db:27017", "localhost:27017"], &["inside:1"]] {
        assert!(Arc::ptr_eq(&databases.of(&place(found)).await.unwrap(), &databases.get("default").await.unwrap()), "{found:?}");
    }
    assert!(Arc::ptr_eq(&databases.of(&place(&["elsewhere:1"])).await.unwrap(), &databases.get("other").await.unwrap()));
    // One that it is not known as is another set of servers.
    for unknown in [&["localhost:27017", "third:1"][..], &["localhost:2"], &[]] {
        assert!(databases.of(&place(unknown)).await.unwrap_err().contains("no MongoDB connection"), "{unknown:?}");
    }
}
