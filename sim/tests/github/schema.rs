//! The model's answers follow GitHub's published schemas (sim/fixtures/github), and its listings have Link headers.

use std::collections::BTreeSet;

use adapters::ports::GitHub as _;
use engine::ids::Span;
use http_body_util::{BodyExt, Full};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use sim::{credentials::APPS, world::github::Scope};

use super::bed::{Bed, ORG, USER, org_worker, test};

const SUBSET: &str = include_str!("../../fixtures/github/openapi-subset.json");

/// What of OpenAPI 3.0 the subset uses.
struct Schemas(Value);

impl Schemas {
    /// Everything in which `value` is not what `schema` says; fields that it does not know among it.
    fn check(&self, schema: &Value, value: &Value, at: &str, wrong: &mut Vec<String>) {
        if let Some(name) = schema["$ref"].as_str() {
            let named = &self.0["schemas"][name.trim_start_matches("#/")];
            assert!(named.is_object(), "the subset lacks {name}");
            return self.check(named, value, at, wrong);
        }
        if value.is_null() && schema["nullable"] == true {
            return;
        }
        for choice in ["oneOf", "anyOf"] {
            let Some(choices) = schema[choice].as_array() else { continue };
            let fits = |schema: &&Value| {
                let mut wrong = Vec::new();
                self.check(schema, value, at, &mut wrong);
                wrong.is_empty()
            };
            if !choices.iter().any(|it| fits(&it)) {
                wrong.push(format!("{at}: {value} is none of {choice}"));
            }
        }
        let right = match schema["type"].as_str() {
            None => true,
            Some("object") => value.is_object(),
            Some("array") => value.is_array(),
            Some("string") => value.is_string(),
            Some("integer") => value.is_i64(),
            Some("number") => value.is_number(),
            Some("boolean") => value.is_boolean(),
            Some(other) => panic!("the subset has a type {other}"),
        };
        if !right {
            return wrong.push(format!("{at}: {value} is no {}", schema["type"]));
        }
        if let Some(words) = schema["enum"].as_array()
            && !words.contains(value)
        {
            wrong.push(format!("{at}: {value} is none of {words:?}"));
        }
        if schema["format"] == "date-time" && value.as_str().is_none_or(|at| at.parse::<jiff::Timestamp>().is_err()) {
            wrong.push(format!("{at}: {value} is no time"));
        }
        for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            if value.get(name).is_none() {
                wrong.push(format!("{at}.{name} is missing"));
            }
        }
        if let (Some(object), Some(properties)) = (value.as_object(), schema["properties"].as_object()) {
            for (name, value) in object {
                match properties.get(name) {
                    Some(schema) => self.check(schema, value, &format!("{at}.{name}"), wrong),
                    None => wrong.push(format!("{at}.{name} is unknown")),
                }
            }
        }
        for (i, value) in value.as_array().into_iter().flatten().enumerate() {
            self.check(&schema["items"], value, &format!("{at}[{i}]"), wrong);
        }
    }

    fn route(&self, method: &str, path: &str) -> &Value {
        let segments: Vec<&str> = path.split('?').next().unwrap().split('/').collect();
        let fits = |route: &&Value| {
            let pattern: Vec<&str> = route["path"].as_str().unwrap().split('/').collect();
            let same = |(a, b): (&&str, &&str)| a == b || a.starts_with('{');
            route["method"] == method && pattern.len() == segments.len() && pattern.iter().zip(&segments).all(same)
        };
        self.0["routes"]
            .as_array()
            .unwrap()
            .iter()
            .find(fits)
            .unwrap_or_else(|| panic!("no schema for {method} {path}"))
    }
}

struct Caller<'a> {
    bed: &'a Bed,
    schemas: Schemas,
    seen: BTreeSet<String>,
}

impl Caller<'_> {
    /// One call, whose answer must follow its route's schema; its body and its Link header.
    async fn call(&mut self, method: &str, path: &str, token: &str, body: Option<Value>) -> (Value, Option<String>) {
        let (status, value, link) = send(self.bed, method, path, token, body).await;
        let route = self.schemas.route(method, path);
        assert_eq!(json!(status), route["status"], "{method} {path}: {value}");
        let mut wrong = Vec::new();
        match &route["answer"] {
            Value::Null => assert_eq!(value, Value::Null, "{method} {path}: there is nothing to say"),
            schema => self.schemas.check(schema, &value, "", &mut wrong),
        }
        assert_eq!(wrong, Vec::<String>::new(), "{method} {path}");
        self.seen.insert(format!("{method} {}", route["path"]));
        (value, link)
    }

    async fn refused(&self, method: &str, path: &str, token: &str, body: Option<Value>, expected: u16) {
        let (status, value, _) = send(self.bed, method, path, token, body).await;
        assert_eq!(status, expected, "{method} {path}: {value}");
        let mut wrong = Vec::new();
        self.schemas.check(&json!({ "$ref": "#/basic-error" }), &value, "", &mut wrong);
        assert_eq!(wrong, Vec::<String>::new(), "{method} {path}");
    }
}

