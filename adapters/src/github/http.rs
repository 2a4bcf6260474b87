//! One call to GitHub: who calls, what an answer's status and headers mean.
//!
//! octocrab carries the requests. Signing in is done here: by this service's own clock, which the simulator can set, and
//! with outcomes (installation gone, suspended) that the engine decides on.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use engine::{
    facts::{App, Budget, GitHubAnswer, GitHubError},
    ids::{InstallationId, Span, Time},
};
use http_body_util::{BodyExt, Limited};
use octocrab::Octocrab;
use secrecy::{ExposeSecret, SecretString};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use tokio::time::timeout;

use crate::{ports::Clock, quote::quotable};

/// GitHub's largest answers are pages of a hundred; anything beyond this is nonsense.
const BODY_LIMIT: usize = 16 << 20;
/// Tokens live for an hour; one is renewed this long before, so that no call is made with one about to end.
const TOKEN_MARGIN: Span = Span::mins(5);
/// An App's token: issued a minute in the past, for clocks that differ; GitHub allows ten minutes at most.
const JWT_BACK: i64 = 60;
const JWT_FORWARD: i64 = 540;
/// A request goes on for so long though its caller gives it up before: GitHub's word to wait, in its answer, is for those
/// that come after it too (S14).
const ANSWER_LIMIT: Duration = Duration::from_secs(45);
/// How often a call is sent on to where it has moved.
const REDIRECTS: usize = 3;
/// Seconds that the two clocks may differ by before it matters: half of what a token's issue time allows for.
const CLOCKS_AGREE: i64 = 30;
/// The end of an hour is no further away than this, either way, the calls' time on their way included.
const HOUR_AT_MOST: Span = Span::mins(65);
/// All that GitHub says of a thing that it does not find.
const NOT_FOUND: &str = "Not Found";
/// How much of GitHub's message goes into an error.
const MESSAGE_LIMIT: usize = 300;

/// One App's identity.
#[derive(Clone)]
pub struct AppKey {
    /// The App's id.
    pub id: u64,
    /// Its private key.
    pub key: jsonwebtoken::EncodingKey,
}

/// Makes calls, as either App or any of their installations.
#[derive(Clone)]
pub struct Caller {
    crab: Octocrab,
    clock: Clock,
    organization: AppKey,
    personal: AppKey,
    tokens: Arc<Mutex<BTreeMap<InstallationId, Slot>>>,
    /// By how many seconds GitHub's clock is ahead of ours, as its last answer showed; 0 while they agree well enough.
    ahead: Arc<AtomicI64>,
    /// Until when each caller was told to wait. The engine spaces the calls that it chooses; this is for those that follow
    /// from one of them unseen (tokens, runner groups, further pages, or one that waited for another's lookup).
    pauses: Arc<Mutex<BTreeMap<As, Time>>>,
}

/// One installation's token; locked while it is made, so that concurrent calls share it.
type Slot = Arc<tokio::sync::Mutex<Option<Token>>>;

struct Token {
    secret: SecretString,
    expires: Time,
}

/// As whom a call is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum As {
    App(App),
    Installation(App, InstallationId),
}

#[derive(Serialize)]
struct Claims {
    iat: i64,
    exp: i64,
    iss: String,
}

#[derive(serde::Deserialize)]
struct TokenBody {
    token: SecretString,
    expires_at: jiff::Timestamp,
}

/// An answer with its status and headers.
struct Reply {
    status: u16,
    headers: http::HeaderMap,
    body: bytes::Bytes,
    /// What GitHub's clock showed.
    date: Option<Time>,
    /// It is a refusal because of limits; until when, if it says so.
    limited: Option<Option<Time>>,
}

impl Caller {
    /// `crab` is ready made, without authentication: its base address and transport are its maker's choice.
    pub fn new(crab: Octocrab, clock: Clock, organization: AppKey, personal: AppKey) -> Self {
        let (tokens, ahead, pauses) = Default::default();
        Self { crab, clock, organization, personal, tokens, ahead, pauses }
    }

    pub(super) fn now(&self) -> Time {
        (self.clock)()
    }

