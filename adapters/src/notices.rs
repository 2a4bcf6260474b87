//! What an operator is told about GitHub, Kubernetes and Postgres: one line when one of them fails, one when that is over.
//!
//! A service that waits for something that is away makes a call every few seconds, and each fails. None of these calls
//! is worth a line; that it began, and that it ended, is.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use engine::{
    facts::{App, ClusterError, GitHubError, StoreError},
    ids::InstallationId,
};
use tokio::time::Instant;

/// A trouble that comes back this soon after it was over is told once more, and then counts as over only after this long
/// without a failure: what comes and goes is two lines a minute at most, however many calls there are.
const CALM: Duration = Duration::from_secs(60);
/// What has not failed for so long while other calls worked does not keep a trouble alive: longer than any pause after which
/// the engine tries again what has failed (two minutes, for the delivery log) and the call itself.
const FORGOTTEN: Duration = Duration::from_secs(180);
/// Different messages told at once within one trouble: a failure may change its face (no connection, then 503, then a
/// refused key), but some carry a word that is never the same. From then on one in so long is told.
const MESSAGES: usize = 3;
const ANOTHER: Duration = Duration::from_secs(60);
/// Troubles remembered at once; there is one for each installation at most, and a few more.
const MOST: usize = 10_000;

/// What fails as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Subject {
    /// GitHub as one App sees it: no answer, a refused key, nonsense.
    GitHub(App),
    /// One installation: its limits, its suspension, what it may not do.
    Installation(App, InstallationId),
    /// What one App itself may do: read its log of deliveries, and repeat them.
    Deliveries(App),
    /// The cluster's API.
    Kubernetes,
    /// What the cluster refuses.
    Refusal,
    /// Postgres.
    Store,
}

/// One thing that is tried again and again; a trouble is over when each that failed has worked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Attempt(&'static str, Option<InstallationId>);

/// What any call that works shows to work.
const ANY_CALL: Attempt = Attempt("any call", None);

#[derive(Debug)]
struct Trouble {
    since: Instant,
    calls: u64,
    /// What failed and has not worked since, with its last failure.
    failing: BTreeMap<Attempt, Instant>,
    last: Instant,
    /// How the last failure was told.
    message: String,
    /// The latest messages that made a line, and when the last of them did.
    told: VecDeque<String>,
    told_at: Instant,
    /// It came back soon after it was over.
    restless: bool,
    /// Over, as was told, at that time. It is kept for as long as it would be a return.
    over: Option<Instant>,
}

/// A line for the log.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Line {
    Begun { what: String, attempt: &'static str, message: String, advice: &'static str },
    Changed { what: String, attempt: &'static str, message: String, advice: &'static str },
    Over { what: String, lasted: Duration, calls: u64 },
}

/// What is in trouble, for one process.
#[derive(Debug, Default)]
pub struct Notices {
    troubles: Mutex<BTreeMap<Subject, Trouble>>,
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Subject::GitHub(App::Organization) => f.write_str("GitHub, as the App for organisations"),
            Subject::GitHub(App::Personal) => f.write_str("GitHub, as the App for personal accounts"),
            Subject::Deliveries(app) => write!(f, "{}, for its deliveries", Subject::GitHub(*app)),
            Subject::Installation(_, id) => write!(f, "GitHub, for installation {id}"),
            Subject::Kubernetes | Subject::Refusal => f.write_str("Kubernetes"),
            Subject::Store => f.write_str("Postgres"),
        }
    }
}

/// How a limit is told of, and a suspension.
const LIMIT: &str = "a limit is reached";
const SUSPENDED: &str = "the App is suspended there";
/// The same of a listing that is not of one piece.
const TORN: &str = "a listing of runners changed while its pages were read";

/// How a refusal is told of. One without a status was made here: nobody was asked.
fn refused(status: u16, message: &str) -> String {
    if status == 0 { format!("refused: {message}") } else { format!("refused with {status}: {message}") }
}

