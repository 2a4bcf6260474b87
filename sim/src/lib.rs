//! Everything that is not real: models of GitHub and Kubernetes, their HTTP faces, the demo and the test harness.

pub mod capture;
pub mod credentials;
#[cfg(madsim)]
pub mod full;
#[cfg(feature = "real")]
pub mod harness;
pub mod http;
#[cfg(feature = "real")]
pub mod play;
#[cfg(feature = "real")]
pub mod testing;
pub mod world;