    pub(super) fn session(&self, who: As) -> Session<'_> {
        Session { caller: self, who, budget: None, date: None, calls: 0 }
    }

    fn jwt(&self, app: App) -> Result<SecretString, GitHubError> {
        let app = match app {
            App::Organization => &self.organization,
            App::Personal => &self.personal,
        };
        // GitHub refuses a token that was issued in its future, or ends too far in it.
        let now = self.now().0 / 1000 + self.ahead.load(Ordering::Relaxed);
        let claims = Claims { iat: now - JWT_BACK, exp: now + JWT_FORWARD, iss: app.id.to_string() };
        let header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::RS256);
        jsonwebtoken::encode(&header, &claims, &app.key)
            .map(SecretString::from)
            .map_err(|_| unavailable("the App's private key cannot sign"))
    }

    /// Learns by how much the two clocks differ, from an answer that was sent at `date`.
    fn compare_clocks(&self, date: Time) {
        let ahead = (date.0 - self.now().0) / 1000;
        let ahead = if ahead.abs() > CLOCKS_AGREE { ahead } else { 0 };
        if self.ahead.swap(ahead, Ordering::Relaxed) == 0 && ahead != 0 {
            tracing::warn!(seconds = ahead, "GitHub's clock differs from this machine's: signing in goes by GitHub's");
        }
    }

    /// Until when this caller was told to wait, if that is not over.
    fn paused(&self, who: As) -> Option<Time> {
        let now = self.now();
        let mut pauses = self.pauses.lock().unwrap_or_else(PoisonError::into_inner);
        let until = *pauses.get(&who)?;
        if now < until {
            return Some(until);
        }
        pauses.remove(&who);
        None
    }

    /// Notes that GitHub told this caller to wait; the latest time that it named counts.
    fn pause(&self, who: As, until: Time) {
        let mut pauses = self.pauses.lock().unwrap_or_else(PoisonError::into_inner);
        let known = pauses.entry(who).or_insert(until);
        *known = until.max(*known);
    }

    /// One request and its whole answer. What the answer tells for those that come after is noted here.
    async fn exchange(self, who: As, request: http::Request<String>) -> Result<Reply, GitHubError> {
        let response = self.crab.execute(request).await.map_err(|error| unavailable(&root_cause(&error)))?;
        let (parts, body) = response.into_parts();
        let date = date(&parts.headers);
        if let Some(date) = date {
            self.compare_clocks(date);
        }
        let body = Limited::new(body, BODY_LIMIT)
            .collect()
            .await
            .map_err(|_| unavailable("the answer broke off, or is too long"))?
            .to_bytes();
        let (status, headers) = (parts.status.as_u16(), parts.headers);
        let limited = is_limited(status, &headers, &body).then(|| retry_at(self.now(), date, &headers));
        if let Some(Some(until)) = limited {
            self.pause(who, until);
        }
        Ok(Reply { status, headers, body, date, limited })
    }

    fn slot(&self, installation: InstallationId) -> Slot {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner).entry(installation).or_default().clone()
    }
}

/// Consecutive calls for one purpose, counted.
pub(super) struct Session<'a> {
    caller: &'a Caller,
    who: As,
    budget: Option<Budget>,
    date: Option<Time>,
    calls: u32,
}

