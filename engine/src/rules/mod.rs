//! The rules, by the specification's names, one file each; `decide` lists their order.

pub(crate) mod cleanup_pods;
pub(crate) mod demand_match;
pub(crate) mod provision;
pub(crate) mod reconcile_jobs;
pub(crate) mod reconcile_runners;
pub(crate) mod redeliver;
pub(crate) mod removal;