async fn send(bed: &Bed, method: &str, path: &str, token: &str, body: Option<Value>) -> (u16, Value, Option<String>) {
    let client = Client::builder(TokioExecutor::new()).build_http();
    let request = http::Request::builder()
        .method(method)
        .uri(format!("http://{}{path}", bed.models.github_addr))
        .header("authorization", format!("Bearer {token}"))
        .header("content-type", "application/json")
        .body(Full::new(bytes::Bytes::from(body.map_or_else(String::new, |body| body.to_string()))))
        .unwrap();
    let answer = client.request(request).await.unwrap();
    let status = answer.status().as_u16();
    let link = answer.headers().get("link").map(|link| link.to_str().unwrap().to_owned());
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    let value = if body.is_empty() { Value::Null } else { serde_json::from_slice(&body).unwrap() };
    (status, value, link)
}

fn jwt(bed: &Bed) -> String {
    let now = bed.now().0 / 1000;
    let claims = json!({ "iat": now - 60, "exp": now + 500, "iss": APPS.0.to_string() });
    let key = jsonwebtoken::EncodingKey::from_rsa_pem(bed.models.keys.0.pem.as_bytes()).unwrap();
    jsonwebtoken::encode(&jsonwebtoken::Header::new(jsonwebtoken::Algorithm::RS256), &claims, &key).unwrap()
}

#[test]
fn every_answer_follows_the_published_schema() {
    test(async |bed| {
        let schemas = Schemas(serde_json::from_str(SUBSET).unwrap());
        let all: BTreeSet<String> = schemas.0["routes"]
            .as_array()
            .unwrap()
            .iter()
            .map(|it| format!("{} {}", it["method"].as_str().unwrap(), it["path"]))
            .collect();
        let mut caller = Caller { bed, schemas, seen: BTreeSet::new() };
        let jwt = jwt(bed);
        // A job in each state, and deliveries of all of them.
        let running = bed.github.mint(&org_worker("rise-riscv-runner-7-aaaaaaaaa")).await.result.unwrap();
        bed.with(|github, now| {
            github.connect(running.config.expose_secret());
            github.queue_job(11, ORG.2, &["ubuntu-24.04-riscv"], Span::hours(1), now);
            github.queue_job(12, ORG.2, &["other"], Span::hours(1), now);
            github.queue_job(13, ORG.2, &["other"], Span::hours(1), now);
            github.cancel_job(13, now);
            github.tick(now);
        });
        for outgoing in bed.models.github.take_outbox() {
            bed.models.github.delivered(outgoing.id, Some(200));
        }
        let path = format!("/app/installations/{}/access_tokens", ORG.1);
        let (token, _) = caller.call("POST", &path, &jwt, None).await;
        let token = token["token"].as_str().unwrap().to_owned();
        let installation = format!("/app/installations/{}", ORG.1);
        caller.call("GET", &installation, &jwt, None).await;

        let (log, link) = caller.call("GET", "/app/hook/deliveries?per_page=2", &jwt, None).await;
        assert!(link.unwrap().contains("cursor="), "a next page");
        let id = log[0]["id"].as_i64().unwrap();
        caller.call("GET", &format!("/app/hook/deliveries/{id}"), &jwt, None).await;
        caller.call("POST", &format!("/app/hook/deliveries/{id}/attempts"), &jwt, None).await;

        let group = json!({ "name": "made", "visibility": "all", "allows_public_repositories": true });
        let (group, _) = caller.call("POST", "/orgs/an-org/actions/runner-groups", &token, Some(group)).await;
        caller.call("GET", "/orgs/an-org/actions/runner-groups", &token, None).await;
        let runners = format!("/orgs/an-org/actions/runner-groups/{}/runners", group["id"]);
        caller.call("GET", &runners, &token, None).await;
        caller.call("GET", "/orgs/an-org/actions/runners", &token, None).await;
        let wish = |name: &str| json!({ "name": name, "runner_group_id": 1, "labels": ["x"], "work_folder": "_work" });
        let (made, _) =
            caller.call("POST", "/orgs/an-org/actions/runners/generate-jitconfig", &token, Some(wish("new"))).await;
        caller.refused("POST", "/orgs/an-org/actions/runners/generate-jitconfig", &token, Some(wish("new")), 409).await;
        let long = wish(&"x".repeat(65));
        caller.refused("POST", "/orgs/an-org/actions/runners/generate-jitconfig", &token, Some(long), 422).await;
        caller.call("DELETE", &format!("/orgs/an-org/actions/runners/{}", made["runner"]["id"]), &token, None).await;
        let busy = format!("/orgs/an-org/actions/runners/{}", running.minted.runner);
        caller.refused("DELETE", &busy, &token, None, 422).await;
        for job in [11, 12, 13] {
            caller.call("GET", &format!("/repos/an-org/repo/actions/jobs/{job}"), &token, None).await;
        }
        let repo = "/repos/an-org/repo/actions/runners";
        let (made, _) = caller.call("POST", &format!("{repo}/generate-jitconfig"), &token, Some(wish("own"))).await;
        caller.call("GET", repo, &token, None).await;
        caller.call("DELETE", &format!("{repo}/{}", made["runner"]["id"]), &token, None).await;
        caller.call("GET", "/rate_limit", &token, None).await;
        assert_eq!(caller.seen, all, "every route of the subset was called");

        caller.refused("GET", "/repos/an-org/repo/actions/jobs/99", &token, None, 404).await;
        caller.refused("GET", "/repos/a-user/own/actions/jobs/11", &token, None, 404).await;
        caller.refused("GET", "/orgs/an-org/actions/runners", "ghs_no", None, 401).await;
        caller.refused("GET", "/app/hook/deliveries", &token, None, 401).await;
        caller.refused("POST", "/app/installations/1/access_tokens", &jwt, None, 404).await;
        caller.refused("GET", "/app/installations/1", &jwt, None, 404).await;
        caller.refused("GET", &installation, &token, None, 401).await;
        bed.with(|github, _| github.accounts.get_mut(&ORG.0).unwrap().suspended = true);
        caller.refused("POST", &path, &jwt, None, 403).await;
    });
}

