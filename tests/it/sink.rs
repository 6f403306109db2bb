//! The sink against a real database: what is stored, what is refused, and what a failure is told to be.

use crate::support::{Mongo, Proxy, within};
use bson::{Document as Bson, doc, oid::ObjectId};
use sluice::collector::sink::{
    Age, Collection, CommandFailure, Database, Databases, Document, DocumentFailure, FailureKind, InsertReply, MAX_COMMAND_BYTES, OpenError,
};
use sluice::pipeline::config::{Batching, Granularity, OutputConfig, TimeSeries, WriteConcern};
use sluice::pipeline::spec::Target;
use sluice::settings::{MongoConnection, MongoSettings, Secret};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

async fn database(url: &str) -> Arc<Database> {
    let connection = MongoConnection { url: Secret::new(url), ..MongoConnection::default() };
    let settings = MongoSettings { connections: BTreeMap::from([("default".to_owned(), connection)]) };
    Databases::new(&settings).get("default").await.unwrap()
}

fn output(time_series: Option<TimeSeries>) -> OutputConfig {
    OutputConfig {
        connection: "default".into(),
        database: None,
        collection: None,
        time_series,
        batching: Batching::default(),
        max_in_flight: 2,
        write_concern: WriteConcern::default(),
    }
}

fn series() -> TimeSeries {
    TimeSeries {
        time_field: "ts".into(),
        meta_field: Some("device".into()),
        granularity: Some(Granularity::Minutes),
        expire_after: Some(Duration::from_secs(86_400)),
    }
}

fn target(mongo: &Mongo, collection: &str) -> Target {
    Target { hosts: vec![], database: mongo.database().into(), collection: collection.into() }
}

async fn open(mongo: &Mongo, collection: &str) -> Collection {
    Collection::open(database(&mongo.url()).await, &target(mongo, collection), &output(None), Age::Recent).await.unwrap()
}

fn id(number: usize) -> [u8; 12] {
    let mut id = [0; 12];
    id[4..].copy_from_slice(&(number as u64).to_be_bytes());
    id
}

fn plain(number: usize) -> Document {
    Document { payload: doc! {"n": number as i64}.to_vec().unwrap().into(), id: Some(id(number)) }
}

fn own(document: &Bson) -> Document {
    Document { payload: document.to_vec().unwrap().into(), id: None }
}

fn failures(reply: InsertReply) -> Vec<DocumentFailure> {
    match reply {
        InsertReply::Executed { failures, write_concern_error: None } => failures,
        other => panic!("{other:?}"),
    }
}

