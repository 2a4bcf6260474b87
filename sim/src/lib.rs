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

/// The fast depth has a scheduler of its own around the engine: it keeps production's times.
const _: () = {
    use adapters::scheduler as production;
    use simulation::scheduler::times;
    const fn lasts(known: std::time::Duration, milliseconds: i64) -> bool {
        known.as_millis() == milliseconds.unsigned_abs() as u128
    }
    assert!(production::LEASE.0 == times::LEASE);
    assert!(lasts(production::RENEW_EVERY, times::RENEW_EVERY));
    assert!(lasts(production::RENEW_AGAIN, times::RENEW_AGAIN));
    assert!(lasts(production::STAND_BY, times::STAND_BY));
    assert!(lasts(production::TICK, times::TICK));
    assert!(lasts(production::READ_PAUSE, times::READ_PAUSE));
    assert!(lasts(production::FINISH, times::FINISH));
    assert!(lasts(production::CALL_LIMIT, times::CALL_LIMIT));
    assert!(production::WRITES_AT_ONCE == times::WRITES_AT_ONCE);
};
