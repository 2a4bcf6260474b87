//! The models' HTTP faces.

pub mod faults;
pub mod github;
pub mod kubernetes;
#[cfg(feature = "real")]
pub mod tls;
