//! Configuration: file and environment, parsed once; every mistake is told at once, before anything starts.

mod cluster;
mod document;
mod file;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::SocketAddr,
    path::Path,
};

use engine::{ids::Realm, policy::Policy};
use secrecy::SecretString;

use crate::{ghfe::Capture, github::AppKey, kubernetes::PodSettings};

/// What RISE runs with; used when CONFIG names no other file.
pub const BUILT_IN: &str = include_str!("rise.toml");

/// How a connection string is written.
const POSTGRES: &str = "postgresql://user:password@host:port/database";

/// The environment, as a map: tests make their own.
pub type Environment = BTreeMap<String, String>;

/// Every mistake that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<String>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "the configuration has {} mistake(s):", self.0.len())?;
        self.0.iter().try_for_each(|mistake| writeln!(f, "  - {mistake}"))
    }
}

impl std::error::Error for ConfigErrors {}

/// What both processes need.
#[derive(Debug)]
pub struct Common {
    /// Caps, rules, timeouts.
    pub policy: Policy,
    /// Where to listen.
    pub listen: SocketAddr,
    /// The store.
    pub postgres_url: SecretString,
    /// What to log, as an `env_filter` directive.
    pub log: String,
}

/// The webhook front end's configuration.
#[derive(Debug)]
pub struct GhfeConfig {
    /// What both need.
    pub common: Common,
    /// The webhooks' shared secret.
    pub webhook_secret: SecretString,
    /// Where production forwards staging's deliveries.
    pub staging_url: Option<http::Uri>,
    /// This service's own address, for links.
    pub public_url: Option<http::Uri>,
    /// Where accepted deliveries are appended.
    pub capture: Option<Capture>,
}

/// The scheduler's configuration.
pub struct SchedulerConfig {
    /// What both need.
    pub common: Common,
    /// How pods are made.
    pub pods: PodSettings,
    /// GitHub's REST API.
    pub github_url: http::Uri,
    /// The App for organisations.
    pub organization: AppKey,
    /// The App for personal accounts.
    pub personal: AppKey,
    /// The cluster, and who this service is there.
    pub cluster: kube::Config,
}

/// Reads variables and collects mistakes.
struct Reader<'a> {
    env: &'a Environment,
    read_file: &'a dyn Fn(&str) -> std::io::Result<String>,
    wrong: Vec<String>,
    /// The owners with repositories that staging serves, by name.
    staged: BTreeSet<String>,
}

impl<'a> Reader<'a> {
    fn new(env: &'a Environment, read_file: &'a dyn Fn(&str) -> std::io::Result<String>) -> Self {
        Self { env, read_file, wrong: Vec::new(), staged: BTreeSet::new() }
    }

    fn wrong(&mut self, what: impl Into<String>) {
        self.wrong.push(what.into());
    }

    fn is_set(&self, name: &str) -> bool {
        self.env.get(name).is_some_and(|value| !value.trim().is_empty())
    }

