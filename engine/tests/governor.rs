//! The governor: what one installation may be asked, and when.

mod support;

use engine::{
    decision::Action,
    facts::*,
    governor::{Allowance, Backoff, Prepaid, Use},
    ids::*,
    policy::{Governor, Policy, Timeouts},
    snapshot::Snapshot,
};
use support::*;

const MINUTE: Span = Span::mins(1);

fn budget(limit: u32, remaining: u32, minutes: i64) -> Option<Budget> {
    Some(Budget { limit, remaining, reset_at: START + Span::mins(minutes) })
}

/// GitHub answers a call, for as much as was paid.
fn say(allowance: &mut Allowance, usage: Use, error: Option<GitHubError>, budget: Option<Budget>, now: Time) {
    let calls = match usage {
        Use::List { pages } | Use::Proof { pages } => pages,
        Use::Poll | Use::Mint | Use::Delete | Use::Redeliver => 1,
    };
    let answer = GitHubAnswer { result: error.map_or(Ok(()), Err), budget, calls };
    allowance.answered(usage, &answer, (&Governor::default(), &Timeouts::default()), now);
}

/// How many such calls are made at once, each answered as soon as it is made.
fn burst(allowance: &mut Allowance, usage: Use, now: Time, most: usize) -> usize {
    let governor = Governor::default();
    for made in 0..most {
        if !allowance.is_ready(usage, &governor, now) {
            return made;
        }
        allowance.spend(usage, &governor, now);
        say(allowance, usage, None, None, now);
    }
    most
}

/// Calls made in this long when one is tried every second.
fn pace(allowance: &mut Allowance, usage: Use, seconds: i64) -> usize {
    (0..seconds).map(|i| burst(allowance, usage, START + Span::secs(i), 1_000)).sum()
}

#[test]
fn a_minute_takes_180_jit_calls_less_the_few_points_that_are_kept_for_tokens() {
    let mut allowance = Allowance::default();
    assert_eq!(burst(&mut allowance, Use::Mint, START, 1_000), 176);
    let governor = Governor::default();
    // A little more than the minute: a clock may be put right meanwhile.
    let next = START + Span(60_100);
    assert_eq!(allowance.ready_at(Use::Mint, &governor, START), next);
    assert_eq!(burst(&mut allowance, Use::Mint, next - Span(1), 1_000), 0);
    assert_eq!(burst(&mut allowance, Use::Mint, next, 1_000), 176);
    for usage in [Use::Delete, Use::Redeliver] {
        assert_eq!(burst(&mut Allowance::default(), usage, START, 1_000), 176, "{usage:?}: a write too");
    }
}

#[test]
fn any_minute_has_at_most_900_points_whatever_they_are_for() {
    let mut allowance = Allowance::default();
    let mut spent: Vec<(Time, usize)> = Vec::new();
    for second in 0..400 {
        let now = START + Span::secs(second);
        for (usage, points) in [(Use::Poll, 1), (Use::List { pages: 3 }, 3), (Use::Delete, 5), (Use::Mint, 5)] {
            spent.push((now, points * burst(&mut allowance, usage, now, 7)));
        }
        let minute: usize = spent.iter().filter(|(at, _)| now.since(*at) < MINUTE).map(|(_, points)| points).sum();
        assert!(minute <= 900, "{minute} points in the minute before second {second}");
    }
}

/// Calls under way for as long as any: GitHub counts each when it reaches it, which may be when it is answered.
#[test]
fn a_call_counts_from_when_it_is_made_until_a_minute_after_its_answer() {
    let governor = Governor::default();
    let mut allowance = Allowance::default();
    (0..90).for_each(|_| allowance.spend(Use::Mint, &governor, START));
    let late = START + Span::mins(3);
    (0..10).for_each(|_| say(&mut allowance, Use::Mint, None, None, late));
    assert_eq!(burst(&mut allowance.clone(), Use::Mint, late, 1_000), 86, "80 are under way, 10 have just been");
    (0..80).for_each(|_| say(&mut allowance, Use::Mint, None, None, late + Span::secs(10)));
    let first = late + Span(60_100);
    assert_eq!(burst(&mut allowance.clone(), Use::Mint, first - Span(1), 1_000), 86);
    assert_eq!(burst(&mut allowance, Use::Mint, first, 1_000), 96);
}