/// Where it is looked up what to do.
fn advice(subject: Subject, message: &str) -> &'static str {
    match subject {
        Subject::GitHub(App::Organization) if message.starts_with("401") => {
            "check GHAPP_ORG_PRIVATE_KEY, the App's id in CONFIG, and this machine's clock"
        }
        Subject::GitHub(App::Personal) if message.starts_with("401") => {
            "check GHAPP_PERSONAL_PRIVATE_KEY, the App's id in CONFIG, and this machine's clock"
        }
        Subject::GitHub(_) if message.starts_with("404") => "check GITHUB_API_URL, and the App's id in CONFIG",
        Subject::GitHub(_) => "check https://www.githubstatus.com, the network, and GITHUB_API_URL; calls are repeated",
        Subject::Installation(..) | Subject::Deliveries(_) if message.starts_with(LIMIT) => {
            "nothing: calls go on by themselves then; /jobs/{id}/why tells which jobs wait for it"
        }
        Subject::Installation(..) if message == SUSPENDED => {
            "its account's owners can end that on GitHub; until then its jobs wait"
        }
        Subject::Installation(..) if message == TORN => {
            "nothing: runners came or went meanwhile, and they are listed again"
        }
        Subject::Installation(..) | Subject::Deliveries(_) => {
            "see the App's installation and its permissions on GitHub; calls are repeated"
        }
        Subject::Kubernetes => "check the cluster's API server, the network, and K8S_KUBECONFIG; calls are repeated",
        Subject::Refusal => {
            "check the quota of the runners' namespace and the role in deploy/runners; calls are repeated"
        }
        Subject::Store => "check the server, the network, and POSTGRES_URL; nothing is lost, all is repeated",
    }
}

impl Notices {
    /// Notes how a call to GitHub ended. `attempt` says what was tried.
    pub fn github<T>(
        &self,
        attempt: &'static str,
        app: App,
        installation: Option<InstallationId>,
        result: &Result<T, GitHubError>,
    ) {
        let (contact, own) = (ANY_CALL, Attempt(attempt, installation));
        let subject = installation.map_or(Subject::Deliveries(app), |id| Subject::Installation(app, id));
        // A suspension and an end are the installation's: any call that works shows that they are over. A refusal is what one
        // kind of call may not do, and a limit may be one kind's, too.
        let refusal = match result {
            // Where nobody answers, any call that is answered shows that somebody does; where an error is the answer (it begins
            // with its status), it may be this kind of call's.
            Err(GitHubError::Unavailable { message }) => {
                let answered = message.starts_with(|first: char| first.is_ascii_digit());
                return self.failed(Subject::GitHub(app), if answered { own } else { contact }, attempt, message);
            }
            Err(GitHubError::RateLimited { until: Some(until) }) => Some((own, format!("{LIMIT} until {until}"))),
            Err(GitHubError::RateLimited { until: None }) => Some((own, LIMIT.to_owned())),
            Err(GitHubError::InstallationGone) => Some((contact, "the App is not installed there any more".to_owned())),
            Err(GitHubError::InstallationSuspended) => Some((contact, SUSPENDED.to_owned())),
            Err(GitHubError::Refused { status, message }) => Some((own, refused(*status, message))),
            Err(GitHubError::Torn) => Some((own, TORN.to_owned())),
            // Answers like any other.
            Err(GitHubError::NotFound | GitHubError::NameTaken | GitHubError::RunnerBusy) | Ok(_) => None,
        };
        self.worked(Subject::GitHub(app), contact);
        self.worked(Subject::GitHub(app), own);
        match refusal {
            Some((failing, message)) => self.failed(subject, failing, attempt, &message),
            None => {
                self.worked(subject, contact);
                self.worked(subject, own);
            }
        }
    }