impl Session<'_> {
    /// What GitHub's clock showed at the latest answer.
    pub fn date(&self) -> Option<Time> {
        self.date
    }

    /// The result with what the calls showed of the budget.
    pub fn answer<T>(self, result: Result<T, GitHubError>) -> GitHubAnswer<T> {
        GitHubAnswer { result, budget: self.budget, calls: self.calls }
    }

    pub async fn get<T: DeserializeOwned>(&mut self, path: &str) -> Result<T, GitHubError> {
        let reply = self.call(http::Method::GET, path, None).await?;
        parse(&reply)
    }

    /// A page and the path of the next one.
    pub async fn get_page<T: DeserializeOwned>(&mut self, path: &str) -> Result<(T, Option<String>), GitHubError> {
        let reply = self.call(http::Method::GET, path, None).await?;
        Ok((parse(&reply)?, next_page(&reply.headers)))
    }

    pub async fn post<T: DeserializeOwned>(&mut self, path: &str, body: Option<&Value>) -> Result<T, GitHubError> {
        let reply = self.call(http::Method::POST, path, body).await?;
        parse(&reply)
    }

    pub async fn post_empty(&mut self, path: &str) -> Result<(), GitHubError> {
        self.call(http::Method::POST, path, None).await.and_then(|reply| exactly(202, &reply))
    }

    pub async fn delete(&mut self, path: &str) -> Result<(), GitHubError> {
        self.call(http::Method::DELETE, path, None).await.and_then(|reply| exactly(204, &reply))
    }

    /// One call, and where GitHub says it has moved: a repository that was renamed answers under its number.
    async fn call(&mut self, method: http::Method, path: &str, body: Option<&Value>) -> Result<Reply, GitHubError> {
        let mut path = path.to_owned();
        for _ in 0..=REDIRECTS {
            let reply = self.call_here(&method, &path, body).await?;
            if (200..300).contains(&reply.status) {
                return Ok(reply);
            }
            // Only the path is followed: a token is shown to nobody but GitHub.
            path = moved_to(&reply.headers).ok_or_else(|| unavailable("GitHub says moved, and not where to"))?;
        }
        Err(unavailable("GitHub says moved, again and again"))
    }

    /// One call, signed in. A token that GitHub refuses in mid-use is dropped and the call made once more with a new one.
    async fn call_here(
        &mut self,
        method: &http::Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Reply, GitHubError> {
        for attempt in 0..2 {
            let token = self.token().await?;
            let reply = self.send(method, path, body, &token).await?;
            if reply.status == 401 && attempt == 0 {
                // An App's own token is signed anew for every call, by the clock that the answer showed.
                self.drop_token(&token).await;
                continue;
            }
            let judged = self.judge(reply);
            if judged.as_ref().is_err_and(|error| *error == GitHubError::InstallationSuspended) {
                self.drop_token(&token).await;
            }
            return judged;
        }
        Err(unavailable("GitHub refused two fresh tokens"))
    }

    async fn token(&mut self) -> Result<SecretString, GitHubError> {
        let (app, installation) = match self.who {
            As::App(app) => return self.caller.jwt(app),
            As::Installation(app, installation) => (app, installation),
        };
        let slot = self.caller.slot(installation);
        let mut slot = slot.lock().await;
        let now = self.caller.now();
        if let Some(token) = slot.as_ref().filter(|token| now + TOKEN_MARGIN < token.expires) {
            return Ok(token.secret.clone());
        }
        let jwt = self.caller.jwt(app)?;
        let path = format!("/app/installations/{installation}/access_tokens");
        let mut reply = self.send(&http::Method::POST, &path, None, &jwt).await?;
        if reply.status == 401 {
            // Signed by a clock that is wrong, perhaps; the answer showed the right one.
            let jwt = self.caller.jwt(app)?;
            reply = self.send(&http::Method::POST, &path, None, &jwt).await?;
        }
        let reply = match self.judge(reply) {
            Err(GitHubError::NotFound) => return Err(GitHubError::InstallationGone),
            other => other?,
        };
        let made: TokenBody = parse(&reply)?;
        let expires = Time(made.expires_at.as_millisecond());
        *slot = Some(Token { secret: made.token.clone(), expires });
        Ok(made.token)
    }

    async fn drop_token(&self, refused: &SecretString) {
        let As::Installation(_, installation) = self.who else { return };
        let slot = self.caller.slot(installation);
        let mut slot = slot.lock().await;
        // Another call may have replaced it already.
        if slot.as_ref().is_some_and(|token| token.secret.expose_secret() == refused.expose_secret()) {
            *slot = None;
        }
    }

    async fn send(
        &mut self,
        method: &http::Method,
        path: &str,
        body: Option<&Value>,
        token: &SecretString,
    ) -> Result<Reply, GitHubError> {
        // Asked here, after whatever the call has waited for: another one may have been refused meanwhile (S14).
        if let Some(until) = self.caller.paused(self.who) {
            return Err(GitHubError::RateLimited { until: Some(until) });
        }
        let mut bearer = http::HeaderValue::from_str(&format!("Bearer {}", token.expose_secret()))
            .map_err(|_| unavailable("GitHub's token is not a legal header"))?;
        bearer.set_sensitive(true);
        let mut request = http::Request::builder()
            .method(method)
            .uri(path)
            .header(http::header::AUTHORIZATION, bearer)
            .header(http::header::ACCEPT, "application/vnd.github+json")
            .header("x-github-api-version", "2022-11-28");
        let text = match body {
            Some(body) => {
                request = request.header(http::header::CONTENT_TYPE, "application/json");
                body.to_string()
            }
            None => String::new(),
        };
        // Nobody was asked, so that this says nothing of GitHub.
        let request = request
            .body(text)
            .map_err(|_| GitHubError::Refused { status: 0, message: "the request's path is not legal".to_owned() })?;
        self.calls += 1;
        // A task of its own: dropping what waits for it does not end it.
        let exchange = tokio::spawn(timeout(ANSWER_LIMIT, self.caller.clone().exchange(self.who, request)));
        let reply = match exchange.await {
            Ok(Ok(reply)) => reply?,
            Ok(Err(_)) => return Err(unavailable("no answer within the time limit")),
            Err(_) => return Err(unavailable("the request broke off")),
        };
        self.date = reply.date;
        if matches!(self.who, As::Installation(..)) {
            let now = self.caller.now();
            self.budget = budget(&reply.headers, |there| here(now, reply.date, there)).or(self.budget);
        }
        Ok(reply)
    }

    /// What a status means.
    fn judge(&self, reply: Reply) -> Result<Reply, GitHubError> {
        let status = reply.status;
        if matches!(status, 200..=299 | 301 | 302 | 307 | 308) {
            return Ok(reply);
        }
        if let Some(until) = reply.limited {
            return Err(GitHubError::RateLimited { until });
        }
        let message = message(&reply.body);
        Err(match status {
            403 if message.to_lowercase().contains("suspended") => GitHubError::InstallationSuspended,
            401 => GitHubError::Unavailable { message: format!("401: {message}") },
            404 if message == NOT_FOUND => GitHubError::NotFound,
            // Jobs are failed for what GitHub does not find. A proxy, a wrong GITHUB_API_URL and an App that there is not
            // ("Integration not found") answer 404, too, and say nothing of jobs.
            404 => GitHubError::Unavailable { message: format!("404: {message}") },
            409 => GitHubError::NameTaken,
            500.. => GitHubError::Unavailable { message: format!("{status}: {message}") },
            _ => GitHubError::Refused { status, message },
        })
    }
}