#[test]
fn with_as_much_under_way_as_a_minute_allows_only_an_answer_makes_room() {
    let governor = Governor::default();
    let mut allowance = Allowance::default();
    (0..8).for_each(|_| allowance.spend(Use::List { pages: 110 }, &governor, START));
    assert_eq!(allowance.ready_at(Use::Mint, &governor, START + Span::hours(1)), Time::NEVER);
    // More pages than were paid for are counted too.
    let longer = GitHubAnswer { result: Ok(()), budget: None, calls: 115 };
    let timeouts = Timeouts::default();
    allowance.answered(Use::List { pages: 110 }, &longer, (&governor, &timeouts), START + Span::hours(1));
    assert_eq!(burst(&mut allowance, Use::Mint, START + Span::hours(1) + Span(60_099), 1_000), 0);
    assert_eq!(burst(&mut allowance, Use::Mint, START + Span::hours(1) + Span(60_100), 1_000), 22);
}

/// While GitHub stands still, what it is sent lies there; all of it is counted when it goes on.
#[test]
fn what_was_given_up_without_an_answer_counts_until_a_minute_after_github_is_heard_again() {
    let governor = Governor::default();
    let mut allowance = Allowance::default();
    (0..80).for_each(|_| allowance.spend(Use::Mint, &governor, START));
    let lost = || Some(GitHubError::Unavailable { message: "no answer within 30 s".into() });
    (0..80).for_each(|_| say(&mut allowance, Use::Mint, lost(), None, START + Span::secs(30)));
    let heard = START + Span::secs(130);
    let silent = heard - Span(1);
    assert_eq!(
        burst(&mut allowance.clone(), Use::Mint, silent, 1_000),
        96,
        "as long as GitHub may be tried again later"
    );
    allowance.spend(Use::Mint, &governor, heard);
    say(&mut allowance, Use::Mint, None, None, heard);
    assert_eq!(burst(&mut allowance.clone(), Use::Mint, heard + Span(60_099), 1_000), 95);
    assert_eq!(burst(&mut allowance, Use::Mint, heard + Span(60_100), 1_000), 176);
}

#[test]
fn after_as_much_silence_as_a_minute_allows_one_call_at_a_time_tries() {
    let governor = Governor::default();
    let mut allowance = Allowance::default();
    let lost = || Some(GitHubError::Unavailable { message: "no answer within 30 s".into() });
    (0..176).for_each(|_| allowance.spend(Use::Mint, &governor, START));
    (0..176).for_each(|_| say(&mut allowance, Use::Mint, lost(), None, START));
    let next = allowance.blocked.until;
    assert!(allowance.is_ready(Use::Mint, &governor, next));
    allowance.spend(Use::Mint, &governor, next);
    assert!(!allowance.is_ready(Use::Mint, &governor, next) && !allowance.is_ready(Use::Poll, &governor, next));
    say(&mut allowance, Use::Mint, lost(), None, next);
    let third = allowance.blocked.until;
    assert!(third > next && allowance.is_ready(Use::Mint, &governor, third));
    // A minute that others have used up, which were answered, is no reason to try.
    let mut answered = Allowance::default();
    assert_eq!(burst(&mut answered, Use::Mint, START, 1_000), 176);
    answered.spend(Use::Mint, &governor, START);
    say(&mut answered, Use::Mint, lost(), None, START);
    assert!(!answered.is_ready(Use::Mint, &governor, answered.blocked.until));
    // Nothing is kept for ever of what GitHub never answers.
    assert_eq!(burst(&mut allowance.clone(), Use::Mint, START + Span::mins(3), 1_000), 175);
    assert!(!allowance.clone().is_ready(Use::Mint, &governor, third - Span(1)));
    allowance.spend(Use::Mint, &governor, third);
    say(&mut allowance, Use::Mint, None, None, third);
    assert_eq!(burst(&mut allowance, Use::Mint, third + Span(60_099), 1_000), 0);
}

