//! Rate limits: what headers say of the budget, and until when nothing may be asked.

use std::time::Duration;

use adapters::ports::GitHub as _;
use engine::{
    facts::{App, GitHubError},
    ids::{InstallationId, JobId, Span, Time},
};
use sim::http::faults::Fault;

use super::bed::{GROUPS, JIT, JOB, ORG, org_worker, test, user_scope};

#[test]
fn every_answer_tells_the_budget() {
    test(async |bed| {
        let first = bed.github.runners(&user_scope()).await;
        let budget = first.budget.unwrap();
        assert_eq!((budget.limit, budget.remaining, first.calls), (5_000, 4_999, 2), "a token is the App's own call");
        assert_eq!(budget.reset_at, bed.now() + Span::hours(1));
        let second = bed.github.runners(&user_scope()).await;
        assert_eq!((second.budget.unwrap().remaining, second.calls), (4_998, 1));
        let refused = bed.github.job(App::Organization, InstallationId(ORG.1), "an-org/repo", JobId(1)).await;
        assert_eq!((refused.result, refused.budget.unwrap().remaining), (Err(GitHubError::NotFound), 4_999));
        let deliveries = bed.github.deliveries(App::Personal, bed.now()).await;
        assert_eq!(deliveries.budget, None, "an App's calls are no installation's");
        // Other resources have limits of their own.
        let others = vec![
            ("x-ratelimit-limit", "30".to_owned()),
            ("x-ratelimit-remaining", "3".to_owned()),
            ("x-ratelimit-reset", "1".to_owned()),
            ("x-ratelimit-resource", "search".to_owned()),
        ];
        bed.faults().plan("GET", "/runners", 1, Fault::Before(500, others));
        assert_eq!(bed.github.runners(&user_scope()).await.budget, None);
    });
}

#[test]
fn an_exhausted_hour_ends_when_github_says() {
    test(async |bed| {
        bed.with(|github, _| github.accounts.get_mut(&ORG.0).unwrap().quota.limit = 3);
        let mint = async |name: &str| bed.github.mint(&org_worker(name)).await;
        assert!(mint("one").await.result.is_ok(), "groups, a group, a configuration");
        let answer = mint("two").await;
        let until = bed.now() + Span::hours(1);
        assert_eq!(answer.result.unwrap_err(), GitHubError::RateLimited { until: Some(until) });
        assert_eq!(answer.budget.map(|budget| (budget.remaining, budget.reset_at)), Some((0, until)));
        // By the clock of whoever asks, however far it is off.
        for apart in [Span::secs(-120), Span::secs(120)] {
            let client = bed.client(apart, (&bed.models.keys.0, &bed.models.keys.1));
            let mut answer = client.mint(&org_worker("two")).await;
            if !matches!(answer.result, Err(GitHubError::RateLimited { .. })) {
                // Signing in had to learn the time first.
                answer = client.mint(&org_worker("two")).await;
            }
            assert_eq!(answer.result.unwrap_err(), GitHubError::RateLimited { until: Some(until + apart) });
            assert_eq!(answer.budget.map(|budget| budget.reset_at), Some(until + apart));
        }
        bed.pass(Span::hours(1));
        assert!(mint("two").await.result.is_ok());
    });
}