    /// A variable that says something.
    fn get(&mut self, name: &str) -> Option<&'a str> {
        let value = self.env.get(name).filter(|_| self.is_set(name))?;
        if value.contains(char::REPLACEMENT_CHARACTER) {
            self.wrong(format!("{name} is not text in UTF-8: write it anew"));
            return None;
        }
        Some(value)
    }

    /// A variable that must be there; its value is never part of a message.
    fn need(&mut self, name: &str, what: &str) -> Option<&'a str> {
        let known = self.wrong.len();
        let value = self.get(name);
        if value.is_none() && self.wrong.len() == known {
            self.wrong(format!("{name} is not set: it must hold {what}"));
        }
        value
    }

    fn realm(&mut self) -> Realm {
        match self.need("PROD", "true or false") {
            Some("true") => Realm::Prod,
            Some("false") | None => Realm::Staging,
            Some(other) => {
                self.wrong(format!("PROD is {other:?}: write true or false"));
                Realm::Staging
            }
        }
    }

    fn url(&mut self, name: &str) -> Option<http::Uri> {
        let text = self.get(name)?;
        let good = address(text);
        if good.is_none() {
            self.wrong(format!("{name} is not an address: write https://host or http://host:port"));
        }
        good
    }

    fn common(&mut self, realm: Realm) -> Option<(Common, PodSettings, file::Apps)> {
        let listen = self.get("LISTEN").unwrap_or("0.0.0.0:8080");
        let listen = match listen.parse() {
            Ok(listen) => Some(listen),
            Err(_) => {
                self.wrong(format!("LISTEN is {listen:?}: write an address and a port, such as 0.0.0.0:8080"));
                None
            }
        };
        let postgres = self.need("POSTGRES_URL", POSTGRES);
        if postgres.is_some_and(|url| !is_postgres(url)) {
            self.wrong(format!("POSTGRES_URL is not a connection string: write {POSTGRES}"));
        }
        let log = self.log();
        let (policy, pods, apps) = self.policy(realm)?;
        Some((Common { policy, listen: listen?, postgres_url: SecretString::from(postgres?), log: log? }, pods, apps))
    }

    fn log(&mut self) -> Option<String> {
        let level = self.get("LOGLEVEL").unwrap_or("info").to_lowercase();
        // Its own words alone: a filter takes any other for the name of a module, and then nothing is logged.
        let words = ["off", "error", "warn", "info", "debug", "trace"];
        let plain = level.chars().all(|c| c.is_ascii_alphabetic());
        if tracing_subscriber::EnvFilter::try_new(&level).is_ok() && (!plain || words.contains(&level.as_str())) {
            return Some(log_filter(&level));
        }
        self.wrong(format!(
            "LOGLEVEL is {level:?}: write error, warn, info, debug or trace, or a filter such as info,adapters=debug"
        ));
        None
    }

    fn policy(&mut self, realm: Realm) -> Option<(Policy, PodSettings, file::Apps)> {
        let (text, name) = match self.get("CONFIG") {
            None => (BUILT_IN.to_owned(), "the built-in configuration".to_owned()),
            Some(path) => match (self.read_file)(path) {
                Ok(text) => (text, path.to_owned()),
                Err(error) => {
                    self.wrong(format!("CONFIG names {path:?}, which cannot be read: {error}"));
                    return None;
                }
            },
        };
        let read = file::read(&text, &name, realm);
        self.staged = read.staged;
        match read.made {
            Ok(made) => Some(made),
            Err(wrong) => {
                self.wrong.extend(wrong);
                None
            }
        }
    }

    fn key(&mut self, name: &str, id: Option<u64>) -> Option<AppKey> {
        let pem = self.need(name, "the App's RSA private key in PEM form")?;
        // Only a signature shows that a key is one: the form alone can hold a public or a damaged key.
        let header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::RS256);
        let key = jsonwebtoken::EncodingKey::from_rsa_pem(pem.as_bytes()).ok();
        let Some(key) = key.filter(|key| jsonwebtoken::encode(&header, &(), key).is_ok()) else {
            self.wrong(format!(
                "{name} is not an RSA private key in PEM form: paste it whole, with its BEGIN and END lines"
            ));
            return None;
        };
        Some(AppKey { id: id?, key })
    }

    fn cluster(&mut self) -> Option<kube::Config> {
        let text = self.need("K8S_KUBECONFIG", "the text of a kubeconfig");
        self.wrong.extend(cluster::proxies(self.env));
        cluster::read(text?, cluster::LIMIT).map_err(|wrong| self.wrong.extend(wrong)).ok()
    }

    /// Opened at once: only that shows whether it can be.
    fn capture(&mut self) -> Option<Capture> {
        let path = Path::new(self.get("CAPTURE")?);
        let opened = Capture::open(path).map_err(|error| {
            self.wrong(format!("CAPTURE names {}, which cannot be opened for appending: {error}", path.display()));
        });
        opened.ok()
    }

    fn finish<T>(self, made: Option<T>) -> Result<T, ConfigErrors> {
        match made {
            Some(made) if self.wrong.is_empty() => Ok(made),
            Some(_) | None => Err(ConfigErrors(self.wrong)),
        }
    }
}

/// An address that can be called: where no scheme, no host or no port is, a client finds that out only in its first call.
fn address(text: &str) -> Option<http::Uri> {
    let parsed = text.parse::<http::Uri>().ok();
    let is_host = |host: &str| !host.is_empty();
    let is_web = |uri: &http::Uri| matches!(uri.scheme_str(), Some("http" | "https"));
    parsed.filter(|uri| is_web(uri) && uri.host().is_some_and(is_host) && has_port(uri) && uri.query().is_none())
}

/// Whether what stands after the host, if anything does, is a port.
fn has_port(uri: &http::Uri) -> bool {
    let (authority, host) = (uri.authority().map_or("", |it| it.as_str()), uri.host().unwrap_or(""));
    authority.ends_with(host) || uri.port_u16().is_some_and(|port| port > 0)
}

/// The filter that a level stands for. Up to `info` libraries do not tell of each call and connection that fails:
/// [`crate::notices`] tells that it begins, and that it is over. Slow statements are told of all the same. Any other filter
/// is taken as it is.
pub fn log_filter(level: &str) -> String {
    match level {
        "error" => "error,kube=off".to_owned(),
        "warn" | "info" => format!("{level},kube=off,sqlx=error,sqlx::query=warn"),
        _ => level.to_owned(),
    }
}

#[cfg(feature = "postgres")]
fn is_postgres(url: &str) -> bool {
    let scheme = url.starts_with("postgres://") || url.starts_with("postgresql://");
    scheme && url.parse::<sqlx::postgres::PgConnectOptions>().is_ok()
}

