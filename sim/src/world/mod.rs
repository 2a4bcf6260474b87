//! Pure models of the outside world: no I/O, no clock; time is passed in.

pub mod github;
pub mod kubernetes;
pub mod runners;