#[test]
fn a_limit_is_told_from_a_refusal() {
    test(async |bed| {
        bed.github.runners(&user_scope()).await.result.unwrap();
        let cases = |now: Time| {
            let reset = (now.0 / 1000 + 90).to_string();
            let limited = |until: Option<Time>| GitHubError::RateLimited { until };
            let remaining =
                |left: &str| vec![("x-ratelimit-remaining", left.to_owned()), ("x-ratelimit-reset", reset.clone())];
            let says =
                |status, message: &str| Fault::Say(status, "application/json", format!(r#"{{"message":"{message}"}}"#));
            vec![
                (Fault::Before(403, vec![("retry-after", "7".to_owned())]), limited(Some(now + Span::secs(7)))),
                (Fault::Before(429, vec![("retry-after", "60".to_owned())]), limited(Some(now + Span::secs(60)))),
                (Fault::Before(403, remaining("0")), limited(Some(now + Span::secs(90)))),
                (Fault::Before(429, remaining("0")), limited(Some(now + Span::secs(90)))),
                (Fault::Before(429, remaining("50")), limited(None)),
                (Fault::Before(429, Vec::new()), limited(None)),
                (says(403, "You have exceeded a secondary rate limit"), limited(None)),
                (
                    says(403, "Resource not accessible"),
                    GitHubError::Refused { status: 403, message: "Resource not accessible".to_owned() },
                ),
                (
                    says(422, "Validation Failed"),
                    GitHubError::Refused { status: 422, message: "Validation Failed".to_owned() },
                ),
            ]
        };
        for i in 0..cases(bed.now()).len() {
            let (fault, expected) = cases(bed.now()).swap_remove(i);
            bed.faults().plan("GET", "/actions/runners", 1, fault.clone());
            assert_eq!(bed.github.runners(&user_scope()).await.result.unwrap_err(), expected, "{fault:?}");
            // Until the time that was told nothing is sent.
            bed.pass(Span::secs(90));
        }
        // A limit on the token's own call is no suspension.
        bed.with(|github, _| github.revoke_tokens());
        bed.faults().plan("POST", "access_tokens", 1, Fault::Before(403, vec![("retry-after", "5".to_owned())]));
        let told = Err(GitHubError::RateLimited { until: Some(bed.now() + Span::secs(5)) });
        assert_eq!(bed.github.runners(&user_scope()).await.result, told);
        assert_eq!(bed.github.runners(&user_scope()).await.result, told, "the token is not asked for again either");
        assert_eq!(bed.faults().left(), 0);
        bed.pass(Span::secs(5));
        assert!(bed.github.runners(&user_scope()).await.result.is_ok());
    });
}

#[test]
fn nothing_is_sent_for_an_installation_that_told_to_wait_whatever_was_under_way() {
    test(async |bed| {
        let job = async || bed.github.job(App::Organization, InstallationId(ORG.1), "an-org/repo", JobId(1)).await;
        assert_eq!(job().await.result, Err(GitHubError::NotFound), "there is a token now");
        bed.faults().plan("GET", "/runner-groups", 1, Fault::Delay(Duration::from_millis(500)));
        bed.faults().plan("GET", "/actions/jobs/", 1, Fault::Before(403, vec![("retry-after", "60".to_owned())]));
        let until = bed.now() + Span::secs(60);
        let limited = GitHubError::RateLimited { until: Some(until) };
        let (first, second) = (org_worker("first"), org_worker("second"));
        let later = async {
            let asked = || bed.faults().calls().keys().any(|(_, path)| path.contains("/runner-groups"));
            while !asked() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            job().await
        };
        // One looks the runner group up, one waits for that, and meanwhile the installation says when to come back.
        let (first, second, told) = tokio::join!(bed.github.mint(&first), bed.github.mint(&second), later);
        assert_eq!(told.result, Err(limited.clone()));
        assert_eq!((first.result.unwrap_err(), second.result.unwrap_err()), (limited.clone(), limited.clone()));
        assert_eq!((first.calls, second.calls), (1, 0), "the lookup had been sent");
        assert_eq!((bed.calls("POST", GROUPS), bed.calls("POST", JIT)), (0, 0));
        // Others are not held back, nor is the App itself.
        assert!(bed.github.runners(&user_scope()).await.result.is_ok());
        assert!(bed.github.deliveries(App::Organization, bed.now()).await.result.is_ok());
        bed.pass(Span(until.since(bed.now()).0 - 1));
        assert_eq!(bed.github.mint(&org_worker("early")).await.result.unwrap_err(), limited);
        bed.pass(Span(1));
        assert!(bed.github.mint(&org_worker("in time")).await.result.is_ok());
    });
}

#[test]
fn a_refusal_is_heard_though_its_caller_gave_up() {
    test(async |bed| {
        let job = async |id| bed.github.job(App::Organization, InstallationId(ORG.1), "an-org/repo", JobId(id)).await;
        assert_eq!(job(1).await.result, Err(GitHubError::NotFound), "there is a token now");
        bed.with(|github, _| github.accounts.get_mut(&ORG.0).unwrap().quota.limit = 1);
        bed.faults().plan("GET", "/actions/jobs/1", 1, Fault::Delay(Duration::from_millis(500)));
        bed.faults().plan("GET", "/actions/jobs/2", usize::MAX, Fault::Before(500, Vec::new()));
        let arrived = async {
            while bed.calls("GET", JOB) < 2 {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            biased;
            () = arrived => {}
            answer = job(1) => panic!("answered while it was to be given up: {answer:?}"),
        }
        // Whoever asks before the refusal comes is answered as planned; none of these answers says anything of a limit.
        let limited = loop {
            match job(2).await.result {
                Err(GitHubError::Unavailable { .. }) => {}
                other => break other,
            }
        };
        assert_eq!(limited, Err(GitHubError::RateLimited { until: Some(bed.now() + Span::hours(1)) }));
    });
}
