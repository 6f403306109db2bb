//! The connection to the API server: made when it is needed and anew after every failure, with a timeout on each call, a
//! bound on how many are under way, and the question whether this controller may still act before each that changes
//! something. Nothing in here knows pipelines.

use crate::executor::error::BackendError;
use crate::executor::{Permit, Term};
use crate::pipeline::causes::with_causes;
use crate::settings::KubernetesSettings;
use jiff::Timestamp;
use k8s_openapi::NamespaceResourceScope;
use kube::api::{Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::Status;
use kube::{Api, Client, Config, Error, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Debug;
use std::future::Future;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use tokio::sync::Semaphore;
use tracing::{info, warn};

/// An object of a kind that lives in a namespace.
pub trait Object: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + DeserializeOwned + Debug {}
impl<K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + DeserializeOwned + Debug> Object for K {}

/// A cluster, and the namespace in it.
pub struct Cluster {
    settings: KubernetesSettings,
    state: Mutex<State>,
    calls: Semaphore,
    permit: OnceLock<Permit>,
}

#[derive(Default)]
struct State {
    connection: Option<Connection>,
    /// Since when the server has not answered.
    silent: Option<Timestamp>,
}

#[derive(Clone)]
struct Connection {
    client: Client,
    server: String,
    namespace: String,
}

impl Cluster {
    /// A cluster that nothing was asked of yet.
    pub fn new(settings: KubernetesSettings) -> Self {
        let calls = Semaphore::new(usize::try_from(settings.parallel).unwrap_or(1).max(1));
        Self { settings, state: Mutex::default(), calls, permit: OnceLock::new() }
    }

    /// Makes it ask `permit` before each change.
    pub fn set_permit(&self, permit: Permit) {
        // Given once, by the controller that this backend belongs to.
        let _ = self.permit.set(permit);
    }

    /// Whether this controller may change something, and for how long; without a lease to ask, for ever.
    pub fn term(&self) -> Result<Term, BackendError> {
        match self.permit.get() {
            None => Ok(Term { epoch: 0, left: Duration::MAX }),
            Some(permit) => permit().ok_or(BackendError::NotPermitted),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn connection(&self) -> Result<Connection, BackendError> {
        if let Some(connection) = self.state().connection.clone() {
            return Ok(connection);
        }
        let mut config = self.config().await.map_err(|message| BackendError::Unknown { message })?;
        config.connect_timeout = Some(self.settings.timeout);
        // Trying again is the driver's, which asks for the lease each time.
        config.default_retry = false;
        let server = config.cluster_url.to_string();
        let namespace = self.settings.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        let client = Client::try_from(config).map_err(|error| BackendError::Unknown { message: error.to_string() })?;
        let connection = Connection { client, server, namespace };
        self.state().connection = Some(connection.clone());
        Ok(connection)
    }

    async fn config(&self) -> Result<Config, String> {
        let KubernetesSettings { kubeconfig, context, .. } = &self.settings;
        let options = KubeConfigOptions { context: context.clone(), ..Default::default() };
        let in_pod = std::env::var_os("KUBERNETES_SERVICE_HOST").is_some();
        match kubeconfig {
            Some(path) => {
                let read = Kubeconfig::read_from(path).map_err(|error| error.to_string())?;
                Config::from_custom_kubeconfig(read, &options).await.map_err(|error| error.to_string())
            }
            None if in_pod && context.is_none() => Config::incluster().map_err(|error| error.to_string()),
            None => Config::from_kubeconfig(&options).await.map_err(|error| {
                format!("{error} (in a pod its service account is used; elsewhere name executor.kubernetes.kubeconfig, or set $KUBECONFIG)")
            }),
        }
    }

    /// The objects of one kind in the namespace, for calls that take as long as they take.
    pub async fn api<K: Object>(&self) -> Result<Api<K>, BackendError> {
        let Connection { client, namespace, .. } = self.connection().await?;
        Ok(Api::namespaced(client, &namespace))
    }

    /// Asks for something; `what` names it in errors.
    pub async fn ask<K: Object, T, F>(&self, what: &'static str, call: impl FnOnce(Api<K>) -> F) -> Result<T, BackendError>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let _turn = self.calls.acquire().await;
        self.call(what, self.settings.timeout, call).await
    }

    /// Changes something, where this controller may, and within the time for which it may.
    pub async fn change<K: Object, T, F>(&self, what: &'static str, call: impl FnOnce(Api<K>) -> F) -> Result<T, BackendError>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let _turn = self.calls.acquire().await;
        // Before anything is waited for.
        self.connection().await?;
        let left = self.term()?.left;
        self.call(what, self.settings.timeout.min(left), call).await
    }

    /// Applies `object` on the server as `manager`; `force` takes fields from whoever else set them.
    pub async fn apply<K: Object>(
        &self,
        what: &'static str,
        manager: &str,
        force: bool,
        name: &str,
        object: &(impl Serialize + Debug),
    ) -> Result<K, BackendError> {
        let parameters = PatchParams { force, ..PatchParams::apply(manager) };
        self.change(what, |api: Api<K>| async move { api.patch(name, &parameters, &Patch::Apply(object)).await }).await
    }

    async fn call<K: Object, T, F>(&self, what: &'static str, timeout: Duration, call: impl FnOnce(Api<K>) -> F) -> Result<T, BackendError>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let Connection { client, server, namespace } = self.connection().await?;
        match tokio::time::timeout(timeout, call(Api::namespaced(client, &namespace))).await {
            Ok(Ok(answer)) => {
                if self.state().silent.take().is_some() {
                    info!(server, "api server answers again");
                }
                Ok(answer)
            }
            // It answers, if only with a refusal; one that is starting or overloaded does not yet.
            Ok(Err(Error::Api(status))) if !matches!(status.code, 429 | 502..=504) => {
                self.state().silent = None;
                Err(refused(what, &status))
            }
            Ok(Err(error)) => Err(self.failed(server, what, &with_causes(&error))),
            Err(_) => Err(self.failed(server, what, &format!("{what}: no answer within {}", humantime::format_duration(timeout)))),
        }
    }

    fn failed(&self, server: String, what: &'static str, message: &str) -> BackendError {
        let mut state = self.state();
        state.connection = None;
        let first = state.silent.is_none();
        let since = *state.silent.get_or_insert_with(Timestamp::now);
        drop(state);
        if first {
            warn!(server, what, error = message, "api server does not answer");
        }
        BackendError::Unavailable { who: format!("the API server {server}"), since, message: message.to_owned() }
    }
}

/// The cause of a conflict with another field manager, in the answer's details.
const FIELD_CONFLICT: &str = "FieldManagerConflict";

/// What an answer of the API server to `what` means.
pub fn refused(what: &'static str, status: &Status) -> BackendError {
    let message = status.message.clone();
    let causes = status.details.as_ref().map_or(&[][..], |details| &details.causes);
    match status.code {
        404 => BackendError::Missing { what, message },
        409 if causes.iter().any(|cause| cause.reason == FIELD_CONFLICT) => BackendError::FieldConflict { what, message },
        409 => BackendError::Stale { what, message },
        _ => BackendError::Refused { what, message },
    }
}
