//! What tests stand on: real Postgres, rows to begin with.

pub mod postgres;
pub mod rows;
pub mod service;
