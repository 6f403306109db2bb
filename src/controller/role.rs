//! What this controller's part is: who holds the lease, of which executor kind, and what that makes of the others. Pure,
//! but for the two questions that it puts to the lease.
//!
//! ```text
//! holds the lease                         decides, and acts                                     (Role::Holder)
//! same kind, executions of its own        runs what is admitted                                 (Role::Runner)
//! same kind, executions shared by all     only looks: the holder alone acts on them             (Role::Looker)
//! another kind, executions of its own     starts nothing; ends what it runs once the holder's
//!                                         kind runs it, or once nothing may run any more        (Role::StandBy)
//! another kind, executions shared by all  only looks                                            (Role::Looker)
//! ```
//!
//! Where nobody is known to hold the lease, the kind is taken to be the own one: what runs goes on.

use super::Controller;
use crate::pipeline::plan::Role;
use crate::settings::ExecutorKind;

/// The role of a controller of kind `own` that holds the lease or not; `holder`: the kind of who was last known to.
pub(super) fn role(holds: bool, own: ExecutorKind, holder: Option<&str>) -> Role {
    if holds {
        return Role::Holder;
    }
    if !own.per_process() {
        return Role::Looker;
    }
    match holder {
        Some(kind) if kind != own.as_str() => Role::StandBy,
        _ => Role::Runner,
    }
}

impl Controller {
    /// This controller's role now.
    pub(super) fn role(&self) -> Role {
        let own = self.deps.settings.executor.kind;
        role(self.holding.epoch().is_some(), own, self.holding.holders_kind().as_deref())
    }

    /// Whether this controller's executions may be started before it is known who decides. Another kind's controller
    /// would start a second set of them.
    pub(super) async fn may_resume(&self) -> bool {
        // What the status admitted was right when it was written: an answer that does not come changes nothing.
        if let Ok(Some(holder)) = self.deps.store.lease.current().await {
            // Remembered, so that no reconcile runs before the keeper's own first look as if nobody held it.
            self.holding.seen(holder);
        }
        role(false, self.deps.settings.executor.kind, self.holding.holders_kind().as_deref()) == Role::Runner
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_controller_of_another_kind_stands_by_while_the_lease_names_a_kind() {
        let own = ExecutorKind::InProcess;
        assert_eq!(role(true, own, Some("docker")), Role::Holder, "who has it last was another, who has it now is this one");
        assert_eq!(role(false, own, Some("docker")), Role::StandBy);
        assert_eq!(role(false, own, Some("in_process")), Role::Runner);
        assert_eq!(role(false, own, None), Role::Runner, "without a holder, what runs goes on");
    }
}
