//! Every name that Sluice uses on NATS, derived in one place from the namespace and the templates in the settings.
//!
//! `{ns}` stands for the namespace, `{id}` for the pipeline id. The defaults are the first parent's names where it
//! has them, so that its producers keep working unchanged.

use super::id::{Namespace, PipelineId};
use serde::{Deserialize, Serialize};

/// The templates, as the settings' `names` section holds them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameTemplates {
    /// KV bucket of the entries.
    pub entries: String,
    /// Object Store of the configs.
    pub configs: String,
    /// KV bucket of the status documents.
    pub status: String,
    /// KV bucket of the lease.
    pub lease: String,
    /// Core NATS subject prefix of the reports.
    pub reports: String,
    /// Stream (and subject prefix) of the dead letters.
    pub dead_letters: String,
    /// A pipeline's stream.
    pub stream: String,
    /// A pipeline's subject.
    pub subject: String,
    /// The subject a draining pipeline's stream is moved to.
    pub closed: String,
    /// The durable consumer.
    pub consumer: String,
    /// The subject of state requests.
    pub states: String,
    /// Core NATS subject prefix of requests for log lines.
    pub logs: String,
}

impl Default for NameTemplates {
    fn default() -> Self {
        Self {
            entries: "{ns}".into(),
            configs: "{ns}-configs".into(),
            status: "{ns}-status".into(),
            lease: "{ns}-lease".into(),
            reports: "{ns}-reports".into(),
            dead_letters: "{ns}-dlq".into(),
            stream: "{ns}_{id}".into(),
            subject: "{ns}.{id}".into(),
            closed: "{ns}-closed.{id}".into(),
            consumer: "default".into(),
            states: "{ns}.states".into(),
            logs: "{ns}-logs".into(),
        }
    }
}

/// The templates bound to a namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    namespace: Namespace,
    templates: NameTemplates,
    inboxes: Vec<String>,
}

impl Names {
    /// Binds `templates` to `namespace`.
    pub fn new(namespace: Namespace, templates: NameTemplates) -> Self {
        Self { namespace, templates, inboxes: Vec::new() }
    }

    /// The same, with the prefixes of inboxes that are in use.
    pub fn with_inboxes(self, inboxes: Vec<String>) -> Self {
        Self { inboxes, ..self }
    }

    /// The prefixes of inboxes that are in use: this process's own, and those that it answers to.
    pub fn inboxes(&self) -> &[String] {
        &self.inboxes
    }

    /// The namespace.
    pub fn namespace(&self) -> &Namespace {
        &self.namespace
    }

    fn of(&self, template: &str) -> String {
        template.replace("{ns}", self.namespace.as_str())
    }

    fn of_pipeline(&self, template: &str, id: &PipelineId) -> String {
        self.of(template).replace("{id}", id.as_str())
    }

    /// KV bucket of the entries.
    pub fn entries(&self) -> String {
        self.of(&self.templates.entries)
    }

    /// Object Store of the configs.
    pub fn configs(&self) -> String {
        self.of(&self.templates.configs)
    }

    /// KV bucket of the status documents.
    pub fn status(&self) -> String {
        self.of(&self.templates.status)
    }

    /// KV bucket of the lease.
    pub fn lease(&self) -> String {
        self.of(&self.templates.lease)
    }

    /// The subject on which `process` reports.
    pub fn report(&self, process: &str) -> String {
        format!("{}.{process}", self.of(&self.templates.reports))
    }

    /// Stream of the dead letters.
    pub fn dead_letters(&self) -> String {
        self.of(&self.templates.dead_letters)
    }

    /// Object Store of the payloads that a dead letter cannot hold.
    pub fn dead_letter_objects(&self) -> String {
        format!("{}-payloads", self.dead_letters())
    }

    /// The subjects that the stream of the dead letters listens on.
    pub fn dead_letter_subjects(&self) -> String {
        format!("{}.>", self.dead_letters())
    }

    /// The subject prefix of a pipeline's dead letters, without the identity.
    pub fn dead_letter_prefix(&self, id: &PipelineId) -> String {
        format!("{}.{id}", self.dead_letters())
    }

    /// A pipeline's stream, unless its config names another.
    pub fn stream(&self, id: &PipelineId) -> String {
        self.of_pipeline(&self.templates.stream, id)
    }

    /// A pipeline's own subject: a stream that listens on it is ours.
    pub fn subject(&self, id: &PipelineId) -> String {
        self.of_pipeline(&self.templates.subject, id)
    }

    /// The subjects of all pipelines at once: the id replaced by a wildcard, where it is a whole token. `>` behind what
    /// stands in front of it where it is not, since NATS has no wildcard for a part of a token.
    pub fn subjects(&self) -> String {
        self.of_all(&self.templates.subject)
    }

    /// The subjects of all pipelines that are being drained at once.
    pub fn closed_subjects(&self) -> String {
        self.of_all(&self.templates.closed)
    }

    fn of_all(&self, template: &str) -> String {
        let template = self.of(template);
        if template.split('.').all(|token| token == "{id}" || !token.contains("{id}")) {
            return template.replace("{id}", "*");
        }
        let fixed: Vec<&str> = template.split('.').take_while(|token| !token.contains("{id}")).collect();
        fixed.into_iter().chain([">"]).collect::<Vec<_>>().join(".")
    }

    /// The subject of a stream that is being drained.
    pub fn closed(&self, id: &PipelineId) -> String {
        self.of_pipeline(&self.templates.closed, id)
    }

    /// The durable consumer.
    pub fn consumer(&self) -> String {
        self.of(&self.templates.consumer)
    }

    /// The subject of requests for the log lines of a pipeline, or of `*`.
    pub fn logs(&self, id: &str) -> String {
        format!("{}.{id}", self.of(&self.templates.logs))
    }

    /// The subject of state requests.
    pub fn states(&self) -> String {
        self.of(&self.templates.states)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_first_parents_by_default() {
        let names = Names::new(Namespace::parse("alpha").unwrap(), NameTemplates::default());
        let id = PipelineId::parse("metrics").unwrap();
        assert_eq!(names.entries(), "alpha");
        assert_eq!(names.stream(&id), "alpha_metrics");
        assert_eq!(names.subject(&id), "alpha.metrics");
        assert_eq!(names.closed(&id), "alpha-closed.metrics");
        assert_eq!(names.states(), "alpha.states");
        assert_eq!(names.dead_letter_prefix(&id), "alpha-dlq.metrics");
    }

    #[test]
    fn the_subjects_of_all_pipelines_are_one_pattern() {
        let of = |subject: &str| {
            let templates = NameTemplates { subject: subject.into(), ..NameTemplates::default() };
            Names::new(Namespace::parse("alpha").unwrap(), templates).subjects()
        };
        assert_eq!(of("{ns}.{id}"), "alpha.*");
        assert_eq!(of("in.{ns}.{id}.raw"), "in.alpha.*.raw");
        assert_eq!(of("{ns}.p-{id}.raw"), "alpha.>");
    }
}