    /// Notes how a call to the cluster ended.
    pub fn cluster<T>(&self, attempt: &'static str, result: &Result<T, ClusterError>) {
        let own = Attempt(attempt, None);
        match result {
            Err(ClusterError::Unavailable { message }) => self.failed(Subject::Kubernetes, own, attempt, message),
            Err(ClusterError::Refused { status, message }) => {
                self.worked(Subject::Kubernetes, own);
                self.worked(Subject::Kubernetes, ANY_CALL);
                self.failed(Subject::Refusal, own, attempt, &refused(*status, message));
            }
            Err(ClusterError::AlreadyExists | ClusterError::NotFound) | Ok(_) => {
                self.worked(Subject::Kubernetes, own);
                self.worked(Subject::Kubernetes, ANY_CALL);
                self.worked(Subject::Refusal, own);
            }
        }
    }

    /// A watch of the cluster was taken up, or showed something.
    pub fn watch_shows(&self, attempt: &'static str) {
        self.worked(Subject::Kubernetes, Attempt(attempt, None));
        self.worked(Subject::Kubernetes, ANY_CALL);
    }

    /// A watch of the cluster broke with this message. Where nobody had `answered` it, any call that works shows that somebody
    /// does; an error that was its answer may be this watch's alone.
    pub fn watch_broke(&self, attempt: &'static str, message: &str, answered: bool) {
        let failing = if answered { Attempt(attempt, None) } else { ANY_CALL };
        self.failed(Subject::Kubernetes, failing, attempt, message);
    }

    /// Notes how something with the store ended.
    pub fn store<T>(&self, attempt: &'static str, result: &Result<T, StoreError>) {
        let own = Attempt(attempt, None);
        match result {
            Err(StoreError::Unavailable { message }) => self.failed(Subject::Store, own, attempt, message),
            // Another leads, or one row is at fault: the store itself is well.
            Err(StoreError::Fenced { .. } | StoreError::Unstorable { .. }) | Ok(_) => {
                self.worked(Subject::Store, own);
                self.worked(Subject::Store, ANY_CALL);
            }
        }
    }

    /// The same for what is asked once, for a person who looks at a page: nobody asks again, so that whatever else works
    /// shows that this would, too.
    pub fn store_once<T>(&self, attempt: &'static str, result: &Result<T, StoreError>) {
        match result {
            Err(StoreError::Unavailable { message }) => self.failed(Subject::Store, ANY_CALL, attempt, message),
            Err(StoreError::Fenced { .. } | StoreError::Unstorable { .. }) | Ok(_) => {
                self.worked(Subject::Store, ANY_CALL);
            }
        }
    }

    /// This process does not lead: it makes no calls to GitHub and the cluster, and all that it asks of the store is to lead.
    /// So what it had of theirs is no trouble of its any more, and whatever works of the store speaks for all of it.
    pub fn stand_by(&self) {
        let mut troubles = self.troubles.lock().unwrap_or_else(PoisonError::into_inner);
        troubles.retain(|subject, _| *subject == Subject::Store);
        for trouble in troubles.values_mut() {
            if let Some(last) = trouble.failing.values().max().copied() {
                trouble.failing = BTreeMap::from([(ANY_CALL, last)]);
            }
        }
    }

    /// What is in trouble now, a sentence each. What works again is not, though it may be too early to say that it is over.
    pub fn now(&self) -> Vec<String> {
        sentences(&self.troubles.lock().unwrap_or_else(PoisonError::into_inner), Instant::now())
    }

    fn failed(&self, subject: Subject, attempt: Attempt, what: &'static str, message: &str) {
        let line = {
            let mut troubles = self.troubles.lock().unwrap_or_else(PoisonError::into_inner);
            note_failure(&mut troubles, subject, attempt, what, message, Instant::now())
        };
        tell(line);
    }

    fn worked(&self, subject: Subject, attempt: Attempt) {
        let line = {
            let mut troubles = self.troubles.lock().unwrap_or_else(PoisonError::into_inner);
            // The usual case: nothing is wrong.
            if troubles.is_empty() { None } else { note_success(&mut troubles, subject, attempt, Instant::now()) }
        };
        tell(line);
    }
}

