//! The full depth: the production ghfe and scheduler, the real kube client with its watch caches and the real octocrab,
//! each on a node of its own in a simulated network, in simulated time (madsim).
//!
//! Only Postgres is a model of its own here; GitHub and the cluster are the models of [`crate::world`] behind their HTTP
//! faces. Worlds come from the same plans as those of the fast depth, with more that can go wrong: parts of the network
//! and every kind of process. Everything is drawn from the seed, and everything that happens is folded into one hash.

pub mod bridge;
pub mod cli;
mod deeds;
mod faces;
mod judge;
mod jwt;
mod logs;
mod net;
mod nodes;
mod postgres;
pub mod register;
mod run;
pub mod trouble;
mod webhooks;
mod world;

pub use run::{Outcome, run};
