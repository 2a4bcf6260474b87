//! Signing in: Apps' keys and clocks, installations' tokens, installations that are gone.

use adapters::ports::GitHub as _;
use engine::{
    facts::{App, GitHubError},
    ids::{InstallationId, JobId, Span},
};
use futures::future::join_all;
use sim::{credentials::ModelKey, http::faults::Fault};

use super::bed::{ORG, TOKENS, USER, org_scope, org_worker, test, user_scope};

fn unavailable(error: &GitHubError) -> &str {
    let GitHubError::Unavailable { message } = error else { panic!("{error:?}") };
    message
}

#[test]
fn a_token_serves_until_shortly_before_it_ends() {
    test(async |bed| {
        let scope = user_scope();
        let both = async || {
            let answers = join_all((0..8).map(|_| bed.github.runners(&scope))).await;
            answers.iter().for_each(|answer| assert!(answer.result.is_ok(), "{answer:?}"));
            bed.calls("POST", TOKENS)
        };
        assert_eq!(both().await, 1, "concurrent calls share one");
        bed.pass(Span::mins(54));
        assert_eq!(both().await, 1);
        bed.pass(Span::mins(2));
        assert_eq!(both().await, 2, "a token with four minutes left is renewed");
        bed.github.runners(&org_scope()).await.result.unwrap();
        assert_eq!(bed.calls("POST", TOKENS), 3, "each installation has its own");
    });
}

#[test]
fn a_token_refused_in_mid_use_is_replaced_once() {
    test(async |bed| {
        bed.github.runners(&user_scope()).await.result.unwrap();
        bed.with(|github, _| github.revoke_tokens());
        let answer = bed.github.runners(&user_scope()).await;
        assert!(answer.result.is_ok(), "{answer:?}");
        assert_eq!((answer.calls, bed.calls("POST", TOKENS)), (3, 2), "the refused call, a token, the call again");
        bed.faults().plan("GET", "/actions/runners", 2, Fault::Before(401, Vec::new()));
        let answer = bed.github.runners(&user_scope()).await;
        assert!(unavailable(&answer.result.unwrap_err()).contains("401"), "not for ever");
        assert_eq!(bed.faults().left(), 0);
        assert!(bed.github.runners(&user_scope()).await.result.is_ok());
    });
}

#[test]
fn a_wrong_key_is_told_and_not_shown() {
    test(async |bed| {
        let (organization, personal) = &bed.models.keys;
        let other = ModelKey::generate().unwrap();
        for keys in [(&other, personal), (personal, organization)] {
            let client = bed.client(Span::ZERO, keys);
            let error = client.runners(&org_scope()).await.result.unwrap_err();
            assert!(unavailable(&error).contains("401: Bad credentials"), "{error:?}");
            let error = client.deliveries(App::Organization, bed.now()).await.result.unwrap_err();
            assert!(unavailable(&error).contains("401"), "{error:?}");
            assert!(!format!("{error:?}").contains("PRIVATE"));
        }
        assert!(bed.github.runners(&org_scope()).await.result.is_ok(), "the right key goes on working");
    });
}

#[test]
fn clocks_may_be_apart_as_githubs_own_is_followed() {
    test(async |bed| {
        let keys = (&bed.models.keys.0, &bed.models.keys.1);
        // GitHub refuses what was signed more than a minute ahead of its clock, or ten minutes behind it.
        for apart in [Span::ZERO, Span::secs(59), Span::secs(-120), Span::secs(120), Span::mins(-12)] {
            let client = bed.client(apart, keys);
            let mut result = client.deliveries(App::Personal, bed.now() - Span::hours(1)).await.result;
            if result.is_err() {
                // The refusal told what time it is.
                result = client.deliveries(App::Personal, bed.now() - Span::hours(1)).await.result;
            }
            assert_eq!(result, Ok(Vec::new()), "{apart}");
        }
    });
}

#[test]
fn an_installation_that_is_gone_or_suspended_is_told_apart() {
    test(async |bed| {
        // Twice each: without a token, and in the middle of using one.
        for begun in [false, true] {
            let client = bed.client(Span::ZERO, (&bed.models.keys.0, &bed.models.keys.1));
            let scope = user_scope();
            let account = |set: fn(&mut sim::world::github::Account, bool), on| {
                bed.with(|github, _| set(github.accounts.get_mut(&USER.0).unwrap(), on));
            };
            for (set, expected) in [
                (
                    (|it, on| it.suspended = on) as fn(&mut sim::world::github::Account, bool),
                    GitHubError::InstallationSuspended,
                ),
                (|it, on| it.removed = on, GitHubError::InstallationGone),
            ] {
                if begun {
                    client.runners(&scope).await.result.unwrap();
                }
                account(set, true);
                for _ in 0..2 {
                    assert_eq!(client.runners(&scope).await.result, Err(expected.clone()), "begun: {begun}");
                }
                account(set, false);
                assert!(client.runners(&scope).await.result.is_ok(), "and back: {expected:?}, begun: {begun}");
            }
        }
        // What only looks like it: for these, jobs are failed.
        for (status, kind, body, expected) in [
            (403, "application/json", r#"{"message":"IP address not allowed"}"#, "Refused"),
            (403, "text/html", "<html>a login page</html>", "Refused"),
            (404, "text/html", "<html>no such page</html>", "Unavailable"),
            (404, "application/json", "{}", "Unavailable"),
            (404, "application/json", r#"{"message":"no Route matched with those values"}"#, "Unavailable"),
            (404, "application/json", r#"{"message":"Integration not found"}"#, "Unavailable"),
        ] {
            let client = bed.client(Span::ZERO, (&bed.models.keys.0, &bed.models.keys.1));
            bed.faults().plan("POST", "/access_tokens", 1, Fault::Say(status, kind, body.to_owned()));
            let error = client.runners(&user_scope()).await.result.unwrap_err();
            assert!(format!("{error:?}").starts_with(expected), "{status} {body}: {error:?}");
            assert!(client.runners(&user_scope()).await.result.is_ok(), "{status} {body}");
        }
        let job = bed.github.job(App::Organization, InstallationId(999), "an-org/repo", JobId(1)).await;
        assert_eq!(job.result, Err(GitHubError::InstallationGone), "an id that never was");
        let job = bed.github.job(App::Organization, InstallationId(USER.1), "a-user/own", JobId(1)).await;
        assert_eq!(job.result, Err(GitHubError::InstallationGone), "the other App's");
        assert!(bed.github.mint(&org_worker("rise-riscv-runner-7-aaaaaaaaa")).await.result.is_ok(), "{ORG:?} is well");
    });
}