/// What fails as of `now`: what nobody tries any more is no trouble.
fn sentences(troubles: &BTreeMap<Subject, Trouble>, now: Instant) -> Vec<String> {
    let fails = |trouble: &Trouble| trouble.failing.values().any(|last| now - *last < FORGOTTEN);
    let open = troubles.iter().filter(|(_, trouble)| trouble.over.is_none() && fails(trouble));
    open.map(|(subject, trouble)| {
        let (seconds, message) = ((now - trouble.since).as_secs(), &trouble.message);
        format!("{subject}: {message} (for {seconds} s, {} calls)", trouble.calls)
    })
    .collect()
}

fn note_failure(
    troubles: &mut BTreeMap<Subject, Trouble>,
    subject: Subject,
    attempt: Attempt,
    what: &'static str,
    message: &str,
    now: Instant,
) -> Option<Line> {
    if troubles.len() >= MOST && !troubles.contains_key(&subject) {
        troubles.retain(|_, trouble| trouble.over.is_none() && now - trouble.last < FORGOTTEN);
        if troubles.len() >= MOST {
            return None;
        }
    }
    let fresh = |restless| Trouble {
        since: now,
        calls: 0,
        failing: BTreeMap::new(),
        last: now,
        message: String::new(),
        told: VecDeque::new(),
        told_at: now,
        restless,
        over: None,
    };
    let trouble = troubles.entry(subject).or_insert_with(|| fresh(false));
    if let Some(over) = trouble.over {
        *trouble = fresh(now - over < CALM);
    }
    trouble.calls += 1;
    trouble.last = now;
    trouble.failing.insert(attempt, now);
    message.clone_into(&mut trouble.message);
    let begins = trouble.told.is_empty();
    let enough = trouble.told.len() >= MESSAGES && now - trouble.told_at < ANOTHER;
    if enough || trouble.told.iter().any(|told| is_alike(told, message)) {
        return None;
    }
    if trouble.told.len() >= MESSAGES {
        trouble.told.pop_front();
    }
    trouble.told.push_back(message.to_owned());
    trouble.told_at = now;
    let (subject_, message, advice) = (subject.to_string(), message.to_owned(), advice(subject, message));
    Some(if begins {
        Line::Begun { what: subject_, attempt: what, message, advice }
    } else {
        Line::Changed { what: subject_, attempt: what, message, advice }
    })
}

/// Whether two messages say the same but for a time or a number in them. A status that they begin with counts.
fn is_alike(a: &str, b: &str) -> bool {
    let status = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
    let words = |text: &str| text.bytes().filter(|byte| !byte.is_ascii_digit()).collect::<Vec<_>>();
    a[..status(a)] == b[..status(b)] && words(a) == words(b)
}

fn note_success(
    troubles: &mut BTreeMap<Subject, Trouble>,
    subject: Subject,
    attempt: Attempt,
    now: Instant,
) -> Option<Line> {
    let trouble = troubles.get_mut(&subject)?;
    if let Some(over) = trouble.over {
        if now - over >= CALM {
            troubles.remove(&subject);
        }
        return None;
    }
    trouble.failing.remove(&attempt);
    trouble.failing.retain(|_, last| now - *last < FORGOTTEN);
    if !trouble.failing.is_empty() || (trouble.restless && now - trouble.last < CALM) {
        return None;
    }
    trouble.over = Some(now);
    Some(Line::Over { what: subject.to_string(), lasted: now - trouble.since, calls: trouble.calls })
}