#[test]
fn a_place_that_waits_keeps_no_points_and_what_is_not_made_gives_them_back() {
    let governor = Governor::default();
    let mut allowance = Allowance::default();
    (0..2).for_each(|_| allowance.spend(Use::Mint, &governor, START));
    (0..170).for_each(|_| allowance.inherit_worker(START, &governor, START));
    assert_eq!(allowance.open_points(), 10);
    assert_eq!(allowance.claim(Prepaid::Whole, &governor, START), START, "it is made now");
    assert_eq!(allowance.open_points(), 10);
    assert_eq!(burst(&mut allowance, Use::Mint, START, 1_000), 4);
    allowance.refund(Prepaid::Whole, &governor);
    assert_eq!((allowance.open_points(), allowance.in_flight), (5, 1));
    assert_eq!(burst(&mut allowance, Use::Mint, START, 1_000), 1);
    let later = START + Span::secs(61);
    assert_eq!(allowance.claim(Prepaid::Place, &governor, START), START + Span(60_100), "others have its points");
    assert_eq!((allowance.open_points(), allowance.in_flight), (5, 1));
    assert_eq!(allowance.claim(Prepaid::Place, &governor, later), later);
    assert_eq!(allowance.open_points(), 10);
    allowance.refund(Prepaid::Place, &governor);
    assert_eq!((allowance.open_points(), allowance.in_flight), (10, 0));
}

#[test]
fn what_an_earlier_leader_may_have_spent_is_spent() {
    let governor = Governor::default();
    let mut allowance = Allowance::default();
    // The reads of both shares: what they can save up, and what they gain in a minute.
    allowance.inherit_reads(&governor, START);
    (0..100).for_each(|second| allowance.inherit_worker(START - Span::secs(second), &governor, START));
    allowance.inherit_deletion(START - Span::secs(30), START);
    allowance.inherit_deletion(START - Span::secs(61), START);
    // 61 of the workers and one deletion are within the minute that GitHub counts.
    assert_eq!(burst(&mut allowance.clone(), Use::Mint, START, 1_000), (880 - 93 - 61 * 5 - 5) / 5);
    assert_eq!(burst(&mut allowance.clone(), Use::Mint, START + Span::secs(30), 1_000), (880 - 93 - 31 * 5 - 5) / 5);
    // The deletion may have been made just now, whenever its worker was failed.
    assert_eq!(burst(&mut allowance.clone(), Use::Mint, START + Span::secs(40), 1_000), (880 - 93 - 21 * 5 - 5) / 5);
    assert_eq!(burst(&mut allowance, Use::Mint, START + Span::secs(61), 1_000), 176);
    // A clock behind the earlier leader's: what is told from the future was just now.
    let mut ahead = Allowance::default();
    (0..176).for_each(|_| ahead.inherit_worker(START + Span::hours(1), &governor, START));
    assert_eq!(ahead.ready_at(Use::Mint, &governor, START), START + Span::secs(61));
}

/// A leader that finds `rows` and waiting jobs: how many runners it reserves at once, and after a minute.
fn reserved_by_a_new_leader(rows: Vec<Worker>) -> [usize; 2] {
    let mut policy = Policy::bare(Realm::Prod);
    policy.default_max_workers = None;
    let mut bench = Bench { snapshot: Snapshot::new(2, &policy), policy, ..Bench::new(0) };
    bench.nodes(2_000);
    for row in rows {
        bench.snapshot.apply(Change::Worker(row), START);
    }
    (0..1_000).for_each(|id| bench.snapshot.apply(Change::Job(job(id, 1)), START));
    bench.synced();
    bench.decide();
    bench.answer_reads();
    bench.decide();
    let at_once = bench.reservations().len();
    bench.later(Span::secs(61));
    bench.decide();
    [at_once, bench.reservations().len()]
}