fn header(headers: &http::HeaderMap, name: &str) -> Option<i64> {
    headers.get(name)?.to_str().ok()?.trim().parse().ok()
}

/// GitHub's documentation of REST rate limits: 403 and 429 can both be limits.
fn is_limited(status: u16, headers: &http::HeaderMap, body: &[u8]) -> bool {
    let said = || message(body).to_lowercase().contains("rate limit");
    let exhausted = header(headers, "x-ratelimit-remaining") == Some(0);
    status == 429 || (status == 403 && (exhausted || headers.contains_key(http::header::RETRY_AFTER) || said()))
}

/// Until when a refusal says to wait, by this machine's clock.
fn retry_at(now: Time, date: Option<Time>, headers: &http::HeaderMap) -> Option<Time> {
    if let Some(seconds) = header(headers, "retry-after") {
        return Some(now + Span::secs(seconds));
    }
    let exhausted = header(headers, "x-ratelimit-remaining") == Some(0);
    let reset = header(headers, "x-ratelimit-reset").filter(|_| exhausted);
    reset.map(|seconds| here(now, date, Time(seconds.saturating_mul(1000))))
}

/// The end of GitHub's hour as this machine's clock will show it: as long from now as it is from the answer's date. An hour
/// ends within an hour; where the date says otherwise it is nonsense, and the end stands as it was told.
fn here(now: Time, date: Option<Time>, there: Time) -> Time {
    let wait = date.map(|date| Span(there.0.saturating_sub(date.0)));
    let plausible = wait.filter(|wait| wait.0.abs() <= HOUR_AT_MOST.0);
    plausible.map_or(there, |wait| now + wait)
}

