//! From a webhook's body to a job event: its JSON read, its meaning, and the lattice join with what is known.

/// How ghfe reads a body. The file itself, without the clients that its crate comes with.
#[allow(dead_code, reason = "what ghfe alone asks of it")]
#[path = "../../adapters/src/ghfe/body.rs"]
mod body;

use std::hint::black_box;

use benches::{NOW, policy};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use engine::{
    facts::Job,
    ids::{Image, Pool},
    intake::{Intake, WorkflowJob, join, read},
    labels::{LabelRule, Matcher, Source},
    policy::Policy,
};

/// A delivery as GitHub sent it.
const QUEUED: &str = include_str!("../../sim/fixtures/webhooks/workflow_job.queued-organization.json");

fn rules() -> Policy {
    let mut policy = policy();
    policy.label_rules = vec![LabelRule {
        source: Source::Everybody,
        matchers: vec![Matcher::Exactly("ubuntu-24.04-riscv".into())],
        pool: Pool::from("scw-em-rv1"),
        image: Image::from("ubuntu-24.04"),
    }];
    policy
}

fn facts(action: &str) -> WorkflowJob<'_> {
    WorkflowJob {
        action,
        job_id: Some(1),
        html_url: Some("https://github.com/acme/app/actions/runs/1/job/1"),
        labels: vec!["ubuntu-24.04-riscv"],
        created_at: Some(NOW),
        started_at: Some(NOW),
        completed_at: Some(NOW),
        runner_name: Some("rise-riscv-runner-1-abcdefghi"),
        repo_id: Some(2),
        repo_full_name: Some("acme/app"),
        owner_id: Some(1),
        owner_login: Some("acme"),
        owner_type: Some("Organization"),
        installation_id: Some(3),
    }
}

fn event(policy: &Policy, action: &str) -> Job {
    match read(&facts(action), policy, NOW) {
        Ok(Intake::Record(job)) => job,
        other => panic!("a good body was not recorded: {other:?}"),
    }
}

fn intake(c: &mut Criterion) {
    let policy = rules();
    let mut group = c.benchmark_group("intake");
    group.throughput(Throughput::Bytes(QUEUED.len() as u64));
    // For one of our machines, in its label alone.
    let queued = QUEUED.replace("ubuntu-latest", "ubuntu-24.04-riscv");
    let read_body = |text| {
        let body: body::JobBody<'_> = serde_json::from_str(text).expect("GitHub sent it");
        read(&body.as_facts(), &policy, NOW)
    };
    assert!(matches!(read_body(&queued), Ok(Intake::Record(_))), "{:?}", read_body(&queued));
    group.bench_function("body to job event", |b| b.iter(|| read_body(black_box(&queued))));
    group.throughput(Throughput::Elements(1));
    let queued = facts("queued");
    group.bench_function("read", |b| b.iter(|| read(&queued, &policy, NOW)));
    let (row, late) = (event(&policy, "completed"), event(&policy, "queued"));
    group.bench_function("join", |b| b.iter(|| join(&row, &late)));
    group.finish();
}

criterion_group!(benches, intake);
criterion_main!(benches);
