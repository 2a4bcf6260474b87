//! Every decision of the service, as a pure state machine: no clock, no randomness, no I/O.
//!
//! Facts go in as [`facts::Change`]s; actions, each with its reason, come out as a [`decision::Decision`].
#![no_std]

extern crate alloc;

pub mod check;
pub mod decide;
pub mod decision;
pub mod explain;
pub mod facts;
pub mod governor;
pub mod ids;
pub mod intake;
pub mod labels;
pub mod policy;
pub mod rows;
mod rules;
pub mod snapshot;