#[test]
fn a_new_leader_spends_what_its_predecessor_left_of_the_minute() {
    let found = |count: usize, edit: fn(&mut Worker)| -> Vec<Worker> {
        let row = |i| {
            let mut row = worker(&format!("rise-riscv-runner-1-found{i:04}"), 1, START - Span::secs(100));
            edit(&mut row);
            row
        };
        (0..count).map(row).collect()
    };
    // As many as may be under way: less one for the listing of runners, where there is one.
    let many = Governor::default().in_flight as usize - 1;
    let before = reserved_by_a_new_leader(Vec::new())[0];
    assert!(before >= many, "{before}: most changes of leader are in no flood");
    let few = reserved_by_a_new_leader(found(60, |_| ()))[0];
    assert!(few >= many, "{few}");
    let spent = reserved_by_a_new_leader(found(150, |_| ()))[0];
    assert_eq!(spent, 6, "the JIT call of a pending worker may have been a moment ago");
    for (ago, left) in [(60, 6), (61, many)] {
        let mut rows = found(150, |row| row.status = Status::Running);
        rows.iter_mut().for_each(|row| row.running_at = Some(START - Span::secs(ago)));
        assert_eq!(reserved_by_a_new_leader(rows)[0], left, "it was before the pod ran, {ago} s ago");
    }
    let failed = reserved_by_a_new_leader(found(75, |row| {
        row.status = Status::Failed;
        row.failure = Some(engine::decision::WorkerFailure::Surplus);
        row.completed_at = Some(START - Span::secs(10));
    }));
    assert_eq!(failed[0], 7, "a JIT call and a deletion each");
    assert!(failed[1] >= many, "{failed:?}: and all of it again a minute later");
}

#[test]
fn polls_and_listings_have_shares_of_the_hour_and_save_up_only_a_few() {
    let answered = || {
        let mut allowance = Allowance::default();
        say(&mut allowance, Use::Poll, None, None, START);
        allowance
    };
    assert_eq!(burst(&mut answered(), Use::Poll, START, 1_000), 30);
    assert_eq!(pace(&mut answered(), Use::Poll, 3_600), 30 + 1_249, "a quarter of 5,000");
    assert_eq!(pace(&mut answered(), Use::List { pages: 1 }, 3_600), 30 + 749, "three twentieths");
    let mut told = Allowance::default();
    say(&mut told, Use::Poll, None, budget(12_500, 12_000, 60), START);
    assert_eq!(pace(&mut told, Use::Poll, 3_600), 30 + 3_124, "a quarter of what GitHub has told");
    let mut long = answered();
    assert_eq!(burst(&mut long, Use::List { pages: 100 }, START, 10), 1, "more pages than can be saved up for");
    let pages = pace(&mut long, Use::List { pages: 100 }, 3_600) * 100;
    assert!((700..=800).contains(&pages), "{pages} pages an hour all the same");
}

/// What an earlier listing cost, the lookup of its runner group included, is what the next one is estimated at.
#[test]
fn a_listing_gives_back_what_it_has_not_used_of_its_share() {
    let (governor, timeouts) = (Governor::default(), Timeouts::default());
    let usage = Use::List { pages: 4 };
    // 55 calls an hour of 371, of which two and a bit are saved up: a longer listing waits for all of that.
    let one = 3_600_000 / 55 + 1;
    for (calls, waits) in [(4, 4 * 3_600_000 / 55 + 1), (1, one), (0, 0), (6, 4 * 3_600_000 / 55 + 1)] {
        let mut allowance = Allowance::default();
        say(&mut allowance, Use::Poll, None, budget(371, 371, 60), START);
        assert!(allowance.is_ready(usage, &governor, START));
        allowance.spend(usage, &governor, START);
        let torn = GitHubAnswer::<()> { result: Err(GitHubError::Torn), budget: None, calls };
        allowance.answered(usage, &torn, (&governor, &timeouts), START);
        assert_eq!(allowance.ready_at(usage, &governor, START), START + Span(waits), "{calls} calls of 4");
    }
}

