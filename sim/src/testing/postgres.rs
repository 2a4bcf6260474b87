//! A private Postgres cluster for each test process, and a fresh database for each test.
//!
//! The cluster listens on a Unix socket in a directory of its own, and ends with the process that started it, however that
//! ends: a supervising shell waits on a pipe that closes with it.

use std::{
    fs,
    io::{self, Write},
    os::unix::{fs::chown, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
};

use secrecy::SecretString;
use sqlx::{Connection, PgConnection, postgres::PgConnectOptions};

/// The database owner in every private cluster.
const USER: &str = "service";
/// Where a supervisor keeps the server for as long as its input stays open.
const SUPERVISE: &str = r#"
"$1/postgres" -D "$2/data" -k "$2" -h '' -c fsync=off -c max_connections=200 >"$2/log" 2>&1 &
server=$!
cat >/dev/null
kill -QUIT $server 2>/dev/null
wait $server 2>/dev/null
rm -rf "$2"
"#;

/// A running private cluster.
pub struct Cluster {
    dir: PathBuf,
    bin: PathBuf,
    /// Whom the server runs as, when this process is root: Postgres refuses to be root.
    uid: Option<(u32, u32)>,
    supervisor: Child,
}

/// This process's cluster, started when first asked for.
///
/// # Panics
/// When Postgres is not installed, saying how to install it: a test that needs Postgres never skips itself.
pub fn cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(|| match Cluster::start() {
        Ok(cluster) => cluster,
        Err(error) => panic!("no private Postgres cluster: {error}"),
    })
}

/// A fresh, empty database in this process's cluster; its connection string.
pub async fn database() -> SecretString {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let cluster = cluster();
    let name = format!("test_{}", COUNT.fetch_add(1, Ordering::Relaxed));
    let made = async {
        let mut connection = PgConnection::connect_with(&cluster.options("postgres")).await?;
        let create = sqlx::AssertSqlSafe(format!("CREATE DATABASE {name} TEMPLATE template0"));
        sqlx::query(create).execute(&mut connection).await?;
        connection.close().await
    };
    if let Err(error) = made.await {
        panic!("no database: {error}");
    }
    SecretString::from(cluster.url(&name))
}

fn bin_dir() -> io::Result<PathBuf> {
    let on_path =
        std::env::var_os("PATH").into_iter().flat_map(|path| std::env::split_paths(&path).collect::<Vec<_>>());
    let packaged =
        fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten().map(|entry| entry.path().join("bin"));
    let mut dirs: Vec<PathBuf> = packaged.chain(on_path).filter(|dir| dir.join("initdb").exists()).collect();
    dirs.sort();
    let found = dirs.pop().ok_or_else(|| {
        io::Error::other(
            "no initdb found: install the package postgresql (dev/test does), or put its bin directory on PATH",
        )
    })?;
    // initdb may be a link away from its siblings.
    let real = fs::canonicalize(found.join("initdb"))?;
    Ok(real.parent().map_or(found, Path::to_owned))
}

/// The ids of `postgres`, or of `nobody`.
fn unprivileged() -> io::Result<(u32, u32)> {
    let users = fs::read_to_string("/etc/passwd")?;
    let ids = |name: &str| {
        let line = users.lines().find(|line| line.split(':').next() == Some(name))?;
        let mut fields = line.split(':').skip(2);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    };
    ids("postgres")
        .or_else(|| ids("nobody"))
        .ok_or_else(|| io::Error::other("neither a user postgres nor nobody exists"))
}

fn is_root() -> io::Result<bool> {
    let out = Command::new("id").arg("-u").output()?;
    Ok(out.stdout.trim_ascii() == b"0")
}

impl Cluster {
    /// Makes a cluster and starts its server.
    pub fn start() -> io::Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let bin = bin_dir()?;
        let uid = if is_root()? { Some(unprivileged()?) } else { None };
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        // Short: a socket's path has at most 107 characters.
        let dir = PathBuf::from(format!("/tmp/pg-test-{}-{number}", std::process::id()));
        fs::create_dir(&dir)?;
        if let Some((user, group)) = uid {
            chown(&dir, Some(user), Some(group))?;
        }
        let mut init = command(uid, bin.join("initdb"));
        init.args(["-U", USER, "-A", "trust", "--no-sync", "-E", "UTF8", "--locale=C.UTF-8", "-D"])
            .arg(dir.join("data"));
        let out = init.output()?;
        if !out.status.success() {
            return Err(io::Error::other(format!("initdb failed: {}", String::from_utf8_lossy(&out.stderr))));
        }
        let mut supervise = command(uid, "sh");
        supervise.arg("-c").arg(SUPERVISE).arg("supervise").arg(&bin).arg(&dir).stdin(Stdio::piped());
        let supervisor = supervise.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let cluster = Self { dir, bin, uid, supervisor };
        cluster.wait_until_ready()?;
        Ok(cluster)
    }

    fn wait_until_ready(&self) -> io::Result<()> {
        let mut ready = command(self.uid, "sh");
        ready.arg("-c").arg(r#"for i in $(seq 600); do "$1/pg_isready" -q -h "$2" && exit 0; sleep 0.05; done; cat "$2/log" >&2; exit 1"#);
        let out = ready.arg("ready").arg(&self.bin).arg(&self.dir).output()?;
        if out.status.success() {
            return Ok(());
        }
        Err(io::Error::other(format!("the server did not come up: {}", String::from_utf8_lossy(&out.stderr))))
    }

    /// A database's connection string.
    pub fn url(&self, database: &str) -> String {
        let host = self.dir.to_string_lossy().replace('/', "%2F");
        format!("postgresql://{USER}@localhost/{database}?host={host}")
    }

    /// The same, for this process's own connections.
    pub fn options(&self, database: &str) -> PgConnectOptions {
        PgConnectOptions::new_without_pgpass().socket(&self.dir).username(USER).database(database)
    }

    /// Stops the server at once and starts it again, as a failover does: every session ends, nothing committed is lost.
    pub fn restart(&self) -> io::Result<()> {
        self.stop()?;
        self.resume()
    }

    /// Stops the server at once: every session ends, and none can be begun.
    pub fn stop(&self) -> io::Result<()> {
        self.control(&["-m", "fast", "stop"])
    }

    /// Starts the server that was stopped.
    pub fn resume(&self) -> io::Result<()> {
        self.control(&["start"])
    }

    fn control(&self, what: &[&str]) -> io::Result<()> {
        let mut control = command(self.uid, self.bin.join("pg_ctl"));
        control.arg("-D").arg(self.dir.join("data")).args(["-w", "-l"]).arg(self.dir.join("log"));
        control.arg("-o").arg(format!("-k {} -h '' -c fsync=off -c max_connections=200", self.dir.display()));
        let status = control.args(what).stdout(Stdio::null()).stderr(Stdio::null()).status()?;
        if status.success() { Ok(()) } else { Err(io::Error::other(format!("pg_ctl {what:?} failed"))) }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some(mut input) = self.supervisor.stdin.take() {
            // Closing it is what ends the server.
            let _ = input.flush();
        }
        let _ = self.supervisor.wait();
    }
}

fn command(uid: Option<(u32, u32)>, program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    command.current_dir("/");
    if let Some((user, group)) = uid {
        command.uid(user).gid(group);
    }
    command
}