/// `Date`, in whole seconds.
fn date(headers: &http::HeaderMap) -> Option<Time> {
    let date = headers.get(http::header::DATE)?.to_str().ok()?;
    let date = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(date).ok()?;
    Some(Time(date.as_millisecond()))
}

/// What is left of the hour; `here` brings a time of GitHub's to this machine's clock.
fn budget(headers: &http::HeaderMap, here: impl Fn(Time) -> Time) -> Option<Budget> {
    let core = headers.get("x-ratelimit-resource").is_none_or(|resource| resource == "core");
    let count = |name| header(headers, name).and_then(|value| u32::try_from(value).ok());
    let reset_at = here(Time(header(headers, "x-ratelimit-reset")?.saturating_mul(1000)));
    let budget = Budget { limit: count("x-ratelimit-limit")?, remaining: count("x-ratelimit-remaining")?, reset_at };
    core.then_some(budget)
}

/// Success is what GitHub documents for the call, no other 2xx: anybody between here and GitHub can say 200.
fn exactly(status: u16, reply: &Reply) -> Result<(), GitHubError> {
    if reply.status == status {
        return Ok(());
    }
    Err(unavailable(&format!("the answer is not what GitHub documents ({}, not {status})", reply.status)))
}

fn moved_to(headers: &http::HeaderMap) -> Option<String> {
    let uri: http::Uri = headers.get(http::header::LOCATION)?.to_str().ok()?.parse().ok()?;
    uri.path_and_query().map(|path| path.as_str().to_owned())
}

/// The path of `rel="next"`, which may be given with its host or without.
fn next_page(headers: &http::HeaderMap) -> Option<String> {
    let links = headers.get(http::header::LINK)?.to_str().ok()?;
    let next = links.split(',').find(|link| link.contains("rel=\"next\""))?;
    let target = next.split('<').nth(1)?.split('>').next()?;
    let uri: http::Uri = target.parse().ok()?;
    uri.path_and_query().map(|path| path.as_str().to_owned())
}

fn parse<T: DeserializeOwned>(reply: &Reply) -> Result<T, GitHubError> {
    // serde's message can quote the body, and the body can hold a secret: only the place is told.
    serde_json::from_slice(&reply.body).map_err(|error| {
        let message =
            format!("the answer is not what GitHub documents (line {}, column {})", error.line(), error.column());
        GitHubError::Unavailable { message }
    })
}

/// GitHub's own message, shortened.
fn message(body: &[u8]) -> String {
    #[derive(serde::Deserialize)]
    struct Body {
        message: String,
    }
    let message = serde_json::from_slice::<Body>(body).map_or_else(|_| "no message".to_owned(), |body| body.message);
    quotable(&message).chars().take(MESSAGE_LIMIT).collect()
}

fn unavailable(message: &str) -> GitHubError {
    GitHubError::Unavailable { message: message.to_owned() }
}

/// The innermost error: octocrab's outer ones only repeat that a service failed.
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut inner = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    inner.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_hour_ends_by_this_machines_clock_unless_the_date_is_nonsense() {
        let (now, hour) = (Time(1_700_000_000_000), Span::mins(60));
        for (what, date, there, expected) in [
            ("clocks agree", Some(now), now + hour, now + hour),
            ("GitHub's is ahead", Some(now + Span::mins(9)), now + Span::mins(39), now + Span::mins(30)),
            ("GitHub's is behind", Some(now - Span::mins(9)), now + Span::mins(21), now + Span::mins(30)),
            ("it is over", Some(now), now - Span::secs(1), now - Span::secs(1)),
            ("no date", None, now + hour, now + hour),
            ("a date of 1970", Some(Time::ZERO), now + hour, now + hour),
            ("a date of the year 9999", Some(Time(253_402_300_799_000)), now + hour, now + hour),
        ] {
            assert_eq!(here(now, date, there), expected, "{what}");
        }
    }
}
