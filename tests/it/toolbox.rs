//! The tests' own tools work: servers start, die and come back; the proxy cuts; the fail point fails.

use crate::support::{Cluster, Mongo, Nats, Proxy, eventually};
use mongodb::bson::doc;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_survives_the_death_of_its_server() {
    require!("nats-server", "nats");
    let mut nats = Nats::start().await;
    let jetstream = nats.jetstream().await;
    let config = async_nats::jetstream::stream::Config { name: "A".into(), subjects: vec!["a".into()], ..Default::default() };
    jetstream.create_stream(config).await.unwrap();
    jetstream.publish("a", "1".into()).await.unwrap().await.unwrap();
    nats.kill9();
    nats.restart().await;
    eventually("the stream is there", Duration::from_secs(10), || async {
        let Ok(mut stream) = nats.jetstream().await.get_stream("A").await else { return false };
        stream.info().await.is_ok_and(|info| info.state.messages == 1)
    })
    .await;
    assert!(nats.nats_cli(&["stream", "ls", "--names"]).await.contains('A'));
    assert!(nats.try_nats_cli(&["kv", "get", "NONE", "x"]).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_survive_the_death_of_the_database() {
    require!("database");
    let mut mongo = Mongo::start_durable().await;
    if !mongo.is_own() {
        return crate::support::skipped("the server of SLUICE_TEST_MONGO_URL is not ours to kill");
    }
    let collection = mongo.client().await.database(mongo.database()).collection("a");
    collection.insert_one(doc! {"_id": 1}).await.unwrap();
    mongo.kill9();
    mongo.restart().await;
    assert_eq!(mongo.documents("a").await, [doc! {"_id": 1}]);
    mongo.stop().await;
    mongo.restart().await;
    assert_eq!(mongo.count("a").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_fail_point_fails_one_insert() {
    require!("database");
    let mongo = Mongo::start().await;
    mongo.fail_command(doc! {"mode": {"times": 1}, "data": {"failCommands": ["insert"], "errorCode": 14031}}).await;
    let collection = mongo.client().await.database(mongo.database()).collection("a");
    assert!(collection.insert_one(doc! {"_id": 1}).await.is_err());
    collection.insert_one(doc! {"_id": 1}).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_cuts_and_resumes() {
    require!("nats-server");
    let nats = Nats::start().await;
    let proxy = Proxy::start(nats.port()).await;
    let client = async_nats::connect(nats.url_through(&proxy)).await.unwrap();
    client.flush().await.unwrap();
    assert!(proxy.bytes_to_server() > 0 && proxy.bytes_to_client() > 0 && proxy.connections() == 1);
    proxy.cut();
    let disconnected = || async { client.connection_state() == async_nats::connection::State::Disconnected };
    eventually("the client is cut off", Duration::from_secs(5), disconnected).await;
    proxy.resume();
    eventually("the client is connected again", Duration::from_secs(10), || async { client.flush().await.is_ok() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restricted_pod_runs_to_its_end_and_reaches_a_server_of_this_machine() {
    require!("nats-server", "kubernetes");
    let cluster = Cluster::shared().await;
    let (nats, image) = (Nats::start_on(cluster.gateway()).await, cluster.image().await);
    let bucket = async_nats::jetstream::kv::Config { bucket: "alpha".into(), ..Default::default() };
    nats.jetstream().await.create_key_value(bucket).await.unwrap();
    let namespace = cluster.namespace().await;
    let settings = format!("{{namespace: alpha, nats: {{urls: ['{}']}}}}", nats.url());
    let manifests = format!(
        "{{apiVersion: v1, kind: ConfigMap, metadata: {{name: settings}}, data: {{sluice.yml: \"{settings}\"}}}}\n---\n\
         {{apiVersion: v1, kind: Pod, metadata: {{name: once}}, spec: {{restartPolicy: Never, automountServiceAccountToken: false,\
         volumes: [{{name: settings, configMap: {{name: settings}}}}],\
         containers: [{{name: sluice, image: '{image}', imagePullPolicy: Never, args: [list],\
         volumeMounts: [{{name: settings, mountPath: /etc/sluice}}],\
         securityContext: {{runAsNonRoot: true, readOnlyRootFilesystem: true, allowPrivilegeEscalation: false,\
         capabilities: {{drop: [ALL]}}, seccompProfile: {{type: RuntimeDefault}}}}}}]}}}}"
    );
    namespace.apply(&manifests).await;
    let phase = || async { namespace.kubectl(&["get", "pod", "once", "-o", "jsonpath={.status.phase}"]).await };
    eventually("the pod has ended", Duration::from_secs(60), || async { ["Succeeded", "Failed"].contains(&&*phase().await) }).await;
    assert_eq!(phase().await, "Succeeded", "{}", namespace.kubectl(&["logs", "once"]).await);
    assert!(namespace.kubectl(&["logs", "once"]).await.contains("no pipelines"));
    // Any other kind of pod is refused.
    let refused = namespace.try_kubectl(&["run", "bare", "--image", &image]).await;
    assert!(String::from_utf8_lossy(&refused.stderr).contains("violates PodSecurity"), "{refused:?}");
}
