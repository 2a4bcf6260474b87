//! Rate limits: what headers say of the budget, and until when nothing may be asked.

use adapters::ports::GitHub as _;
use engine::{
    facts::{App, GitHubError},
    ids::{InstallationId, JobId, Span, Time},
};
use sim::http::faults::Fault;

use super::bed::{ORG, org_worker, test, user_scope};

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
        bed.pass(Span::hours(1));
        assert!(mint("two").await.result.is_ok());
    });
}

#[test]
fn a_limit_is_told_from_a_refusal() {
    test(async |bed| {
        bed.github.runners(&user_scope()).await.result.unwrap();
        let now = bed.now();
        let reset = (now.0 / 1000 + 90).to_string();
        let limited = |until: Option<Time>| GitHubError::RateLimited { until };
        let remaining =
            |left: &str| vec![("x-ratelimit-remaining", left.to_owned()), ("x-ratelimit-reset", reset.clone())];
        let says =
            |status, message: &str| Fault::Say(status, "application/json", format!(r#"{{"message":"{message}"}}"#));
        let cases = [
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
        ];
        for (fault, expected) in cases {
            bed.faults().plan("GET", "/actions/runners", 1, fault.clone());
            assert_eq!(bed.github.runners(&user_scope()).await.result.unwrap_err(), expected, "{fault:?}");
        }
        // A limit on the token's own call is no suspension.
        bed.with(|github, _| github.revoke_tokens());
        bed.faults().plan("POST", "access_tokens", 1, Fault::Before(403, vec![("retry-after", "5".to_owned())]));
        let error = bed.github.runners(&user_scope()).await.result.unwrap_err();
        assert_eq!(error, limited(Some(now + Span::secs(5))));
        assert!(bed.github.runners(&user_scope()).await.result.is_ok());
    });
}