#[cfg(not(feature = "postgres"))]
fn is_postgres(_: &str) -> bool {
    true
}

/// Reads the webhook front end's configuration.
pub fn ghfe(
    env: &Environment,
    read_file: &dyn Fn(&str) -> std::io::Result<String>,
) -> Result<GhfeConfig, ConfigErrors> {
    let mut reader = Reader::new(env, read_file);
    let realm = reader.realm();
    let common = reader.common(realm);
    let secret = reader.need("GHAPP_WEBHOOK_SECRET", "the webhooks' shared secret").map(SecretString::from);
    let staged: Vec<String> = std::mem::take(&mut reader.staged).into_iter().collect();
    if realm == Realm::Prod && !staged.is_empty() && !reader.is_set("STAGING_URL") {
        reader.wrong(format!(
            "STAGING_URL is not set: production forwards there what the configuration marks as staging's ({})",
            staged.join(", ")
        ));
    }
    let staging_url = reader.url("STAGING_URL");
    let prod_url = reader.url("PROD_URL");
    if realm == Realm::Prod && staging_url.is_some() && staging_url == prod_url {
        reader.wrong("STAGING_URL is PROD_URL: what is forwarded would come back for ever; give staging's own address");
    }
    let capture = reader.capture();
    let made = common.zip(secret).map(|((common, _, _), webhook_secret)| GhfeConfig {
        common,
        webhook_secret,
        public_url: if realm == Realm::Prod { prod_url } else { staging_url.clone() },
        staging_url: staging_url.filter(|_| realm == Realm::Prod),
        capture,
    });
    reader.finish(made)
}

/// Reads the scheduler's configuration.
pub fn scheduler(
    env: &Environment,
    read_file: &dyn Fn(&str) -> std::io::Result<String>,
) -> Result<SchedulerConfig, ConfigErrors> {
    let mut reader = Reader::new(env, read_file);
    let realm = reader.realm();
    let common = reader.common(realm);
    let apps = common.as_ref().map(|(_, _, apps)| *apps);
    let organization = reader.key("GHAPP_ORG_PRIVATE_KEY", apps.map(|apps| apps.organization));
    let personal = reader.key("GHAPP_PERSONAL_PRIVATE_KEY", apps.map(|apps| apps.personal));
    let cluster = reader.cluster();
    let github_url = match reader.get("GITHUB_API_URL") {
        None => Some(http::Uri::from_static("https://api.github.com")),
        Some(_) => reader.url("GITHUB_API_URL"),
    };
    let made = (|| {
        let (common, pods, _) = common?;
        let (organization, personal, cluster) = (organization?, personal?, cluster?);
        Some(SchedulerConfig { common, pods, github_url: github_url?, organization, personal, cluster })
    })();
    reader.finish(made)
}

/// This process's environment. Bytes that are no text become U+FFFD, which is told of where it matters.
pub fn process_environment() -> Environment {
    let text = |value: std::ffi::OsString| value.to_string_lossy().into_owned();
    std::env::vars_os().map(|(name, value)| (text(name), text(value))).collect()
}

/// The built-in policy of a realm, and its pods' settings. The built-in file is held to be right by a test.
pub fn built_in(realm: Realm) -> Result<(Policy, PodSettings), ConfigErrors> {
    let made = file::read(BUILT_IN, "the built-in configuration", realm).made;
    made.map(|(policy, pods, _)| (policy, pods)).map_err(ConfigErrors)
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        sync::{Arc, Mutex},
    };

    use super::*;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn at_the_usual_levels_libraries_do_not_tell_of_each_call_that_fails() {
        for (level, expected) in [
            ("error", "adapters-error "),
            ("warn", "adapters-error adapters-warn slow-statement "),
            ("info", "adapters-error adapters-warn adapters-info slow-statement "),
            ("info,adapters=debug", "adapters-error adapters-warn adapters-info slow-statement kube pool "),
        ] {
            let kept = Kept::default();
            let writer = kept.clone();
            let filter = tracing_subscriber::EnvFilter::new(log_filter(level));
            let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(move || writer.clone());
            tracing::subscriber::with_default(subscriber.with_ansi(false).finish(), || {
                tracing::error!(target: "adapters::notices", "adapters-error");
                tracing::warn!(target: "adapters::notices", "adapters-warn");
                tracing::info!(target: "adapters::scheduler", "adapters-info");
                tracing::warn!(target: "sqlx::query", "slow-statement");
                tracing::error!(target: "kube_client::client::builder", "kube");
                tracing::info!(target: "sqlx_core::pool::inner", "pool");
            });
            let text = String::from_utf8(kept.0.lock().unwrap().clone()).unwrap();
            let told: String = text.lines().map(|line| line.rsplit(' ').next().unwrap().to_owned() + " ").collect();
            assert_eq!(told, expected, "{level}");
        }
    }
}