#[test]
fn reads_stop_where_the_reserve_begins_and_provisioning_goes_on_to_the_last_call() {
    let governor = Governor::default();
    let reset = START + Span::mins(20);
    let cases = [(1_501, true, true), (1_500, false, true), (1, false, true), (0, false, false)];
    for (remaining, reads, writes) in cases {
        let mut allowance = Allowance::default();
        allowance.in_flight = 1;
        say(&mut allowance, Use::Poll, None, budget(5_000, remaining, 20), START);
        for usage in [Use::Poll, Use::List { pages: 1 }] {
            let expected = if reads { START } else { reset };
            assert_eq!(allowance.ready_at(usage, &governor, START), expected, "{usage:?} with {remaining}");
        }
        for usage in [Use::Proof { pages: 1 }, Use::Mint, Use::Delete, Use::Redeliver] {
            let expected = if writes { START } else { reset };
            assert_eq!(allowance.ready_at(usage, &governor, START), expected, "{usage:?} with {remaining}");
        }
        assert!(allowance.is_ready(Use::Poll, &governor, reset), "a new hour");
    }
}

#[test]
fn what_frees_a_board_is_read_from_the_reserve_and_leaves_most_of_it_to_provision_with() {
    let mut allowance = Allowance::default();
    say(&mut allowance, Use::Poll, None, budget(5_000, 1_000, 60), START);
    assert_eq!(pace(&mut allowance.clone(), Use::List { pages: 1 }, 3_600), 0);
    let read = pace(&mut allowance, Use::Proof { pages: 1 }, 3_599);
    assert!((100..600).contains(&read), "{read} of 1,000");
}

#[test]
fn what_is_spent_counts_before_it_is_answered_and_late_answers_give_nothing_back() {
    let mut allowance = Allowance::default();
    say(&mut allowance, Use::Poll, None, budget(5_000, 10, 20), START);
    assert_eq!(burst(&mut allowance, Use::Mint, START, 100), 10);
    say(&mut allowance, Use::Poll, None, budget(5_000, 10, 20), START);
    assert_eq!(burst(&mut allowance, Use::Mint, START, 100), 0, "an answer that was overtaken");
    // It tells of the hour's end by this machine's clock, and was longer on its way.
    let later = budget(5_000, 30, 20).map(|told| Budget { reset_at: told.reset_at + Span::secs(3), ..told });
    say(&mut allowance, Use::Poll, None, later, START);
    assert_eq!(burst(&mut allowance, Use::Mint, START, 100), 0, "another that was overtaken");
    say(&mut allowance, Use::Poll, None, budget(5_000, 5_000, 10), START);
    assert_eq!(burst(&mut allowance, Use::Mint, START, 100), 0, "one of an earlier hour");
    say(&mut allowance, Use::Poll, None, budget(5_000, 4, 80), START + Span::mins(21));
    assert_eq!(burst(&mut allowance, Use::Mint, START + Span::mins(21), 100), 4, "one of the next");
}

const ALL: [Use; 5] = [Use::Poll, Use::List { pages: 1 }, Use::Mint, Use::Delete, Use::Redeliver];

#[test]
fn after_a_refusal_nothing_is_asked_before_the_time_given() {
    let governor = Governor::default();
    let until = START + Span::mins(7);
    let mut allowance = Allowance::default();
    say(&mut allowance, Use::Poll, Some(GitHubError::RateLimited { until: Some(until) }), None, START);
    let earlier = Some(START + MINUTE);
    say(&mut allowance, Use::Poll, Some(GitHubError::RateLimited { until: earlier }), None, START);
    for usage in ALL {
        assert_eq!(allowance.ready_at(usage, &governor, START), until, "{usage:?}");
        assert_eq!(allowance.ready_at(usage, &governor, Time(until.0 - 1)), until, "{usage:?}");
        assert!(allowance.is_ready(usage, &governor, until), "{usage:?}");
    }
}

#[test]
fn after_a_refusal_without_a_time_one_call_tries_whether_it_is_over() {
    let governor = Governor::default();
    let mut allowance = Allowance::default();
    say(&mut allowance, Use::Poll, Some(GitHubError::RateLimited { until: None }), None, START);
    let over = START + MINUTE;
    for usage in ALL {
        assert_eq!(allowance.ready_at(usage, &governor, START), over, "{usage:?}");
    }
    allowance.spend(Use::Mint, &governor, over);
    for usage in ALL {
        assert_eq!(allowance.ready_at(usage, &governor, over), Time::NEVER, "{usage:?}");
    }
    say(&mut allowance, Use::Poll, None, None, over);
    for usage in ALL {
        assert!(allowance.is_ready(usage, &governor, over), "{usage:?}");
    }
}