#[test]
fn every_listing_names_its_next_page() {
    test(async |bed| {
        let schemas = Schemas(serde_json::from_str(SUBSET).unwrap());
        let mut caller = Caller { bed, schemas, seen: BTreeSet::new() };
        bed.with(|github, now| {
            for i in 0..5 {
                github.create_group(ORG.0, &format!("g-{i}")).unwrap();
                for scope in [Scope::Organization(ORG.0), Scope::Repository(ORG.2), Scope::Repository(USER.2)] {
                    github.generate_jit(scope, &format!("r-{i}"), &["x".to_owned()], now).unwrap();
                }
                github.queue_job(i, ORG.2, &["x"], Span::mins(1), now);
            }
        });
        for outgoing in bed.models.github.take_outbox() {
            bed.models.github.delivered(outgoing.id, Some(200));
        }
        let jwt = jwt(bed);
        let path = format!("/app/installations/{}/access_tokens", ORG.1);
        let token = caller.call("POST", &path, &jwt, None).await.0["token"].as_str().unwrap().to_owned();
        for (path, token, key, expected) in [
            ("/app/hook/deliveries", &jwt, "", 5),
            ("/orgs/an-org/actions/runner-groups", &token, "runner_groups", 6),
            ("/orgs/an-org/actions/runner-groups/1/runners", &token, "runners", 5),
            ("/orgs/an-org/actions/runners", &token, "runners", 5),
            ("/repos/an-org/repo/actions/runners", &token, "runners", 5),
        ] {
            let (mut next, mut seen, mut pages) = (Some(format!("{path}?per_page=2")), Vec::new(), 0);
            while let Some(path) = next {
                let (page, link) = caller.call("GET", &path, token, None).await;
                let items = if key.is_empty() { &page } else { &page[key] };
                seen.extend(items.as_array().unwrap().iter().map(|it| it["id"].as_i64().unwrap()));
                pages += 1;
                next = link.and_then(|link| {
                    let part = link.split(", ").find(|part| part.ends_with("rel=\"next\""))?.to_owned();
                    let url = part.split(['<', '>']).nth(1)?.to_owned();
                    assert!(url.starts_with("http://"), "GitHub's links are whole addresses: {url}");
                    Some(
                        url[url.find("/app").or_else(|| url.find("/orgs")).or_else(|| url.find("/repos"))?..]
                            .to_owned(),
                    )
                });
            }
            let different: BTreeSet<i64> = seen.iter().copied().collect();
            assert_eq!((seen.len(), different.len(), pages), (expected, expected, 3), "{path}");
        }
    });
}
