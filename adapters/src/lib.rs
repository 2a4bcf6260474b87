//! Thin clients and servers: they carry facts to the engine and carry out what it decided.

pub mod config;
#[cfg(test)]
mod frail;
pub mod ghfe;
pub mod github;
pub mod ingest;
pub mod kubernetes;
pub mod memory;
pub mod notices;
pub mod ports;
#[cfg(feature = "postgres")]
pub mod postgres;
mod quote;
pub mod scheduler;
