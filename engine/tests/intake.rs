//! From a delivery's body to a job event, and the lattice in which any order of events meets.

use std::collections::BTreeSet;

use engine::{
    decision::JobFailure,
    facts::*,
    ids::*,
    intake::*,
    labels::{LabelRule, LabelSet, Matcher, Source},
    policy::Policy,
    rows::Rows,
};
use proptest::prelude::*;

const NOW: Time = Time(1_800_000_000_000);

fn policy() -> Policy {
    let mut policy = Policy::bare(Realm::Prod);
    let rule = |matcher| LabelRule {
        source: Source::Everybody,
        matchers: vec![matcher],
        pool: Pool::from("pool"),
        image: Image::from("ubuntu-24.04"),
    };
    policy.label_rules =
        vec![rule(Matcher::Exactly("riscv".into())), rule(Matcher::AnyContaining("linux.riscv64".into()))];
    policy
}

/// A delivery as GitHub sends it for an organisation's job.
fn body(action: &str) -> WorkflowJob<'_> {
    let started = action != "queued";
    WorkflowJob {
        action,
        job_id: Some(11),
        html_url: Some("https://github.com/acme/app/actions/runs/1/job/11"),
        labels: vec!["RISCV"],
        created_at: Some(Time(NOW.0 - 60_000)),
        started_at: Some(Time(NOW.0 - 30_000)),
        completed_at: (action == "completed").then_some(Time(NOW.0 - 1_000)),
        runner_name: started.then_some("rise-riscv-runner-21-abcdefghi"),
        repo_id: Some(31),
        repo_full_name: Some("acme/app"),
        owner_id: Some(21),
        owner_login: Some("acme"),
        owner_type: Some("Organization"),
        installation_id: Some(41),
    }
}

fn recorded(body: &WorkflowJob<'_>) -> Job {
    match read(body, &policy(), NOW) {
        Ok(Intake::Record(job)) => job,
        other => panic!("expected a job, got {other:?} for {body:#?}"),
    }
}

#[test]
fn each_action_leaves_the_row_that_it_alone_would_leave() {
    let assigned =
        Some(Assignment { started_at: Time(NOW.0 - 30_000), runner: "rise-riscv-runner-21-abcdefghi".into() });
    let queued = recorded(&body("queued"));
    let expected = Job {
        id: JobId(11),
        status: Status::Pending,
        entity: EntityId(21),
        entity_name: "acme".into(),
        entity_type: EntityType::Organization,
        owner: OwnerId(21),
        repo: "acme/app".into(),
        installation: InstallationId(41),
        labels: LabelSet::new(["riscv"]),
        pool: Pool::from("pool"),
        image: Image::from("ubuntu-24.04"),
        html_url: Some("https://github.com/acme/app/actions/runs/1/job/11".into()),
        created_at: Time(NOW.0 - 60_000),
        assignment: None,
        completed_at: None,
        requeued_at: None,
        failure: None,
    };
    assert_eq!(queued, expected);
    let running = Job { status: Status::Running, assignment: assigned.clone(), ..expected.clone() };
    assert_eq!(recorded(&body("in_progress")), running);
    let completed_at = Some(Time(NOW.0 - 1_000));
    let completed = Job { status: Status::Completed, assignment: assigned, completed_at, ..expected };
    assert_eq!(recorded(&body("completed")), completed);
}

