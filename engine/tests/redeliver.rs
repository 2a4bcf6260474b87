//! redeliver: a table of every branch.

mod support;

use engine::{
    decision::{Action, Reason},
    facts::*,
    ids::*,
};
use support::*;

const EVERY: Span = Span::mins(2);

fn delivery(id: i64, guid: &str, at: Time, ok: bool) -> Delivery {
    Delivery { id, guid: guid.into(), delivered_at: at, ok, refused: false }
}

fn reading(bench: &Bench, of: App) -> Option<(u64, Time)> {
    bench.open.iter().find_map(|chosen| match chosen.action {
        Action::ListDeliveries { app, since } if app == of => Some((chosen.id, since)),
        _ => None,
    })
}

/// The organisations' log shows these; the other is empty. Then the engine decides.
fn log(bench: &mut Bench, deliveries: Vec<Delivery>) {
    let (id, _) = reading(bench, App::Organization).expect("a reading");
    bench.answer(id, Outcome::DeliveriesListed(ok(deliveries)));
    bench.answer_reads();
    bench.decide();
}

fn repeats(bench: &Bench) -> Vec<i64> {
    let of = |chosen: &engine::decision::Chosen| match chosen.action {
        Action::Redeliver { app: App::Organization, delivery, .. } => Some(delivery),
        _ => None,
    };
    bench.open.iter().filter_map(of).collect()
}

fn answer_repeats(bench: &mut Bench, answer: impl Fn() -> GitHubAnswer<()>) {
    for chosen in bench.open.clone() {
        if matches!(chosen.action, Action::Redeliver { .. }) {
            bench.answer(chosen.id, Outcome::Redelivered(answer()));
        }
    }
}

/// Fourteen attempts of one delivery fail; those that `refused` names are refused, the others stay without an answer. How
/// many minutes pass between them.
fn pauses(bench: &mut Bench, refused: impl Fn(i64) -> bool) -> Vec<i64> {
    let mut pauses = Vec::new();
    let mut last = bench.now;
    for attempt in 0..14 {
        let failed = Delivery { refused: refused(attempt), ..delivery(attempt, "b", bench.now, false) };
        while repeats(bench).is_empty() {
            bench.tick(Span::secs(30));
            if reading(bench, App::Organization).is_some() {
                log(bench, vec![failed.clone()]);
            }
        }
        assert_eq!(repeats(bench), [attempt]);
        bench.tick(Span::secs(30));
        answer_repeats(bench, || ok(()));
        pauses.push(bench.now.since(last).0 / 60_000);
        last = bench.now;
    }
    pauses
}

const CASES: &[Case] = &[
    ("both logs are read every 2 minutes, from a little before what was read", |bench| {
        assert_eq!(reading(bench, App::Organization), None);
        bench.tick(Span(EVERY.0 - 1));
        assert_eq!(reading(bench, App::Organization), None);
        bench.tick(Span(1));
        assert!(reading(bench, App::Personal).is_some());
        assert_eq!(reading(bench, App::Organization).map(|it| it.1), Some(bench.now - Span::hours(6)));
        let at = bench.now;
        log(bench, vec![delivery(1, "a", at, true)]);
        bench.tick(EVERY);
        assert_eq!(reading(bench, App::Organization).map(|it| it.1), Some(at - Span::mins(5)));
    }),
    ("a reading that failed is repeated after a pause, from where it was", |bench| {
        bench.tick(EVERY);
        let (id, since) = reading(bench, App::Organization).expect("a reading");
        bench.answer(id, Outcome::DeliveriesListed(away()));
        bench.tick(Span::mins(3));
        assert!(reading(bench, App::Organization).is_some_and(|(_, again)| again <= since + Span::mins(3)));
    }),
    ("what failed is delivered again by its attempt's id", |bench| {
        bench.tick(EVERY);
        log(bench, vec![delivery(1, "a", bench.now, true), delivery(2, "b", bench.now, false)]);
        assert_eq!(repeats(bench), [2]);
        assert!(bench.why(&Reason::NotDelivered).is_some());
    }),
    ("what was delivered at a later attempt is not", |bench| {
        bench.tick(EVERY);
        let later = bench.now + Span::secs(1);
        log(bench, vec![delivery(3, "b", later, true), delivery(2, "b", bench.now, false)]);
        assert_eq!(repeats(bench), []);
    }),
    ("the same attempt shown again is repeated only after a pause; a newer one by its own id", |bench| {
        bench.tick(EVERY);
        let first = delivery(2, "b", bench.now, false);
        log(bench, vec![first.clone()]);
        bench.later(Span::secs(1));
        answer_repeats(bench, || ok(()));
        bench.decide();
        assert_eq!(repeats(bench), [], "the log will show how it fared");
        bench.tick(Span(EVERY.0 - 1_000));
        let newer = delivery(5, "b", bench.now, false);
        log(bench, vec![first, newer]);
        bench.tick(Span::secs(1));
        assert_eq!(repeats(bench), [5]);
    }),
    ("twenty at once, the next when one is answered", |bench| {
        bench.tick(EVERY);
        let at = bench.now;
        log(bench, (0..50).map(|i| delivery(100 + i, &format!("g{i:02}"), at, false)).collect());
        assert_eq!(repeats(bench).len(), 20);
        let mut all = repeats(bench);
        for _ in 0..4 {
            answer_repeats(bench, || ok(()));
            bench.tick(Span::secs(1));
            all.extend(repeats(bench));
        }
        all.sort();
        assert_eq!(all, (100..150).collect::<Vec<_>>(), "each once");
    }),
    ("a call that failed is made again in half a minute", |bench| {
        bench.tick(EVERY);
        log(bench, vec![delivery(2, "b", bench.now, false)]);
        answer_repeats(bench, away);
        bench.decide();
        assert_eq!(repeats(bench), []);
        bench.tick(Span::secs(31));
        assert_eq!(repeats(bench), [2]);
    }),
    ("no call before the time that GitHub gave", |bench| {
        bench.tick(EVERY);
        log(bench, vec![delivery(2, "b", bench.now, false), delivery(3, "c", bench.now, false)]);
        let until = Some(bench.now + Span::mins(10));
        answer_repeats(bench, || refused(GitHubError::RateLimited { until }));
        for _ in 0..9 {
            bench.tick(Span::mins(1));
            assert_eq!(repeats(bench), []);
        }
        bench.tick(Span::mins(1));
        assert!(!repeats(bench).is_empty());
    }),
    ("what is refused again and again is repeated ever more rarely, up to an hour apart", |bench| {
        assert_eq!(pauses(bench, |_| true), [2, 2, 2, 2, 2, 4, 8, 16, 32, 60, 60, 60, 60, 60]);
    }),
    ("what nobody answered was not refused, whatever comes between", |bench| {
        assert_eq!(pauses(bench, |attempt| attempt % 4 == 0), [2; 14], "four refusals among fourteen attempts");
    }),
    ("what is older than three days is given up", |bench| {
        bench.tick(EVERY);
        log(bench, vec![delivery(2, "b", bench.now - Span::hours(72), false)]);
        assert_eq!(repeats(bench), []);
    }),
];

#[test]
fn every_branch_and_every_reason() {
    play(0, CASES, &reasons_of("redeliver"));
}
