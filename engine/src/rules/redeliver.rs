//! redeliver: have GitHub deliver again what ghfe did not answer with 2xx (GitHub never repeats by itself).

use alloc::vec::Vec;

use crate::{
    decide::Turn,
    decision::{Action, Reason},
    facts::App,
    governor::Use,
    ids::{Span, Time},
    snapshot::{Failed, Flight, Key, MAX_FAILED},
};

/// Deliveries repeated at once, so that an outage's end is not a storm (L7).
const AT_ONCE: usize = 20;
/// Overlap of two readings of the log: entries appear in it late.
const OVERLAP: Span = Span::mins(5);
/// GitHub keeps deliveries for three days, so a first attempt older than that was repeated for as long as it could be.
/// One that is refused is repeated ever more rarely, and not given up before: a wrong webhook secret may be mended.
const KEPT: Span = Span::hours(72);

pub(crate) fn run(turn: &mut Turn<'_>) {
    turn.each_due(
        |due| &mut due.deliveries,
        |turn, &app| {
            repeat(turn, app);
            read(turn, app);
        },
    );
}

fn is_given_up(failed: &Failed, now: Time) -> bool {
    now.since(failed.since) >= KEPT
}

fn repeat(turn: &mut Turn<'_>, app: App) {
    let now = turn.now;
    let Some(entry) = turn.s.apps.get_mut(&app) else { return };
    // One that is given up is remembered while the log's next reading would show it again. When there is no room for
    // more, those that were refused most often make it.
    let again = entry.read_to.map_or(Time::ZERO, |at| at - OVERLAP);
    let full = entry.failed.len() >= MAX_FAILED;
    entry.failed.retain(|_, failed| {
        let hopeless = is_given_up(failed, now) || full && failed.is_refused_often();
        failed.in_flight || !hopeless || !full && failed.delivery.delivered_at >= again
    });
    let under_way = entry.failed.values().filter(|failed| failed.in_flight).count();
    let mut chosen = Vec::new();
    let mut next: Option<Time> = None;
    for failed in entry.failed.values_mut().filter(|failed| !failed.in_flight && !is_given_up(failed, now)) {
        let ready = entry.allowance.ready_at(Use::Redeliver, &turn.policy.governor, now);
        let at = failed.not_before.max(ready);
        if at <= now && under_way + chosen.len() < AT_ONCE {
            entry.allowance.spend(Use::Redeliver, &turn.policy.governor, now);
            failed.in_flight = true;
            chosen.push((failed.delivery.id, failed.delivery.guid.clone()));
        } else {
            next = Some(next.map_or(at, |next| next.min(at)));
        }
    }
    for (delivery, guid) in chosen {
        let flight = Flight::Redeliver(app, guid.clone());
        turn.act(flight, Action::Redeliver { app, delivery, guid }, Reason::NotDelivered);
    }
    if let Some(at) = next {
        turn.s.wake(Key::Deliveries(app), at.max(now + Span::secs(1)));
    }
}

fn read(turn: &mut Turn<'_>, app: App) {
    let (now, timeouts) = (turn.now, turn.policy.timeouts);
    let Some(entry) = turn.s.apps.get_mut(&app) else { return };
    if entry.in_flight {
        return;
    }
    let due = entry.read_at.map_or(now, |at| at + timeouts.deliveries).max(entry.backoff.until);
    if now < due {
        return turn.s.wake(Key::Deliveries(app), due);
    }
    entry.in_flight = true;
    entry.read_at = Some(now);
    let since = entry.read_to.map_or(now - timeouts.deliveries_back, |at| at - OVERLAP);
    turn.act(Flight::Deliveries(app), Action::ListDeliveries { app, since }, Reason::DeliveryLogDue);
}