#[test]
fn a_refusal_without_a_time_costs_a_minute_and_each_further_one_twice_as_long() {
    let refusal = GitHubError::RateLimited { until: None };
    let mut allowance = Allowance::default();
    let mut now = START;
    for minutes in [1, 2, 4, 8, 16, 32, 32] {
        say(&mut allowance, Use::Poll, Some(refusal.clone()), None, now);
        say(&mut allowance, Use::Poll, Some(refusal.clone()), None, now);
        assert_eq!(allowance.blocked.until, now + Span::mins(minutes), "a burst's refusals count once");
        now = allowance.blocked.until;
    }
    say(&mut allowance, Use::Poll, None, None, now);
    say(&mut allowance, Use::Poll, Some(refusal.clone()), None, now);
    assert_eq!(allowance.blocked.until, now + MINUTE, "after a success from the beginning");
}

/// An outage's pause, or one because the time that was named had passed, is no pause for what is refused meanwhile.
#[test]
fn a_refusal_without_a_time_costs_its_minute_whatever_shorter_pause_runs() {
    let silence = GitHubError::Unavailable { message: "502".into() };
    let passed = GitHubError::RateLimited { until: Some(START - Span::secs(20)) };
    for first in [silence, passed] {
        let mut allowance = Allowance::default();
        say(&mut allowance, Use::Poll, Some(first.clone()), None, START);
        assert_eq!(allowance.blocked.until, START + Span::secs(5), "{first:?}");
        for _ in 0..3 {
            say(&mut allowance, Use::Poll, Some(GitHubError::RateLimited { until: None }), None, START + Span::secs(1));
        }
        assert_eq!(allowance.blocked.until, START + Span::secs(1) + MINUTE, "{first:?}");
    }
}

/// This clock is ahead of GitHub's.
#[test]
fn a_refusal_whose_time_has_passed_is_tried_again_by_one_call_ever_more_rarely() {
    let governor = Governor::default();
    let refusal = GitHubError::RateLimited { until: Some(START - Span::secs(20)) };
    let mut allowance = Allowance::default();
    let mut now = START;
    for seconds in [5, 10, 20, 40, 60, 60] {
        say(&mut allowance, Use::Poll, Some(refusal.clone()), None, now);
        assert_eq!(allowance.blocked.until, now + Span::secs(seconds));
        now = allowance.blocked.until;
        allowance.spend(Use::Mint, &governor, now);
        assert_eq!(allowance.ready_at(Use::Mint, &governor, now), Time::NEVER, "the others wait for its answer");
    }
    say(&mut allowance, Use::Poll, None, None, now);
    assert!(allowance.is_ready(Use::Mint, &governor, now));
}

#[test]
fn silence_costs_growing_pauses_and_what_github_says_of_one_thing_costs_none() {
    let mut allowance = Allowance::default();
    let mut now = START;
    for seconds in [5, 10, 20, 40, 60, 60] {
        say(&mut allowance, Use::Poll, Some(GitHubError::Unavailable { message: "away".into() }), None, now);
        assert_eq!(allowance.blocked.until, now + Span::secs(seconds));
        now = allowance.blocked.until;
    }
    for error in [
        GitHubError::NotFound,
        GitHubError::NameTaken,
        GitHubError::RunnerBusy,
        GitHubError::Torn,
        GitHubError::Refused { status: 422, message: "no".into() },
    ] {
        let mut allowance = Allowance::default();
        say(&mut allowance, Use::Poll, Some(error.clone()), None, START);
        assert_eq!(allowance.blocked, Backoff::default(), "{error:?}");
    }
}

#[test]
fn no_more_than_90_calls_are_under_way() {
    let governor = Governor::default();
    let mut allowance = Allowance::default();
    for _ in 0..90 {
        assert!(allowance.is_ready(Use::Mint, &governor, START));
        allowance.spend(Use::Mint, &governor, START);
    }
    assert_eq!(allowance.ready_at(Use::Mint, &governor, START), Time::NEVER);
    say(&mut allowance, Use::Poll, None, None, START);
    assert!(allowance.is_ready(Use::Mint, &governor, START));
}

