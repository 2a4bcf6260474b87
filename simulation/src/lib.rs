//! Deterministic simulation of the scheduling engine.
//!
//! A [`plan::Plan`] is a world, a workload and its faults, all drawn from one seed. [`run::run`] lets the engine work in
//! it: the models of GitHub, the cluster and the store, and the schedulers between them, are one loop over one queue
//! of events in simulated time. [`judge`] watches every effect and names the invariant that breaks.
//!
//! Nothing here reads a clock, draws from the system's randomness, or iterates over anything unordered: the same plan
//! gives the same events, and the same hash over them.

pub mod capture;
pub mod cli;
pub mod cluster;
pub mod github;
pub mod judge;
pub mod metamorphic;
pub mod mutants;
pub mod panics;
pub mod parallel;
pub mod plan;
pub mod profile;
pub mod register;
pub mod replay;
pub mod report;
pub mod rng;
pub mod run;
pub mod scheduler;
pub mod shrink;
pub mod store;
pub mod strangers;
pub mod trace;