fn tell(line: Option<Line>) {
    match line {
        None => {}
        Some(Line::Begun { what, attempt, message, advice }) => {
            tracing::warn!(attempt, error = message, advice, "{what}: trouble begins");
        }
        Some(Line::Changed { what, attempt, message, advice }) => {
            tracing::warn!(attempt, error = message, advice, "{what}: trouble goes on, with another error");
        }
        Some(Line::Over { what, lasted, calls }) => {
            tracing::info!(seconds = lasted.as_secs(), failed_calls = calls, "{what}: trouble is over");
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// What a store that is away answers.
    pub fn away() -> Result<(), StoreError> {
        Err(StoreError::Unavailable { message: "away".to_owned() })
    }

    const A: Attempt = Attempt("a", Some(InstallationId(1)));
    const B: Attempt = Attempt("b", Some(InstallationId(2)));

    /// Plays (second, attempt, error or none) against one subject; the lines, each with the second it came at.
    fn play(calls: &[(u64, Attempt, Option<&str>)]) -> Vec<(u64, String)> {
        let (mut troubles, begin) = (BTreeMap::new(), Instant::now());
        let mut lines = Vec::new();
        for &(second, attempt, error) in calls {
            let now = begin + Duration::from_secs(second);
            let line = match error {
                Some(error) => note_failure(&mut troubles, Subject::Kubernetes, attempt, attempt.0, error, now),
                None => note_success(&mut troubles, Subject::Kubernetes, attempt, now),
            };
            lines.extend(line.map(|line| {
                let text = match line {
                    Line::Begun { message, .. } => format!("begun {message}"),
                    Line::Changed { message, .. } => format!("changed {message}"),
                    Line::Over { lasted, calls, .. } => format!("over {} {calls}", lasted.as_secs()),
                };
                (second, text)
            }));
        }
        lines
    }

    fn lines(expected: &[(u64, &str)]) -> Vec<(u64, String)> {
        expected.iter().map(|&(at, text)| (at, text.to_owned())).collect()
    }

    #[test]
    fn a_trouble_is_one_line_when_it_begins_and_one_when_it_is_over() {
        assert_eq!(play(&[(0, A, None), (1, B, None)]), []);
        let mut outage: Vec<_> = (0..1000).map(|i| (i, if i % 2 == 0 { A } else { B }, Some("away"))).collect();
        outage.extend([(1000, A, None), (1001, A, None), (1002, B, None), (1003, B, None), (1004, A, None)]);
        assert_eq!(play(&outage), lines(&[(0, "begun away"), (1002, "over 1002 1000")]), "over when both work again");
    }

    #[test]
    fn what_comes_and_goes_is_no_flood() {
        let flapping: Vec<_> = (0..3600).map(|i| (i, A, (i % 2 == 0).then_some("away"))).collect();
        let told = play(&flapping);
        assert!(told.len() <= 4, "{told:?}");
        assert_eq!(told.last().unwrap().1, "begun away", "what is not over is not told to be");
        // Once it is calm, it is over, and what comes later is news.
        let mut calm = flapping;
        calm.extend([(3700, A, None), (3701, A, None), (4000, A, None), (4001, A, Some("away")), (4002, A, None)]);
        let told = play(&calm);
        let expected = lines(&[(3700, "over 3698 1799"), (4001, "begun away"), (4002, "over 1 1")]);
        assert_eq!(told[told.len() - 3..], expected);
    }

    #[test]
    fn another_error_is_told_but_not_every_number_in_one() {
        let faces = [(0, A, Some("refused")), (1, A, Some("503")), (2, A, Some("refused")), (3, A, Some("503"))];
        assert_eq!(play(&faces), lines(&[(0, "begun refused"), (1, "changed 503")]));
        let limits = [(0, A, Some("limit until 10:00")), (60, A, Some("limit until 11:30")), (120, A, None)];
        assert_eq!(play(&limits), lines(&[(0, "begun limit until 10:00"), (120, "over 120 2")]));
        let statuses = [(0, A, Some("503: no")), (1, A, Some("401: no"))];
        assert_eq!(play(&statuses).len(), 2, "a refused key behind an outage is told of");
        let texts: Vec<String> = (0..100).map(|i| format!("request {}", "x".repeat(i))).collect();
        let numbered: Vec<_> = texts.iter().enumerate().map(|(i, text)| (i as u64, A, Some(text.as_str()))).collect();
        assert_eq!(play(&numbered).len(), MESSAGES + 1, "then one a minute");
    }

    #[test]
    fn what_is_never_tried_again_does_not_keep_a_trouble_alive() {
        let calls = [(0, A, Some("away")), (1, B, Some("away")), (2, B, None), (179, B, None), (180, B, None)];
        assert_eq!(play(&calls), lines(&[(0, "begun away"), (180, "over 180 2")]));
    }

    #[test]
    fn a_watch_that_broke_is_over_when_a_call_works_and_a_call_is_not_when_a_watch_does() {
        let notices = Notices::default();
        let away = || Err::<(), _>(ClusterError::Unavailable { message: "away".to_owned() });
        notices.watch_broke("watch nodes", "away", false);
        assert_eq!(notices.now().len(), 1);
        notices.cluster("list pods", &Ok(()));
        assert_eq!(notices.now(), Vec::<String>::new());
        notices.cluster("create a pod", &away());
        notices.watch_shows("watch pods");
        assert_eq!(notices.now().len(), 1);
    }

    #[test]
    fn a_watch_that_is_refused_stays_a_trouble_while_others_and_calls_work() {
        let notices = Notices::default();
        notices.watch_broke("watch nodes", "500", true);
        notices.watch_shows("watch pods");
        notices.cluster("list pods", &Ok(()));
        assert_eq!(notices.now(), ["Kubernetes: 500 (for 0 s, 1 calls)"]);
        notices.watch_shows("watch nodes");
        assert_eq!(notices.now(), Vec::<String>::new());
    }

    #[test]
    fn who_stands_by_has_no_troubles_of_the_term_that_ended() {
        let notices = Notices::default();
        for attempt in ["write", "renew leadership", "read what changed"] {
            notices.store(attempt, &away());
        }
        notices.cluster("list pods", &Err::<(), _>(ClusterError::Unavailable { message: "away".to_owned() }));
        assert_eq!(notices.now().len(), 2);
        notices.stand_by();
        notices.store("ask for leadership", &away());
        assert_eq!(notices.now(), ["Postgres: away (for 0 s, 4 calls)"]);
        notices.stand_by();
        notices.store("ask for leadership", &Ok(()));
        assert_eq!(notices.now(), Vec::<String>::new());
    }

    #[test]
    fn a_page_that_could_not_be_read_is_forgotten_when_anything_works_and_a_write_that_failed_is_not() {
        let notices = Notices::default();
        notices.store_once("read for /usage", &away());
        assert_eq!(notices.now().len(), 1);
        notices.store("record deliveries", &Ok(()));
        assert_eq!(notices.now(), Vec::<String>::new());
        notices.store("record deliveries", &away());
        notices.store_once("read for /usage", &Ok(()));
        assert_eq!(notices.now().len(), 1, "what is read says nothing of what is written");
    }

    #[test]
    fn what_is_said_is_the_latest() {
        let notices = Notices::default();
        let away = |message: &str| Err::<(), _>(ClusterError::Unavailable { message: message.to_owned() });
        for message in ["closed", "reset", "refused", "no answer"] {
            notices.cluster("list pods", &away(message));
        }
        assert_eq!(notices.now(), ["Kubernetes: no answer (for 0 s, 4 calls)"]);
    }

    #[test]
    fn what_is_not_tried_any_more_is_no_trouble_now() {
        let (mut troubles, begin) = (BTreeMap::new(), Instant::now());
        note_failure(&mut troubles, Subject::Store, A, A.0, "away", begin);
        for (seconds, open) in [(179, 1), (180, 0)] {
            assert_eq!(sentences(&troubles, begin + Duration::from_secs(seconds)).len(), open);
        }
    }

    #[test]
    fn any_call_that_works_shows_a_suspension_to_be_over_and_nothing_of_what_another_may_not_do() {
        let notices = Notices::default();
        let id = Some(InstallationId(7));
        let refused = || GitHubError::Refused { status: 403, message: "no".to_owned() };
        for (error, over) in [
            (GitHubError::InstallationGone, true),
            (GitHubError::InstallationSuspended, true),
            (GitHubError::RateLimited { until: None }, false),
            (refused(), false),
            (GitHubError::Torn, false),
        ] {
            notices.github("list runners", App::Organization, id, &Err::<(), _>(error));
            assert_eq!(notices.now().len(), 1);
            notices.github("make a JIT configuration", App::Organization, id, &Ok(()));
            assert_eq!(notices.now().is_empty(), over);
            notices.github("list runners", App::Organization, id, &Ok(()));
        }
    }

    #[test]
    fn silence_is_over_when_anybody_is_answered_and_an_error_when_its_own_call_works() {
        let notices = Notices::default();
        let away = |message: &str| Err::<(), _>(GitHubError::Unavailable { message: message.to_owned() });
        for (message, over) in [("connection refused", true), ("500: Server Error", false)] {
            notices.github("read the delivery log", App::Personal, None, &away(message));
            notices.github("ask about a job", App::Personal, Some(InstallationId(601)), &Ok(()));
            assert_eq!(notices.now().is_empty(), over, "{message}");
            notices.github("read the delivery log", App::Personal, None, &Ok(()));
            assert_eq!(notices.now(), Vec::<String>::new(), "{message}");
        }
    }

    #[test]
    fn a_limit_wants_nothing_done() {
        let installation = Subject::Installation(App::Organization, InstallationId(7));
        assert!(advice(installation, "a limit is reached until 2026-11-27T00:40:54Z").starts_with("nothing:"));
        assert!(advice(installation, SUSPENDED).contains("wait"));
        assert!(advice(installation, TORN).starts_with("nothing:"));
        assert!(advice(installation, "refused with 403: no").contains("permissions"));
        assert_eq!(refused(403, "no"), "refused with 403: no");
        assert_eq!(refused(0, "no such path"), "refused: no such path", "nobody was asked");
        let log = Subject::Deliveries(App::Personal);
        assert_eq!(log.to_string(), "GitHub, as the App for personal accounts, for its deliveries");
    }

    #[test]
    fn a_refused_key_names_its_variable() {
        assert!(advice(Subject::GitHub(App::Organization), "401: bad").contains("GHAPP_ORG_PRIVATE_KEY"));
        assert!(advice(Subject::GitHub(App::Personal), "401: bad").contains("GHAPP_PERSONAL_PRIVATE_KEY"));
    }

    #[test]
    fn installations_and_apps_are_told_apart() {
        let notices = Notices::default();
        let away = || Err::<(), _>(GitHubError::Unavailable { message: "away".to_owned() });
        let limited = || Err::<(), _>(GitHubError::RateLimited { until: None });
        for id in 1..100 {
            notices.github("poll", App::Organization, Some(InstallationId(id)), &away());
        }
        assert_eq!(
            notices.now().len(),
            1,
            "one outage, however many installations it is seen from: {:?}",
            notices.now()
        );
        notices.github("poll", App::Personal, Some(InstallationId(7)), &limited());
        let now = notices.now();
        assert_eq!(now.len(), 2, "{now:?}");
        assert!(now[0].starts_with("GitHub, as the App for organisations: away (for 0 s, 99 calls)"), "{now:?}");
        assert!(now[1].starts_with("GitHub, for installation 7: a limit is reached"), "{now:?}");
        for id in 1..100 {
            notices.github("mint", App::Organization, Some(InstallationId(id)), &Err::<(), _>(GitHubError::NotFound));
        }
        notices.github("poll", App::Personal, Some(InstallationId(7)), &Ok(()));
        assert_eq!(notices.now(), Vec::<String>::new());
    }
}