/// An organisation whose jobs all start at once and run for the whole hour, with a model of GitHub that answers at
/// once: calls by what they were for, in pages.
fn hour_of(jobs: i64, minutes: i64) -> [u32; 4] {
    let mut bench = Bench::new(jobs as u32);
    bench.policy.default_max_workers = None;
    for id in 1..=jobs {
        bench.snapshot.apply(Change::Job(job(id, 1)), START);
    }
    let mut runners: Vec<Runner> = Vec::new();
    let (mut waiting, mut calls) = ((1..=jobs).collect::<std::collections::VecDeque<_>>(), [0; 4]);
    for _ in 0..minutes * 4 {
        // Each step: decide and answer until there is nothing left to answer.
        loop {
            let chosen = engine::decide::decide(&mut bench.snapshot, &bench.policy, bench.now).actions;
            if chosen.is_empty() {
                break;
            }
            let now = bench.now;
            let mut more = Vec::new();
            for chosen in chosen {
                let outcome = match chosen.action {
                    Action::Write { .. } => Outcome::Written(Ok(Written::Done)),
                    Action::MintJit(worker) => {
                        calls[0] += 1;
                        runners.push(Runner {
                            id: RunnerId(runners.len() as i64 + 1),
                            name: worker.name.text().clone(),
                            online: true,
                            busy: true,
                        });
                        Outcome::JitMinted(ok(Minted { runner: RunnerId(runners.len() as i64) }))
                    }
                    Action::CreatePod(worker) => {
                        let name = worker.name.as_str();
                        more.push(Change::PodSeen(pod(name, PodPhase::Running, now)));
                        if let Some(id) = waiting.pop_front() {
                            let assignment = on(name, now);
                            more.push(Change::Job(Job { status: Status::Running, assignment, ..job(id, 1) }));
                        }
                        Outcome::PodCreated(Ok(pod(name, PodPhase::Pending, now)))
                    }
                    Action::CreateSecret { .. } => Outcome::SecretCreated(Ok(())),
                    Action::PollJob { id, .. } => {
                        calls[1] += 1;
                        let view = if waiting.contains(&id.0) {
                            JobView::Queued { said_at: Some(now) }
                        } else {
                            JobView::InProgress { assignment: None }
                        };
                        Outcome::JobPolled { asked_at: now, answer: ok(view) }
                    }
                    Action::ListRunners(_) => {
                        // All pages but the last are read twice.
                        let pages = 2 * (runners.len() as u32).div_ceil(100).max(1) - 1;
                        calls[2] += pages;
                        let listing = RunnerListing { asked_at: now, runners: runners.clone() };
                        Outcome::RunnersListed(GitHubAnswer { calls: pages, ..ok(listing) })
                    }
                    Action::DeleteRunner { .. } => {
                        calls[3] += 1;
                        Outcome::RunnerDeleted(refused(GitHubError::RunnerBusy))
                    }
                    Action::ListDeliveries { .. } => Outcome::DeliveriesListed(ok(Vec::new())),
                    Action::DeletePod { .. } | Action::ListPods | Action::Redeliver { .. } => Outcome::Lost,
                };
                bench.snapshot.apply(Change::Outcome { action: chosen.id, outcome }, now);
            }
            for change in more {
                bench.snapshot.apply(change, now);
            }
        }
        bench.later(Span::secs(15));
    }
    assert!(waiting.is_empty(), "{} jobs have no runner after {minutes} minutes", waiting.len());
    calls
}

#[test]
fn a_thousand_active_jobs_cost_less_than_half_of_the_hourly_limit_in_polls_and_listings() {
    let [mints, polls, lists, deletes] = hour_of(1_000, 60);
    eprintln!("mints {mints}, polls {polls}, pages of listings {lists}, deletions {deletes}");
    assert_eq!((mints, deletes), (1_000, 0));
    assert!(polls + lists < 2_500, "{polls} polls and {lists} pages");
}

