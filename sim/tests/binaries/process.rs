//! A program of ours as a process of its own.

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, OnceLock},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};

/// The directory that ghfe and scheduler have been built into: they are another package's, so cargo does not tell.
fn built() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let own = Path::new(env!("CARGO_BIN_EXE_demo")).parent().unwrap();
        let mut cargo = Command::new(env!("CARGO"));
        // As `cargo test --workspace` has just built them, so as a rule nothing is left to do.
        cargo.args(["build", "--quiet", "--locked", "--workspace", "--bin", "ghfe", "--bin", "scheduler"]);
        cargo.arg("--target-dir").arg(own.parent().unwrap()).current_dir(env!("CARGO_MANIFEST_DIR"));
        if own.ends_with("release") {
            cargo.arg("--release");
        }
        let out = cargo.output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        own.to_owned()
    })
}

/// Waits for a condition.
pub async fn until<T>(what: &str, limit: Duration, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let end = Instant::now() + limit;
    loop {
        if let Some(found) = condition().await {
            return found;
        }
        assert!(Instant::now() < end, "not within {limit:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A running program. It is killed when it is dropped.
pub struct Process {
    name: String,
    child: Child,
    errors: Arc<Mutex<Vec<String>>>,
    reading: Option<JoinHandle<()>>,
}

impl Process {
    /// Starts `ghfe` or `scheduler` with this environment and nothing else.
    pub fn start(name: &str, env: &[(&str, String)]) -> Self {
        let mut command = Command::new(built().join(name));
        command.env_clear().envs(env.iter().map(|(name, value)| (name, value)));
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let errors = Arc::new(Mutex::new(Vec::new()));
        let (kept, lines) = (errors.clone(), BufReader::new(child.stderr.take().unwrap()).lines());
        let reading = thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                kept.lock().unwrap().push(line);
            }
        });
        Self { name: name.to_owned(), child, errors, reading: Some(reading) }
    }

    /// What it wrote to standard error so far.
    pub fn errors(&self) -> String {
        self.errors.lock().unwrap().join("\n")
    }

    /// Where it listens, once it does.
    pub async fn address(&mut self) -> String {
        until("listening", Duration::from_secs(60), async || {
            let gone = self.child.try_wait().unwrap();
            assert_eq!(gone, None, "{} ended: {}", self.name, self.errors());
            let (_, rest) = self.errors().split_once("\"address\":\"").map(|(a, b)| (a.to_owned(), b.to_owned()))?;
            Some(rest.split('"').next().unwrap().to_owned())
        })
        .await
    }

    pub fn signal(&self, signal: &str) {
        let status = Command::new("kill").arg(signal).arg(self.child.id().to_string()).status().unwrap();
        assert!(status.success());
    }

    /// Its end, and everything it wrote to standard error.
    pub async fn ended(mut self, limit: Duration) -> (ExitStatus, String) {
        let name = self.name.clone();
        let status = until(&format!("the end of {name}"), limit, async || self.child.try_wait().unwrap()).await;
        self.reading.take().unwrap().join().unwrap();
        (status, self.errors())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // One that has ended cannot be killed, and need not be.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One request; no answer is `None`.
pub async fn ask(request: http::Request<Full<Bytes>>) -> Option<(u16, String)> {
    let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let answer = client.request(request).await.ok()?;
    let status = answer.status().as_u16();
    let body = answer.into_body().collect().await.ok()?.to_bytes();
    Some((status, String::from_utf8_lossy(&body).into_owned()))
}

/// A page's text; `None` when it is not answered 200.
pub async fn get(address: &str, path: &str) -> Option<String> {
    page(address, path).await.filter(|(status, _)| *status == 200).map(|(_, text)| text)
}

/// A page with its status; no answer is `None`.
pub async fn page(address: &str, path: &str) -> Option<(u16, String)> {
    ask(http::Request::get(format!("http://{address}{path}")).body(Full::default()).unwrap()).await
}