fn failed(reply: InsertReply) -> CommandFailure {
    match reply {
        InsertReply::Failed(failure) => failure,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_documents_are_stored_by_one_command_and_found_again() {
    require!("database");
    let mongo = Mongo::start().await;
    let collection = open(&mongo, "a").await;
    let documents: Vec<_> = (0..1000).map(plain).collect();
    assert_eq!(failures(collection.insert(&documents).await), []);
    assert_eq!(mongo.count("a").await, 1000);
    let found = collection.find(vec![ObjectId::from_bytes(id(7)).into(), ObjectId::from_bytes(id(5000)).into()], false).await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].get_i64("n").unwrap(), 7);
    collection.ping().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_id_is_told_from_another_unique_index_and_the_others_are_stored() {
    require!("database");
    let mongo = Mongo::start().await;
    let collection = open(&mongo, "a").await;
    let raw = mongo.client().await.database(mongo.database()).collection::<Bson>("a");
    raw.create_index(mongodb::IndexModel::builder().keys(doc! {"u": 1}).options(Some(unique())).build()).await.unwrap();
    let documents: Vec<_> = (0..3).map(|n| own(&doc! {"_id": n, "u": n})).collect();
    assert_eq!(failures(collection.insert(&documents).await), []);
    let documents = [own(&doc! {"_id": 1, "u": 10}), own(&doc! {"_id": 11, "u": 2}), own(&doc! {"_id": 12, "u": 12})];
    let refused = failures(collection.insert(&documents).await);
    let told: Vec<_> = refused.iter().map(|failure| (failure.index, failure.code, failure.on_id)).collect();
    assert_eq!(told, [(0, 11000, Some(true)), (1, 11000, Some(false))]);
    assert_eq!(mongo.count("a").await, 4);
}

fn unique() -> mongodb::options::IndexOptions {
    mongodb::options::IndexOptions::builder().unique(true).build()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_validator_refuses_one_document_with_code_121() {
    require!("database");
    let mongo = Mongo::start().await;
    let raw = mongo.client().await.database(mongo.database());
    raw.run_command(doc! {"create": "a", "validator": {"n": {"$gte": 0_i64}}}).await.unwrap();
    let collection = open(&mongo, "a").await;
    let documents = [plain(1), own(&doc! {"_id": 1, "n": -1_i64}), plain(2)];
    let refused = failures(collection.insert(&documents).await);
    assert_eq!(refused.iter().map(|failure| (failure.index, failure.code)).collect::<Vec<_>>(), [(1, 121)]);
    assert_eq!(mongo.count("a").await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_of_a_whole_command_are_told_apart() {
    require!("database");
    let mongo = Mongo::start().await;
    let collection = open(&mongo, "a").await;
    let fail = |data: Bson| doc! {"mode": {"times": 1}, "data": data};
    mongo.fail_command(fail(doc! {"failCommands": ["insert"], "errorCode": 91})).await;
    let failure = failed(collection.insert(&[plain(1)]).await);
    assert_eq!((failure.kind, failure.code), (FailureKind::Server, Some(91)));
    mongo.fail_command(fail(doc! {"failCommands": ["insert"], "closeConnection": true})).await;
    assert_eq!(failed(collection.insert(&[plain(2)]).await).kind, FailureKind::Network);
    let concern = doc! {"code": 64, "errmsg": "waiting for replication timed out"};
    mongo.fail_command(fail(doc! {"failCommands": ["insert"], "writeConcernError": concern})).await;
    match collection.insert(&[plain(3)]).await {
        InsertReply::Executed { failures, write_concern_error: Some(failure) } => {
            assert_eq!((failures.len(), failure.code), (0, Some(64)));
        }
        other => panic!("{other:?}"),
    }
    mongo.heal().await;
    assert_eq!(failures(collection.insert(&[plain(4)]).await), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stalls_is_given_up_and_one_that_is_away_is_not_found() {
    require!("database");
    let mut mongo = Mongo::start_durable().await;
    if !mongo.is_own() {
        return crate::support::skipped("the server of SLUICE_TEST_MONGO_URL is not ours to kill");
    }
    let proxy = Proxy::start(mongo.port()).await;
    let collection =
        Collection::open(database(&mongo.url_through(&proxy)).await, &target(&mongo, "a"), &output(None), Age::Recent).await.unwrap();
    proxy.stall();
    let failure = failed(collection.insert(&[plain(1)]).await);
    assert!(matches!(failure.kind, FailureKind::Timeout | FailureKind::Network), "{failure:?}");
    mongo.kill9();
    proxy.resume();
    let failure = failed(collection.insert(&[plain(1)]).await);
    assert!(matches!(failure.kind, FailureKind::Selection | FailureKind::Network), "{failure:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_host_is_not_a_server_that_is_away() {
    let database = database("mongodb://no-such-host.invalid/?directConnection=true").await;
    assert_eq!(database.ping().await.unwrap_err().kind, FailureKind::UnknownHost);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_time_series_collection_is_created_with_its_options_and_its_kind_is_held() {
    require!("database");
    let mongo = Mongo::start().await;
    let database = database(&mongo.url()).await;
    let opened = |name: &'static str, wanted: Option<TimeSeries>| {
        let (database, target) = (database.clone(), target(&mongo, name));
        async move { Collection::open(database, &target, &output(wanted), Age::Recent).await }
    };
    let collection = opened("t", Some(series())).await.unwrap();
    opened("t", Some(series())).await.unwrap();
    let raw = mongo.client().await.database(mongo.database());
    let found = raw.run_command(doc! {"listCollections": 1, "filter": {"name": "t"}});
    let found = found.await.unwrap();
    let options = found.get_document("cursor").unwrap().get_array("firstBatch").unwrap()[0].as_document().unwrap().clone();
    let options = options.get_document("options").unwrap();
    let fields = options.get_document("timeseries").unwrap();
    assert_eq!((fields.get_str("timeField").unwrap(), fields.get_str("metaField").unwrap()), ("ts", "device"));
    assert_eq!(fields.get_str("granularity").unwrap(), "minutes");
    assert!(options.contains_key("expireAfterSeconds"));

    let measurement = own(&doc! {"_id": 1, "ts": bson::DateTime::now(), "device": "d", "v": 1.5});
    assert_eq!(failures(collection.insert(&[measurement]).await), []);
    // The field that the server wants is missing: a refusal of that document, with a code that is not about keys.
    let refused = failures(collection.insert(&[own(&doc! {"_id": 2, "time": bson::DateTime::now()})]).await);
    assert!([2, 5_743_702].contains(&refused[0].code), "{refused:?}");
    for (name, wanted) in [("t", None), ("t", Some(TimeSeries { time_field: "other".into(), ..series() }))] {
        assert!(matches!(opened(name, wanted).await, Err(OpenError::KindDiffers(_))));
    }
    opened("n", None).await.unwrap();
    let Err(OpenError::KindDiffers(said)) = opened("n", Some(series())).await else { panic!("opened") };
    assert!(said.contains("a normal collection") && said.contains("a time-series collection"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn collections_that_many_open_at_once_are_all_there_afterwards() {
    require!("database");
    let mongo = Mongo::start().await;
    let database = database(&mongo.url()).await;
    let opened = (0..40).map(|number| {
        // Every one is opened twice.
        let (database, target) = (database.clone(), target(&mongo, &format!("c{}", number / 2)));
        async move { Collection::open(database, &target, &output(None), Age::Recent).await.map(|_| ()) }
    });
    for opened in futures_util::future::join_all(opened).await {
        opened.unwrap();
    }
    let names = mongo.client().await.database(mongo.database()).list_collection_names().await.unwrap();
    assert_eq!(names.iter().filter(|name| name.starts_with('c')).count(), 20, "{names:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_kind_is_noticed_at_once_when_asked_anew_and_soon_otherwise() {
    require!("database");
    let mongo = Mongo::start().await;
    let database = database(&mongo.url()).await;
    let opened = async |age| Collection::open(database.clone(), &target(&mongo, "a"), &output(None), age).await.map(|_| ());
    opened(Age::Recent).await.unwrap();
    opened(Age::Recent).await.unwrap();
    let raw = mongo.client().await.database(mongo.database());
    raw.collection::<Bson>("a").drop().await.unwrap();
    raw.run_command(doc! {"create": "a", "timeseries": {"timeField": "ts"}}).await.unwrap();
    assert!(matches!(opened(Age::Anew).await, Err(OpenError::KindDiffers(_))));
    let noticed = || async { matches!(opened(Age::Recent).await, Err(OpenError::KindDiffers(_))) };
    within("another kind is noticed", Duration::from_secs(20), noticed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_largest_document_is_stored_and_what_is_larger_is_not_sent() {
    require!("database");
    let mongo = Mongo::start().await;
    let collection = open(&mongo, "a").await;
    let sized = |bytes: usize| {
        let empty = doc! {"b": ""}.to_vec().unwrap().len();
        Document { payload: doc! {"b": "x".repeat(bytes - empty)}.to_vec().unwrap().into(), id: Some(id(bytes)) }
    };
    let largest = sized(MAX_COMMAND_BYTES - 17);
    assert_eq!(failures(collection.insert(std::slice::from_ref(&largest)).await), []);
    assert_eq!(mongo.count("a").await, 1);
    assert_eq!(failed(collection.insert(&[sized(MAX_COMMAND_BYTES - 16)]).await).kind, FailureKind::TooLarge);
    let halves = [sized(MAX_COMMAND_BYTES / 2), sized(MAX_COMMAND_BYTES / 2 + 1)];
    assert!(collection.command_of(&halves).bytes() > MAX_COMMAND_BYTES);
    assert_eq!(failed(collection.insert(&halves).await).kind, FailureKind::TooLarge);
}