type Edit = fn(&mut WorkflowJob<'_>);

#[test]
fn what_a_delivery_leaves_out_is_made_good_where_it_can_be() {
    type Case<'a> = (&'a str, &'a str, Edit, fn(&Job) -> bool);
    let cases: &[Case<'_>] = &[
        (
            "a user's job is its repository's",
            "queued",
            |b| b.owner_type = Some("User"),
            |job| job.entity == EntityId(31) && job.owner == OwnerId(21) && job.entity_type == EntityType::User,
        ),
        (
            "a queued job's runner means nothing",
            "queued",
            |b| b.runner_name = Some("x"),
            |job| job.assignment.is_none(),
        ),
        (
            "cancelled before it started: no runner",
            "completed",
            |b| b.runner_name = None,
            |job| job.assignment.is_none(),
        ),
        (
            "cancelled before it started: an empty one",
            "completed",
            |b| b.runner_name = Some(""),
            |job| job.assignment.is_none() && job.status == Status::Completed,
        ),
        (
            "no start: creation stands for it",
            "in_progress",
            |b| b.started_at = None,
            |job| job.assignment.as_ref().is_some_and(|it| it.started_at == Time(NOW.0 - 60_000)),
        ),
        (
            "neither start nor creation",
            "in_progress",
            |b| (b.started_at, b.created_at) = (None, None),
            |job| job.assignment.is_none() && job.created_at == NOW,
        ),
        ("no creation: when it was received", "queued", |b| b.created_at = None, |job| job.created_at == NOW),
        ("no end: when it was received", "completed", |b| b.completed_at = None, |job| job.completed_at == Some(NOW)),
        (
            "an end before its end means nothing",
            "in_progress",
            |b| b.completed_at = Some(NOW),
            |job| job.completed_at.is_none(),
        ),
        ("no installation", "in_progress", |b| b.installation_id = None, |job| job.installation == InstallationId(0)),
        ("a negative one", "completed", |b| b.installation_id = Some(-1), |job| job.installation == InstallationId(0)),
        (
            "no login: the repository's owner",
            "in_progress",
            |b| b.owner_login = None,
            |job| &*job.entity_name == "acme",
        ),
        ("an empty one", "completed", |b| b.owner_login = Some(""), |job| &*job.entity_name == "acme"),
        ("no page", "in_progress", |b| b.html_url = None, |job| job.html_url.is_none()),
        ("an empty page", "completed", |b| b.html_url = Some(""), |job| job.html_url.is_none()),
    ];
    for (name, action, edit, holds) in cases {
        let mut body = body(action);
        edit(&mut body);
        let job = recorded(&body);
        assert!(holds(&job), "{name}: {job:#?}");
    }
}

#[test]
fn what_is_not_ours_to_record_is_ignored() {
    for action in ["waiting", "", "deleted", "QUEUED"] {
        assert_eq!(read(&body(action), &policy(), NOW), Ok(Intake::Ignore(Ignored::Action)), "{action:?}");
    }
    let long = "x".repeat(MAX_LABEL_BYTES + 1);
    for labels in [vec![], vec!["ubuntu-latest"], vec!["riscv", "gpu"], vec![""], vec![&long], vec!["\0"]] {
        let body = WorkflowJob { labels: labels.clone(), ..body("queued") };
        assert_eq!(read(&body, &policy(), NOW), Ok(Intake::Ignore(Ignored::Labels)), "{labels:?}");
    }
}

#[test]
fn what_is_needed_and_not_there_is_refused_by_name() {
    let all = ["queued", "in_progress", "completed"];
    let queued = &all[..1];
    let cases: &[(&str, &[&str], Edit)] = &[
        ("workflow_job.id", &all, |b| b.job_id = None),
        ("repository.id", &all, |b| b.repo_id = None),
        ("repository.full_name", &all, |b| b.repo_full_name = None),
        ("repository.full_name", &all, |b| b.repo_full_name = Some("")),
        ("repository.owner.id", &all, |b| b.owner_id = None),
        ("repository.owner.type", &all, |b| b.owner_type = None),
        ("repository.owner.type", &all, |b| b.owner_type = Some("")),
        ("installation.id", queued, |b| b.installation_id = None),
        ("repository.owner.login", queued, |b| b.owner_login = None),
        ("repository.owner.login", queued, |b| b.owner_login = Some("")),
        ("workflow_job.html_url", queued, |b| b.html_url = None),
        ("workflow_job.html_url", queued, |b| b.html_url = Some("")),
    ];
    for (field, actions, edit) in cases {
        for action in *actions {
            let mut body = body(action);
            edit(&mut body);
            assert_eq!(read(&body, &policy(), NOW), Err(Rejected::Missing(field)), "{action}");
        }
    }
}

#[test]
fn what_no_row_could_hold_is_refused_with_what_to_do() {
    let text = "x".repeat(MAX_TEXT_BYTES + 1);
    let label = format!("linux.riscv64{}", "x".repeat(MAX_LABEL_BYTES));
    let many = vec!["riscv"; MAX_LABELS + 1];
    let queued = body("queued");
    let cases: &[(WorkflowJob<'_>, Rejected, &str)] = &[
        (
            WorkflowJob { job_id: Some(0), ..queued.clone() },
            Rejected::NotPositive("workflow_job.id"),
            "workflow_job.id must be a whole number from 1 to 9223372036854775807",
        ),
        (
            WorkflowJob { owner_id: Some(-3), ..queued.clone() },
            Rejected::NotPositive("repository.owner.id"),
            "repository.owner.id must be a whole number from 1 to 9223372036854775807",
        ),
        (
            WorkflowJob { repo_id: Some(i64::MIN), ..queued.clone() },
            Rejected::NotPositive("repository.id"),
            "repository.id must be a whole number from 1 to 9223372036854775807",
        ),
        (
            WorkflowJob { installation_id: Some(0), ..queued.clone() },
            Rejected::NotPositive("installation.id"),
            "installation.id must be a whole number from 1 to 9223372036854775807",
        ),
        (
            WorkflowJob { owner_type: Some("Bot"), ..queued.clone() },
            Rejected::OwnerType("Bot".into()),
            "repository.owner.type is \"Bot\", expected \"Organization\" or \"User\"",
        ),
        (
            WorkflowJob { labels: many.clone(), ..queued.clone() },
            Rejected::TooManyLabels(101),
            "workflow_job.labels has 101 entries, at most 100",
        ),
        (
            WorkflowJob { labels: vec![&label], ..queued.clone() },
            Rejected::TooLong("workflow_job.labels", 2_061, 2_048),
            "workflow_job.labels has 2061 bytes, at most 2048",
        ),
        (
            WorkflowJob { labels: vec!["linux.riscv64\0"], ..queued.clone() },
            Rejected::Nul("workflow_job.labels"),
            "workflow_job.labels holds a NUL character",
        ),
        (
            WorkflowJob { repo_full_name: Some(&text), ..queued.clone() },
            Rejected::TooLong("repository.full_name", 1_025, 1_024),
            "repository.full_name has 1025 bytes, at most 1024",
        ),
        (
            WorkflowJob { owner_login: Some("a\0"), ..queued.clone() },
            Rejected::Nul("repository.owner.login"),
            "repository.owner.login holds a NUL character",
        ),
        (
            WorkflowJob { owner_login: Some("an org"), ..queued.clone() },
            Rejected::NotAName("repository.owner.login"),
            "repository.owner.login is no name of GitHub's: letters, digits, \"-\", \"_\" and \".\" alone",
        ),
        (
            WorkflowJob { repo_full_name: Some("../../user?x=1#"), ..queued.clone() },
            Rejected::NotAName("repository.full_name"),
            "repository.full_name is no name of GitHub's: letters, digits, \"-\", \"_\" and \".\" alone",
        ),
        (
            WorkflowJob { html_url: Some(&text), ..queued.clone() },
            Rejected::TooLong("workflow_job.html_url", 1_025, 1_024),
            "workflow_job.html_url has 1025 bytes, at most 1024",
        ),
        (
            WorkflowJob { runner_name: Some("\0"), ..body("completed") },
            Rejected::Nul("workflow_job.runner_name"),
            "workflow_job.runner_name holds a NUL character",
        ),
        (
            WorkflowJob { created_at: Some(Time(-1)), ..queued.clone() },
            Rejected::TooEarly("workflow_job.created_at"),
            "workflow_job.created_at lies before 1970",
        ),
        (
            WorkflowJob { started_at: Some(Time(-1)), ..body("in_progress") },
            Rejected::TooEarly("workflow_job.started_at"),
            "workflow_job.started_at lies before 1970",
        ),
        (
            WorkflowJob { completed_at: Some(Time(i64::MIN)), ..body("completed") },
            Rejected::TooEarly("workflow_job.completed_at"),
            "workflow_job.completed_at lies before 1970",
        ),
    ];
    for (body, expected, says) in cases {
        assert_eq!(read(body, &policy(), NOW), Err(expected.clone()));
        assert_eq!(expected.to_string(), *says);
    }
    for odd in
        ["org", "org/", "/repo", "org/..", "./repo", "org/repo/x", "org/\"><script>", "org/a b", "org/é", "o%2fg/x"]
    {
        let body = WorkflowJob { repo_full_name: Some(odd), ..queued.clone() };
        assert_eq!(read(&body, &policy(), NOW), Err(Rejected::NotAName("repository.full_name")), "{odd}");
    }
    for fine in ["org/.github", "A_b-c/d.e_f-0", "o/..."] {
        let body = WorkflowJob { repo_full_name: Some(fine), ..queued.clone() };
        assert_eq!(read(&body, &policy(), NOW).is_ok(), fine != "o/...", "{fine}");
    }
    assert_eq!(Rejected::Missing("x").to_string(), "x is missing or empty");
    // As many and as long as allowed are fine.
    let label = format!("linux.riscv64{}", "x".repeat(MAX_LABEL_BYTES - 13));
    for labels in [vec!["riscv"; MAX_LABELS], vec![&*label]] {
        recorded(&WorkflowJob { labels, ..queued.clone() });
    }
}

#[test]
fn an_installations_end_fails_its_jobs_and_nothing_else_does() {
    let cases = [
        ("deleted", Some(JobFailure::InstallationGone)),
        ("suspend", None),
        ("created", None),
        ("unsuspend", None),
        ("new_permissions_accepted", None),
        ("", None),
    ];
    for (action, expected) in cases {
        assert_eq!(installation(action), expected, "{action:?}");
    }
}

/// What deliveries of one job may differ in; a poll's writes join in by the same rules.
fn event() -> impl Strategy<Value = Job> {
    let action = prop_oneof![Just("queued"), Just("in_progress"), Just("completed")];
    let runner = proptest::option::of(prop_oneof![Just("r1"), Just("r2"), Just("")]);
    let time = || proptest::option::of((0..4i64).prop_map(|i| Time(NOW.0 + i)));
    let installation = proptest::option::of(41..43i64);
    // Renamed, its owner or itself, back or forth.
    let name = prop_oneof![Just(("acme", "acme/app")), Just(("acme", "acme/bar")), Just(("zen", "zen/app"))];
    (action, runner, [time(), time(), time()], installation, any::<bool>(), name).prop_map(
        |(action, runner_name, [created_at, started_at, completed_at], installation_id, page, (owner, repo))| {
            let queued = action == "queued";
            recorded(&WorkflowJob {
                runner_name,
                created_at,
                started_at,
                completed_at,
                installation_id: if queued { installation_id.or(Some(41)) } else { installation_id },
                html_url: if page || queued { Some("https://github.com/acme/app/job/11") } else { None },
                owner_login: Some(owner),
                repo_full_name: Some(repo),
                ..body(action)
            })
        },
    )
}

fn row(events: impl IntoIterator<Item = Job>) -> Job {
    let mut rows = Rows::default();
    let mut last = None;
    for event in events {
        rows.record(event);
        let status = rows.job(JobId(11)).map(|job| job.status);
        assert!(status >= last, "S2: {last:?} became {status:?}");
        last = status;
    }
    rows.job(JobId(11)).expect("something was recorded").clone()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_order_and_any_repetition_leads_to_the_same_row(
        (events, shuffled, again) in proptest::collection::vec(event(), 1..7).prop_flat_map(|events| {
            let again = proptest::sample::subsequence(events.clone(), 0..=events.len());
            (Just(events.clone()), Just(events).prop_shuffle(), again)
        }),
    ) {
        let expected = row(events.clone());
        prop_assert_eq!(&row(shuffled.iter().cloned()), &expected, "another order");
        prop_assert_eq!(&row(again.iter().chain(&shuffled).chain(&again).cloned()), &expected, "some more than once");
        prop_assert_eq!(Some(expected.status), events.iter().map(|event| event.status).max());
        let created: BTreeSet<Time> = events.iter().map(|event| event.created_at).collect();
        prop_assert_eq!(Some(&expected.created_at), created.first());
        prop_assert_eq!(expected.completed_at.is_some(), expected.status == Status::Completed);
    }

    #[test]
    fn join_commutes_associates_and_repeats(a in event(), b in event(), c in event()) {
        prop_assert_eq!(join(&a, &a), a.clone());
        prop_assert_eq!(join(&a, &b), join(&b, &a));
        prop_assert_eq!(join(&join(&a, &b), &c), join(&a, &join(&b, &c)));
        prop_assert_eq!(join(&join(&a, &b), &b), join(&a, &b));
    }

    #[test]
    fn a_failed_job_stays_failed_whatever_is_delivered(events in proptest::collection::vec(event(), 0..5)) {
        let mut rows = Rows::default();
        rows.record(recorded(&body("queued")));
        rows.fail_installation(InstallationId(41), JobFailure::InstallationGone, NOW);
        for event in events {
            rows.record(event);
            let job = rows.job(JobId(11)).expect("it was recorded");
            prop_assert_eq!((job.status, job.failure), (Status::Failed, Some(JobFailure::InstallationGone)));
        }
    }
}