#[test]
fn a_burst_of_jobs_costs_at_most_two_and_a_half_calls_each() {
    let jobs = 800;
    let [mints, polls, lists, deletes] = hour_of(i64::from(jobs), 10);
    let all = mints + polls + lists + deletes;
    eprintln!("mints {mints}, polls {polls}, pages of listings {lists}, deletions {deletes}");
    assert!(f64::from(all) <= 2.5 * f64::from(jobs), "{all} calls for {jobs} jobs");
}

#[test]
fn the_first_reading_asks_what_is_left_and_the_others_wait_for_its_answer() {
    let governor = Governor::default();
    let mut allowance = Allowance::default();
    allowance.spend(Use::Poll, &governor, START);
    for usage in [Use::Poll, Use::List { pages: 1 }] {
        assert_eq!(allowance.ready_at(usage, &governor, START), Time::NEVER, "{usage:?}");
    }
    for usage in [Use::Mint, Use::Delete, Use::Redeliver] {
        assert!(allowance.is_ready(usage, &governor, START), "{usage:?}: a job does not wait for it");
    }
    // Nothing told is an answer too: not every server limits its callers.
    say(&mut allowance, Use::Poll, None, None, START);
    assert!(
        allowance.is_ready(Use::Poll, &governor, START) && allowance.is_ready(Use::List { pages: 1 }, &governor, START)
    );
}

/// Leaders that follow each other every 20 s, each with its own count of what it has read and as much to read as it may.
#[test]
fn leaders_in_a_row_do_not_read_until_nothing_is_left() {
    let governor = Governor::default();
    // The reserve, but for the first reading of each, which is made before GitHub has told.
    for (limit, kept) in [(400, 0), (5_000, 1_400)] {
        let reset = START + Span::hours(1);
        let (mut remaining, mut read) = (limit, Vec::new());
        for leader in 0..165 {
            let (mut allowance, before) = (Allowance::default(), remaining);
            for second in 0..20 {
                let now = START + Span::secs(leader * 20 + second);
                for usage in [Use::List { pages: 1 }, Use::Poll].repeat(60) {
                    if remaining > 0 && allowance.is_ready(usage, &governor, now) {
                        allowance.spend(usage, &governor, now);
                        remaining -= 1;
                        say(&mut allowance, Use::Poll, None, Some(Budget { limit, remaining, reset_at: reset }), now);
                    }
                }
            }
            read.push(before - remaining);
        }
        assert!(read.iter().all(|&calls| calls > 0), "{limit}: each reads something: {read:?}");
        assert!(remaining >= kept, "{limit}: {remaining} remain");
    }
}

#[test]
fn while_the_app_is_suspended_one_read_at_a_time_asks_and_no_runner_is_made() {
    let governor = Governor::default();
    let mut allowance = Allowance::default();
    allowance.spend(Use::Mint, &governor, START);
    // Two thirds of the hour are used up: reads that are not needed stop there.
    let told = budget(5_000, 10, 50);
    say(&mut allowance, Use::Poll, Some(GitHubError::InstallationSuspended), told, START);
    for silence in [GitHubError::Unavailable { message: "502".into() }, GitHubError::RateLimited { until: None }] {
        let mut allowance = allowance.clone();
        allowance.spend(Use::Delete, &governor, START);
        say(&mut allowance, Use::Poll, Some(silence.clone()), None, START);
        assert!(allowance.is_suspended(), "{silence:?} says nothing of it");
    }
    let now = allowance.blocked.until + Span::mins(2);
    assert_eq!(allowance.ready_at(Use::Mint, &governor, now), Time::NEVER);
    assert_eq!(allowance.claim(Prepaid::Whole, &governor, now), Time::NEVER);
    assert!(allowance.is_ready(Use::Poll, &governor, now), "from the reserve too");
    allowance.spend(Use::Poll, &governor, now);
    assert_eq!(allowance.ready_at(Use::Poll, &governor, now), Time::NEVER, "one at a time");
    say(&mut allowance, Use::Poll, None, None, now);
    assert!(!allowance.is_suspended() && allowance.is_ready(Use::Mint, &governor, now));
}
