//! Configuration: every mistake at once, each with its place, and no secret in any of them.

use std::{collections::BTreeSet, io, os::unix::fs::PermissionsExt};

use adapters::config::{self, BUILT_IN, ConfigErrors, Environment};
use aws_lc_rs::{encoding::AsDer, rsa, signature::KeyPair};
use engine::{
    ids::{OwnerId, Realm, Span},
    policy::{Staging, Timeouts},
};

const SECRET: &str = "c2VjcmV0-nobody-may-see-this";
const KUBECONFIG: &str = "apiVersion: v1\nkind: Config\ncurrent-context: c\n\
clusters: [{name: k, cluster: {server: \"https://127.0.0.1:6443\"}}]\n\
contexts: [{name: c, context: {cluster: k, user: u}}]\n\
users: [{name: u, user: {token: c2VjcmV0-nobody-may-see-this}}]\n";

fn pem(label: &str, der: &[u8]) -> String {
    let mut text = String::new();
    for group in der.chunks(3) {
        let bits = group.iter().fold(0u32, |bits, &byte| bits << 8 | u32::from(byte)) << (8 * (3 - group.len()));
        for i in 0..4 {
            let sextet = (bits >> (18 - 6 * i)) & 63;
            let digit = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"[sextet as usize];
            text.push(if i <= group.len() { char::from(digit) } else { '=' });
        }
    }
    format!("-----BEGIN {label}-----\n{text}\n-----END {label}-----\n")
}

/// A private key, and its public half.
fn key() -> (Vec<u8>, Vec<u8>) {
    let pair = rsa::KeyPair::generate(rsa::KeySize::Rsa2048).unwrap();
    let der: aws_lc_rs::encoding::Pkcs8V1Der<'_> = pair.as_der().unwrap();
    let public: aws_lc_rs::encoding::PublicKeyX509Der<'_> = pair.public_key().as_der().unwrap();
    (der.as_ref().to_vec(), public.as_ref().to_vec())
}

fn good() -> Environment {
    let key = pem("PRIVATE KEY", &key().0);
    environment(&[
        ("PROD", "true"),
        ("POSTGRES_URL", &format!("postgresql://user:{SECRET}@localhost:5432/db?sslmode=require")),
        ("GHAPP_WEBHOOK_SECRET", SECRET),
        ("STAGING_URL", "https://staging.example/hook"),
        ("PROD_URL", "https://prod.example"),
        ("K8S_KUBECONFIG", KUBECONFIG),
        ("GHAPP_ORG_PRIVATE_KEY", &key),
        ("GHAPP_PERSONAL_PRIVATE_KEY", &key),
    ])
}

fn environment(pairs: &[(&str, &str)]) -> Environment {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn no_file(_: &str) -> io::Result<String> {
    Err(io::Error::from(io::ErrorKind::NotFound))
}

fn shown(errors: &ConfigErrors) -> String {
    let text = format!("{errors}\n{errors:?}");
    assert!(!text.contains(SECRET), "{text}");
    text
}

/// The mistakes of one of the two processes; none when it may start.
fn mistakes(process: &str, env: &Environment, file: &str) -> Vec<String> {
    let read = |path: &str| if path == "rise.toml" { Ok(file.to_owned()) } else { no_file(path) };
    let errors = match process {
        "ghfe" => config::ghfe(env, &read).err(),
        _ => config::scheduler(env, &read).err(),
    };
    errors.map_or_else(Vec::new, |errors| {
        shown(&errors);
        errors.0
    })
}

#[test]
fn a_complete_environment_is_taken() {
    let ghfe = config::ghfe(&good(), &no_file).unwrap();
    assert_eq!(ghfe.common.listen.to_string(), "0.0.0.0:8080");
    assert_eq!(ghfe.staging_url.unwrap(), "https://staging.example/hook");
    assert_eq!(ghfe.public_url.unwrap(), "https://prod.example/");
    let scheduler = config::scheduler(&good(), &no_file).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(scheduler.github_url, "https://api.github.com/");
    assert_eq!(scheduler.cluster.cluster_url, "https://127.0.0.1:6443/");
    assert_eq!(scheduler.organization.id, 2_167_633);
    assert_eq!(scheduler.personal.id, 3_131_217);
    assert!(!format!("{:?} {:?}", config::ghfe(&good(), &no_file), scheduler.common).contains(SECRET));
    let mut staging = good();
    staging.insert("PROD".into(), "false".into());
    let ghfe = config::ghfe(&staging, &no_file).unwrap();
    assert_eq!(ghfe.common.policy.realm, Realm::Staging);
    assert!(ghfe.staging_url.is_none(), "staging forwards to nobody");
}

#[test]
fn an_empty_environment_names_everything_that_is_needed() {
    let ghfe = [
        "PROD is not set: it must hold true or false",
        "POSTGRES_URL is not set: it must hold postgresql://user:password@host:port/database",
        "GHAPP_WEBHOOK_SECRET is not set: it must hold the webhooks' shared secret",
    ];
    assert_eq!(mistakes("ghfe", &Environment::new(), ""), ghfe);
    let scheduler = [
        ghfe[0],
        ghfe[1],
        "GHAPP_ORG_PRIVATE_KEY is not set: it must hold the App's RSA private key in PEM form",
        "GHAPP_PERSONAL_PRIVATE_KEY is not set: it must hold the App's RSA private key in PEM form",
        "K8S_KUBECONFIG is not set: it must hold the text of a kubeconfig",
    ];
    assert_eq!(mistakes("scheduler", &Environment::new(), ""), scheduler);
}

#[test]
fn every_variables_mistake_is_told_at_once() {
    let wrong = environment(&[
        ("PROD", "yes"),
        ("POSTGRES_URL", &format!("mysql://user:{SECRET}@localhost/db")),
        ("GHAPP_WEBHOOK_SECRET", " "),
        ("STAGING_URL", "staging.example"),
        ("PROD_URL", "ftp://prod.example"),
        ("LISTEN", "8080"),
        ("LOGLEVEL", "verbose"),
        ("CONFIG", "nowhere.toml"),
        ("GITHUB_API_URL", "https://"),
        ("K8S_KUBECONFIG", "/root/.kube/config"),
        ("GHAPP_ORG_PRIVATE_KEY", &format!("-----BEGIN PRIVATE KEY-----\n{SECRET}\n-----END PRIVATE KEY-----\n")),
        ("GHAPP_PERSONAL_PRIVATE_KEY", "/run/secrets/key.pem"),
    ]);
    let common = [
        "PROD is \"yes\": write true or false",
        "LISTEN is \"8080\": write an address and a port, such as 0.0.0.0:8080",
        "POSTGRES_URL is not a connection string: write postgresql://user:password@host:port/database",
        "LOGLEVEL is \"verbose\": write error, warn, info, debug or trace, or a filter such as info,adapters=debug",
        "CONFIG names \"nowhere.toml\", which cannot be read: entity not found",
    ];
    let address = |name: &str| format!("{name} is not an address: write https://host or http://host:port");
    let key = |name: &str| {
        format!("{name} is not an RSA private key in PEM form: paste it whole, with its BEGIN and END lines")
    };
    let mut ghfe: Vec<String> = common.map(str::to_owned).to_vec();
    ghfe.push("GHAPP_WEBHOOK_SECRET is not set: it must hold the webhooks' shared secret".to_owned());
    ghfe.push(address("STAGING_URL"));
    ghfe.push(address("PROD_URL"));
    assert_eq!(mistakes("ghfe", &wrong, ""), ghfe);
    let mut scheduler: Vec<String> = common.map(str::to_owned).to_vec();
    scheduler.push(key("GHAPP_ORG_PRIVATE_KEY"));
    scheduler.push(key("GHAPP_PERSONAL_PRIVATE_KEY"));
    scheduler.push("K8S_KUBECONFIG is not a kubeconfig: it must be the text of one, not its path".to_owned());
    scheduler.push(address("GITHUB_API_URL"));
    assert_eq!(mistakes("scheduler", &wrong, ""), scheduler);
}

#[test]
fn one_variables_mistake_is_one_message() {
    let (private, public) = key();
    let cut = pem("PRIVATE KEY", &private[..private.len() / 2]);
    let mut damaged = private.clone();
    // Within the numbers of the key: the form stays whole.
    damaged[700] ^= 0x55;
    let with = |from: &str, to: &str| KUBECONFIG.replace(from, to);
    let key = "GHAPP_ORG_PRIVATE_KEY";
    let cluster = "K8S_KUBECONFIG";
    let url = "POSTGRES_URL";
    let not_key = "GHAPP_ORG_PRIVATE_KEY is not an RSA private key in PEM form";
    let not_url = "POSTGRES_URL is not a connection string";
    let no_staging = "STAGING_URL is not set: production forwards there what the configuration marks as staging's \
                      (luhenry, riseproject-dev)";
    let unusable = |why: &str| format!("K8S_KUBECONFIG cannot be used: {why}");
    let authority = format!("6443\", certificate-authority-data: \"{SECRET}\"");
    let cases: Vec<(&str, &str, String, String)> = vec![
        ("ghfe", "STAGING_URL", String::new(), no_staging.into()),
        ("ghfe", "STAGING_URL", "http://user:password@h:x".into(), "STAGING_URL".into()),
        ("ghfe", "STAGING_URL", "http://h:99999/".into(), "STAGING_URL".into()),
        ("ghfe", "PROD_URL", "https://staging.example/hook".into(), "STAGING_URL is PROD_URL".into()),
        ("ghfe", url, "postgresql://localhost:port/db".into(), not_url.into()),
        ("ghfe", url, "postgresql://h/db?sslmode=perhaps".into(), not_url.into()),
        ("ghfe", "LOGLEVEL", "info,adapters=loud".into(), "LOGLEVEL is \"info,adapters=loud\"".into()),
        ("ghfe", "GHAPP_WEBHOOK_SECRET", "a\u{fffd}b".into(), "GHAPP_WEBHOOK_SECRET is not text in UTF-8".into()),
        ("scheduler", key, cut, not_key.into()),
        ("scheduler", key, pem("PRIVATE KEY", &damaged), not_key.into()),
        ("scheduler", key, pem("PUBLIC KEY", &public), not_key.into()),
        ("scheduler", key, pem("CERTIFICATE", SECRET.as_bytes()), not_key.into()),
        ("scheduler", cluster, with("contexts: [", "contexts: []\nother: ["), "K8S_KUBECONFIG has no context".into()),
        ("scheduler", cluster, with("t-context: c", "t-context: d"), unusable("its current-context is \"d\"")),
        ("scheduler", cluster, with("{cluster: k,", "{cluster: l,"), unusable("its context names the cluster \"l\"")),
        ("scheduler", cluster, with("https://127.0.0.1:6443", ""), unusable("its cluster's server is not")),
        ("scheduler", cluster, with("6443\"", &authority), unusable("its cluster's certificate-au")),
        ("scheduler", cluster, with("token: ", "client-key-data: "), unusable("its user's client-key-data is not")),
        (
            "scheduler",
            cluster,
            with("6443\"", "6443\", certificate-authority-data: AAAA"),
            unusable("its certificate-auth"),
        ),
        (
            "scheduler",
            cluster,
            with("token: c2VjcmV0-nobody-may-see-this", "token: \"c2VjcmV0-nobody-may-see-this\\n\""),
            unusable("its user's token holds characters"),
        ),
        (
            "scheduler",
            cluster,
            with("kind: Config", &format!("kind: [{SECRET}")),
            "K8S_KUBECONFIG is not a kubeconfig".into(),
        ),
    ];
    for (process, name, value, message) in cases {
        let mut env = good();
        env.insert(name.to_owned(), value);
        let found = mistakes(process, &env, "");
        assert!(found.len() == 1 && found[0].starts_with(&message), "{name}: {message}: {found:#?}");
    }
}

/// A kubeconfig's user may be known by a program or a file alone, and whatever either says can be a secret.
#[test]
fn what_the_source_of_a_token_says_is_never_shown() {
    let mistake = |user: &str| {
        let mut env = good();
        env.insert("K8S_KUBECONFIG".to_owned(), KUBECONFIG.replace(&format!("token: {SECRET}"), user));
        let found = mistakes("scheduler", &env, "");
        assert!(found.len() <= 1, "{user}: {found:#?}");
        found.into_iter().next().unwrap_or_default()
    };
    let version = "client.authentication.k8s.io/v1";
    let program = |command: &str, script: &str| {
        let script = format!("printf '%s' '{SECRET}' >&2; {script}");
        let env = format!("[{{name: TOKEN, value: {SECRET}}}]");
        format!("exec: {{apiVersion: {version}, command: {command}, args: [-c, {script:?}], env: {env}}}")
    };
    let says = |text: &str| program("sh", &format!("printf '%s' '{}'", text.replace('@', SECRET)));
    let credential = |status: &str| says(&format!(r#"{{"apiVersion": "{version}", "status": {status}}}"#));
    let provider = |config: &str| format!("auth-provider: {{name: gcp, config: {{{config}}}}}");
    let wrote = "the program that gives its user's token wrote";
    let something_else = format!("{wrote} something else: it must write an ExecCredential in JSON");
    for (user, expected) in [
        (
            program("nowhere-to-be-found", ""),
            "the program that gives its user's token cannot be run: entity not found: install it here",
        ),
        (
            program("sh", &format!("echo {SECRET}; exit 3")),
            "the program that gives its user's token failed: exit status: 3: run it by hand to see why",
        ),
        (says("@"), &something_else),
        (says("{\"token\": @"), &something_else),
        (says("[\"@\"]"), &something_else),
        (credential("\"@\""), &something_else),
        (credential("{\"token\": [\"@\"]}"), &something_else),
        (says("{\"token\": \"@\"}"), &format!("{wrote} none: its ExecCredential must have a status")),
        (credential("{\"tokens\": \"@\"}"), &format!("{wrote} neither a token nor a certificate")),
        (
            credential("{\"token\": \"a\", \"expirationTimestamp\": \"@\"}"),
            "its user's token ends at a time that cannot be read: it must be as 2030-01-31T00:00:00Z",
        ),
        (
            credential("{\"clientCertificateData\": \"@\", \"clientKeyData\": \"@\"}"),
            "its user's client key holds no private key in PEM form",
        ),
        (format!("exec: {{apiVersion: {SECRET}}}"), "its user's exec names no command: name the program to run"),
        (format!("tokenFile: /{SECRET}"), "its user's tokenFile names a file that cannot be read: entity not found"),
        (
            format!("client-certificate: /{SECRET}"),
            "its user's client-certificate names a file that cannot be read: entity not found",
        ),
        (
            credential("{\"token\": \"@\\n\"}"),
            "its user's token holds characters that a token cannot have, such as a line break",
        ),
        (
            format!("auth-provider: {{name: {SECRET}}}"),
            "its user's auth-provider cannot be used: give a token, a client certificate, or exec",
        ),
        (provider(&format!("cmd-path: echo, cmd-args: {SECRET}, token-key: t")), &something_else),
        (
            provider(&format!("access-token: {SECRET}, expiry: {SECRET}")),
            "its user's token ends at a time that cannot be read: it must be as 2030-01-31T00:00:00Z",
        ),
        (
            format!("token: a, as: \"{SECRET}\\n\""),
            "its user acts as somebody whose name no header can carry: mend its as, as-uid, as-groups and as-user-extra",
        ),
    ] {
        assert_eq!(mistake(&user), format!("K8S_KUBECONFIG cannot be used: {expected}"), "{user}");
    }
    assert_eq!(mistake(&credential("{\"token\": \"@\"}")), "", "a program that does as it should");
}

/// A proxy's address may hold a password: where it stands is told, what it is is not.
#[test]
fn a_proxy_for_the_cluster_is_refused_with_every_other_mistake() {
    let proxy = format!("http://user:{SECRET}@proxy.example");
    let variable =
        |name: &str| format!("{name} is set, but no proxy is used for the Kubernetes API: unset it for this process");
    let key =
        "K8S_KUBECONFIG cannot be used: its cluster has a proxy-url, but no proxy is used for the Kubernetes API: \
               leave it out"
            .to_owned();
    let listen = "LISTEN is \"foo\": write an address and a port, such as 0.0.0.0:8080".to_owned();
    let mut env = good();
    env.insert("LISTEN".into(), "foo".into());
    for (name, value, expected) in [
        ("HTTPS_PROXY", proxy.clone(), vec![variable("HTTPS_PROXY")]),
        ("https_proxy", "socks5://127.0.0.1".to_owned(), vec![variable("https_proxy")]),
        ("HTTPS_PROXY", format!("no address: {SECRET}"), vec![variable("HTTPS_PROXY")]),
        ("HTTPS_PROXY", String::new(), vec![]),
        ("K8S_KUBECONFIG", KUBECONFIG.replace("6443\"", &format!("6443\", proxy-url: \"{proxy}\"")), vec![key.clone()]),
        ("K8S_KUBECONFIG", KUBECONFIG.replace("6443\"", "6443\", proxy-url: \"\""), vec![]),
    ] {
        let mut env = env.clone();
        env.insert(name.into(), value);
        let expected = [vec![listen.clone()], expected].concat();
        assert_eq!(mistakes("scheduler", &env, ""), expected, "{name}");
    }
    env.insert("HTTPS_PROXY".into(), proxy);
    env.remove("K8S_KUBECONFIG").unwrap();
    let missing = "K8S_KUBECONFIG is not set: it must hold the text of a kubeconfig".to_owned();
    assert_eq!(mistakes("scheduler", &env, ""), [listen.clone(), missing, variable("HTTPS_PROXY")]);
    assert_eq!(mistakes("ghfe", &env, ""), [listen], "who does not call the cluster does not care");
}

/// A server without a scheme would make every call fail, and the part that makes them end, while the process leads on.
#[test]
fn a_cluster_whose_server_cannot_be_called_is_a_mistake_among_the_others() {
    let mut env = good();
    env.insert("LISTEN".into(), "foo".into());
    let listen = "LISTEN is \"foo\": write an address and a port, such as 0.0.0.0:8080".to_owned();
    let server = "K8S_KUBECONFIG cannot be used: its cluster's server is not an address: write https://host:port";
    let long = format!("https://{SECRET} {SECRET}");
    for wrong in ["127.0.0.1:9", "kube.example", "/", "", "ftp://kube.example", "https://", "https://:6443", &long] {
        env.insert("K8S_KUBECONFIG".into(), KUBECONFIG.replace("https://127.0.0.1:6443", wrong));
        assert_eq!(mistakes("scheduler", &env, ""), [&listen, server], "{wrong}");
    }
    env.insert("K8S_KUBECONFIG".into(), KUBECONFIG.replace("server:", "servers:"));
    assert_eq!(mistakes("scheduler", &env, ""), [&listen, server]);
    for right in ["http://kube.example", "https://kube.example/behind/a/path", "https://[::1]:6443"] {
        env.insert("K8S_KUBECONFIG".into(), KUBECONFIG.replace("https://127.0.0.1:6443", right));
        assert_eq!(mistakes("scheduler", &env, ""), [&*listen], "{right}");
    }
}

#[test]
fn everything_that_is_wrong_with_a_kubeconfig_itself_is_told_at_once() {
    let unusable = |why: &str| format!("K8S_KUBECONFIG cannot be used: {why}");
    let no_cluster = unusable("its context names the cluster \"l\", and it has no such cluster");
    let no_user = unusable("its context names the user \"v\", and it has no such user");
    let server = unusable("its cluster's server is not an address: write https://host:port");
    let empty = unusable("its user's token is empty: give one, or leave it out");
    let changed = |changes: &[(&str, &str)]| {
        let text = changes.iter().fold(KUBECONFIG.to_owned(), |text, (from, to)| text.replace(from, to));
        mistakes("scheduler", &[good(), environment(&[("K8S_KUBECONFIG", &text)])].into_iter().flatten().collect(), "")
    };
    let token = format!("token: {SECRET}");
    assert_eq!(changed(&[("user: u}}]", "user: v}}]")]), [&*no_user]);
    assert_eq!(changed(&[("cluster: k,", "cluster: l,"), ("user: u}}]", "user: v}}]")]), [&*no_cluster, &no_user]);
    assert_eq!(changed(&[(&token, "token: \"\"")]), [&*empty]);
    assert_eq!(changed(&[(&token, "token: \" \""), ("https://127.0.0.1:6443", "127.0.0.1")]), [&*server, &empty]);
    // Neither what a file or a program holds nor a certificate hides the rest.
    let authority = unusable("its cluster's certificate-authority-data is not in base64");
    let no_authority = unusable("its certificate-authority-data holds no certificate in PEM form");
    let certificate = unusable("its user's client-certificate-data is not in base64");
    let key = unusable("its user's client-key names a file that cannot be read: entity not found");
    let no_key = unusable("its user's client-key is missing: a client has a certificate and its key");
    let file = unusable("its user's tokenFile names a file that cannot be read: entity not found");
    let nobody = unusable(
        "its user acts as somebody whose name no header can carry: mend its as, as-uid, as-groups and as-user-extra",
    );
    let user = "client-certificate-data: \"*\", client-key: /nowhere, tokenFile: /nowhere, as: \"a\\n\"";
    let authorities = ("6443\"", "6443\", certificate-authority-data: \"*\"");
    let odd_server = ("https://127.0.0.1:6443", "a server");
    let odd = [&*authority, &certificate, &key, &nobody, &file];
    assert_eq!(changed(&[(&token, user), authorities]), odd);
    assert_eq!(changed(&[(&token, user), odd_server]), [&*server, &certificate, &key, &nobody, &file]);
    // One that names no context of its own has its first one tried.
    let context = unusable("its current-context is \"d\", and it has no such context");
    let elsewhere = ("t-context: c", "t-context: d");
    assert_eq!(changed(&[(&token, user), authorities, elsewhere]), [&[&*context], &odd[..]].concat());
    let (both, odd_address) =
        (("https://127.0.0.1:6443\"", "a server\", certificate-authority-data: \"*\""), elsewhere);
    let all = [&*server, &context, &authority, &certificate, &key, &nobody, &file];
    assert_eq!(changed(&[(&token, user), both, odd_address]), all);
    let pair = "client-certificate-data: AAAA, tokenFile: /nowhere";
    let none = ("6443\"", "6443\", certificate-authority-data: AAAA");
    let no_certificate = unusable("its user's client certificate holds no certificate in PEM form");
    assert_eq!(changed(&[(&token, pair), none]), [&*no_authority, &no_certificate, &no_key, &file]);
    let neither = format!("client-certificate-data: \"\", client-key: /{SECRET}");
    assert_eq!(changed(&[(&token, &neither)]), [&*no_certificate, &key]);
    let neither = "client-certificate-data: AAAA, client-key-data: \"@@\"";
    let odd_key = unusable("its user's client-key-data is not in base64");
    assert_eq!(changed(&[(&token, neither)]), [&*no_certificate, &odd_key]);
    let neither = "client-certificate-data: AAAA, client-key-data: AAAA";
    let no_pair_of_it = unusable("its user's client key holds no private key in PEM form");
    assert_eq!(changed(&[(&token, neither)]), [&*no_certificate, &no_pair_of_it]);
    assert_eq!(changed(&[(", user: u}}]", "}}]")]), [""; 0], "a cluster may ask for nobody");
    assert_eq!(changed(&[(&token, "")]), [""; 0], "and a user may have nothing to show");
}

/// A token's file may be written by hand, and kube takes it as it is.
#[test]
fn what_a_tokens_file_holds_must_be_a_token() {
    let path = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("token");
    let mut env = good();
    let file = format!("tokenFile: {path:?}");
    env.insert("K8S_KUBECONFIG".into(), KUBECONFIG.replace(&format!("token: {SECRET}"), &file));
    let name = "K8S_KUBECONFIG cannot be used: what its user's tokenFile holds";
    for (token, expected) in [
        (SECRET.to_owned(), vec![]),
        (String::new(), vec![format!("{name} is empty: give one, or leave it out")]),
        (
            format!("{SECRET}\n"),
            vec![format!("{name} holds characters that a token cannot have, such as a line break")],
        ),
    ] {
        std::fs::write(&path, token).unwrap();
        assert_eq!(mistakes("scheduler", &env, ""), expected);
    }
}

#[test]
fn a_capture_file_is_opened_for_this_user_alone_and_one_that_cannot_be_is_told_with_every_other_mistake() {
    let directory = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"));
    let (path, wrong) = (directory.join("capture.jsonl"), directory.join("no-such-directory/capture.jsonl"));
    let _ = std::fs::remove_file(&path);
    let mut env = good();
    env.insert("CAPTURE".into(), path.to_str().unwrap().to_owned());
    assert!(config::ghfe(&env, &no_file).unwrap().capture.is_some());
    assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    std::fs::write(&path, "kept\n").unwrap();
    assert!(config::ghfe(&env, &no_file).unwrap().capture.is_some());
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "kept\n", "what is there stays there");
    env.insert("CAPTURE".into(), wrong.to_str().unwrap().to_owned());
    env.insert("LISTEN".into(), "foo".into());
    env.remove("GHAPP_WEBHOOK_SECRET").unwrap();
    let expected = [
        "LISTEN is \"foo\": write an address and a port, such as 0.0.0.0:8080",
        "GHAPP_WEBHOOK_SECRET is not set: it must hold the webhooks' shared secret",
        &format!(
            "CAPTURE names {}, which cannot be opened for appending: No such file or directory (os error 2)",
            wrong.display()
        ),
    ];
    assert_eq!(mistakes("ghfe", &env, ""), expected);
    // Whoever opens a pipe waits for its reader, and nothing would start.
    let pipe = directory.join("capture.pipe");
    let _ = std::fs::remove_file(&pipe);
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let mut env = good();
    env.insert("CAPTURE".into(), pipe.to_str().unwrap().to_owned());
    let expected =
        format!("CAPTURE names {}, which cannot be opened for appending: it is a pipe: name a file", pipe.display());
    assert_eq!(mistakes("ghfe", &env, ""), [expected.as_str()]);
}

/// What production needs beside the rest is told with the rest, also where the file has mistakes.
#[test]
fn the_need_of_an_address_for_staging_is_told_with_every_other_mistake() {
    let need = |owners: &str| {
        format!(
            "STAGING_URL is not set: production forwards there what the configuration marks as staging's ({owners})"
        )
    };
    let built_in = need("luhenry, riseproject-dev");
    let bare = [
        "POSTGRES_URL is not set: it must hold postgresql://user:password@host:port/database",
        "GHAPP_WEBHOOK_SECRET is not set: it must hold the webhooks' shared secret",
        &built_in,
    ];
    assert_eq!(mistakes("ghfe", &environment(&[("PROD", "true")]), ""), bare);
    let mut env = good();
    env.remove("STAGING_URL").unwrap();
    env.insert("LISTEN".into(), "foo".into());
    let listen = "LISTEN is \"foo\": write an address and a port, such as 0.0.0.0:8080";
    assert_eq!(mistakes("ghfe", &env, ""), [listen, &built_in]);
    assert_eq!(mistakes("scheduler", &env, ""), [listen], "who does not forward needs none");
    env.insert("CONFIG".into(), "rise.toml".into());
    let owner = |name: &str, staging: &str| format!("[[owner]]\nid = 0\nname = {name:?}\nstaging = {staging}\n");
    let file = owner("b", "true") + &owner("a", "[\"x\"]") + &owner("c", "false");
    let found = mistakes("ghfe", &env, &file);
    assert_eq!(found.last(), Some(&need("a, b")), "{found:#?}");
    assert!(found.len() > 8, "{found:#?}");
    env.insert("STAGING_URL".into(), "\u{fffd}".into());
    let found = mistakes("ghfe", &env, &file);
    assert_eq!(found.last().unwrap(), "STAGING_URL is not text in UTF-8: write it anew");
    assert_eq!(found.iter().filter(|it| it.contains("STAGING_URL")).count(), 1, "{found:#?}");
}

fn with_file(file: &str) -> Vec<String> {
    let mut env = good();
    env.insert("CONFIG".into(), "rise.toml".into());
    env.remove("STAGING_URL").unwrap();
    env.insert("PROD".into(), "false".into());
    let (ghfe, scheduler) = (mistakes("ghfe", &env, file), mistakes("scheduler", &env, file));
    assert_eq!(ghfe, scheduler, "both read it alike");
    ghfe
}

#[test]
fn every_mistake_in_the_file_is_told_with_its_line() {
    let file = r#"default_max_workers = -1
registry = " "
namespace = "Not A Name"
colour = "blue"

[apps]
organization = 0
personal = "3131217"
other = 1

[[owner]]
id = 99999999999999999999
name = "one"
max_workers = "many"
staging = "yes"

[[owner]]
id = 5
name = "two"
max_workers = 4294967296

[[owner]]
id = 6
name = "three"
max_workers = 1
staging = ["three/repo", "", 7]
[[owner]]
id = 6
name = "three again"
max_workers = 1
max_worker = 2

[[pool]]
name = "a pool"
[[pool]]
name = "boards"
host_network = "no"
[[pool]]
name = "boards"

[[rule]]
exactly = ["x"]
pool = "bords"
image = ""
[[rule]]
pool = "boards"
image = "ubuntu-24.04"
[[rule]]
owners = [1, -1, "x"]
repositories = ["no-slash"]
includes = [1]
exact = ["x"]
pool = "boards"

[timeouts]
registration = 0
pending = 9999999999
grace = "6h"
surplus = 1.5
"#;
    let expected = r#"
1: default_max_workers is -1: give a number of workers from 0 up, or "unlimited"
2: registry is empty: give the image registry
3: namespace "Not A Name" is no namespace: write lower-case letters, digits and dashes
4: colour is no key here: the keys are apps, default_max_workers, namespace, owner, pool, registry, rule, timeouts
7: apps.organization is 0: give the GitHub App's id
8: apps.personal is a text: give the GitHub App's id
9: apps.other is no key here: the keys are organization, personal
12: owner "one": id is 99999999999999999999: give the organisation's or user's GitHub id, a positive number
14: owner "one": max_workers is "many": give a number of workers from 0 up, or "unlimited"
15: owner "one": staging is of the wrong kind: give true, false, or a list of the owner's repositories
20: owner "two": max_workers is 4294967296: give a number of workers from 0 up, or "unlimited"
26: an entry of owner "three": staging is a whole number: give a text
26: owner "three": staging has "three/repo": give the repository's name without its owner
26: owner "three": staging has an empty text: leave it out
28: owner id 6 is listed twice: keep one entry
31: owner "three again": max_worker is no key here: the keys are id, max_workers, name, staging
34: pool.name "a pool" is no label value: at most 63 letters, digits, dots, dashes and underscores
37: pool.host_network is a text: give true or false
39: pool "boards" is listed twice: keep one entry
43: rule.pool "bords" is no pool of this file: add a [[pool]] or correct the name
44: rule.image is empty: give an image such as "ubuntu-24.04"
45: this rule matches nothing: give exactly, includes or containing
48: rule.image is missing: give an image such as "ubuntu-24.04"
48: this rule matches nothing: give exactly, includes or containing
49: rule.owners has an entry that is no id: give a list of GitHub ids, such as [21003710]
49: rule.owners has an entry that is no id: give a list of GitHub ids, such as [21003710]
50: rule.repositories has "no-slash": write owner/name
51: an entry of rule.includes is a whole number: give a text
52: rule.exact is no key here: the keys are containing, exactly, image, includes, owners, pool, repositories
56: timeouts.registration is 0: give seconds, from 1 to 2592000 (30 days)
57: timeouts.pending is 9999999999: give seconds, from 1 to 2592000 (30 days)
58: timeouts.grace is a text: give seconds, from 1 to 2592000 (30 days)
59: timeouts.surplus is a fraction: give seconds, from 1 to 2592000 (30 days)
"#;
    let found: Vec<String> =
        with_file(file).iter().map(|it| it.strip_prefix("rise.toml:").unwrap_or(it).to_owned()).collect();
    assert_eq!(found.join("\n"), expected.trim());
}

/// Pods are made with `{registry}/riscv-runner:{image}-{latest|staging}`: one that no pod can have is told at the start.
#[test]
fn what_cannot_be_part_of_an_images_name_is_a_mistake() {
    let with = |key: &str, value: &str| {
        let line = BUILT_IN.lines().find(|line| line.starts_with(&format!("{key} = "))).unwrap();
        with_file(&BUILT_IN.replacen(line, &format!("{key} = {value:?}"), 1))
    };
    for good in [
        "registry.example/riscv",
        "registry.example/riscv/",
        "localhost:5000",
        "rg.fr-par.scw.cloud/a.b/c_d/e__f/g---h",
        "an-account",
        "an_account/x",
        "10.0.0.1:80/x",
    ] {
        assert_eq!(with("registry", good), Vec::<String>::new(), "{good}");
    }
    let long = format!("registry.example/{}", "x".repeat(255));
    for wrong in [
        "https://registry.example/riscv",
        "registry.example//riscv",
        "registry.example/Riscv",
        "registry.example/riscv:latest",
        "registry.example:/x",
        "registry.example:80a",
        "registry.example/a..b",
        "registry.example/a___b",
        "-registry.example",
        "registry..example/x",
        "/",
        "registry.example/a b",
        " registry.example",
        "registry.example/é",
        &long,
    ] {
        let found = with("registry", wrong);
        let message = format!("registry {wrong:?} cannot begin an image's name: write host/path, ");
        assert!(found.len() == 1 && found[0].contains(&message), "{wrong}: {found:#?}");
    }
    let (longest, longer) = ("x".repeat(120), "x".repeat(121));
    for good in ["ubuntu-24.04", "_A.b-c", &longest] {
        assert_eq!(with("image", good), Vec::<String>::new(), "{good}");
    }
    for wrong in ["ubuntu:24.04", "riscv/ubuntu", "-ubuntu", ".ubuntu", "ubuntu 24.04", "übuntu", &longer] {
        let found = with("image", wrong);
        let message = format!("rule.image {wrong:?} cannot begin an image's tag: at most 120 letters, ");
        assert!(found.len() == 1 && found[0].contains(&message), "{wrong}: {found:#?}");
    }
}

#[test]
fn a_rule_that_can_never_decide_is_a_mistake() {
    let file = r#"default_max_workers = 1
registry = "r"
namespace = "n"
apps = {organization = 1, personal = 2}
pool = [{name = "p"}]
rule = [
 {exactly = ["a"], pool = "p", image = "i", owners = []},
 {exactly = ["a"], pool = "p", image = "i", repositories = []},
 {exactly = ["a"], pool = "p", image = "i", owners = [], repositories = []},
 {exactly = ["a"], pool = "p", image = "i", owners = [], repositories = ["o/a"]},
 {exactly = ["a"], pool = "p", image = "i", owners = [1, 2]},
 {exactly = ["A"], pool = "p", image = "j", owners = [2, 1]},
 {exactly = ["a"], pool = "p", image = "i", owners = [2]},
 {exactly = ["a"], pool = "p", image = "i", owners = [2, 3]},
 {exactly = ["b", "a"], pool = "p", image = "i", repositories = ["O/a"]},
 {exactly = ["a"], pool = "p", image = "i"},
 {exactly = ["c", "c"], pool = "p", image = "i"},
 {exactly = ["a"], pool = "p", image = "j"},
 {exactly = ["a"], pool = "p", image = "j", owners = [4]},
 {includes = ["a"], containing = ["a"], pool = "p", image = "i"},
]
"#;
    let nobody = "this rule is for nobody: name owners or repositories, or leave both keys out for everybody's jobs";
    let taken = "rule.exactly has \"a\", which an earlier rule has for the same jobs: keep one of them";
    let expected =
        [(7, nobody), (8, nobody), (9, nobody), (12, taken), (13, taken), (15, taken), (18, taken), (19, taken)];
    assert_eq!(with_file(file), expected.map(|(line, what)| format!("rise.toml:{line}: {what}")));
}

#[test]
fn what_is_missing_or_not_toml_is_told_too() {
    let missing = [
        "rise.toml:1: apps is missing: give the two GitHub Apps' ids under [apps]",
        "rise.toml:1: default_max_workers is missing: give a number of workers from 0 up, or \"unlimited\"",
        "rise.toml:1: namespace is missing: give the pods' namespace",
        "rise.toml:1: registry is missing: give the image registry",
        "rise.toml:1: there is no [[rule]]: no job would ever be served",
    ];
    assert_eq!(with_file(""), missing);
    let broken = BUILT_IN.replace("namespace = \"default\"", "namespace = \"default").replace("= 120", "= = 120");
    let found = with_file(&broken);
    for key in ["namespace", "registration"] {
        let line = BUILT_IN.lines().position(|line| line.starts_with(key)).unwrap() + 1;
        assert!(found.iter().any(|it| it.starts_with(&format!("rise.toml:{line}: "))), "{key}: {found:#?}");
    }
    for (wrong, message) in [
        ("owner = 5", "owner is a whole number: give tables, each under [[owner]]"),
        ("pool = [5]", "pool is a whole number: give tables, each under [[pool]]"),
        ("apps = 5", "apps is no table: give the two GitHub Apps' ids under [apps]"),
        ("timeouts = []", "timeouts is no table: give seconds under [timeouts]"),
        ("owner = [{id = 5, name = ''}, {id = 5, name = 'b'}]", "owner id 5 is listed twice: keep one entry"),
        ("rule = [{owners = 5}]", "rule.owners is no list: give a list of GitHub ids, such as [21003710]"),
    ] {
        let found = with_file(wrong);
        assert!(found.contains(&format!("rise.toml:1: {message}")), "{wrong}: {found:#?}");
    }
}

/// The built-in file is RISE's, whole: its owners, caps, staging repositories, pools and timeouts.
#[test]
fn the_built_in_file_is_complete_and_is_what_rise_runs_with() {
    for realm in [Realm::Prod, Realm::Staging] {
        let (policy, pods) = config::built_in(realm).unwrap();
        assert_eq!(policy.default_max_workers, Some(20));
        for (owner, cap) in
            [(152_654_596, None), (21_003_710, Some(20)), (134_263_123, Some(20)), (660_779, None), (1, Some(20))]
        {
            assert_eq!(policy.cap(OwnerId(owner)), cap, "{owner}");
        }
        let staging = [
            (152_654_596, "riscv-runner", true),
            (152_654_596, "riscv-runner-app", true),
            (152_654_596, "riscv-runner-images", true),
            (152_654_596, "riscv-runner-sample", true),
            (152_654_596, "riscv-runner-device-plugin", true),
            (152_654_596, "pytorch", false),
            (660_779, "riscv-runner-sample", true),
            (660_779, "other", false),
            (21_003_710, "riscv-runner", false),
        ];
        for (owner, name, forwarded) in staging {
            assert_eq!(policy.is_staging(OwnerId(owner), &format!("x/{name}")), forwarded, "{owner} {name}");
        }
        assert!(policy.owners.values().all(|owner| owner.staging != Staging::All));
        let of = Span::secs;
        let timeouts = Timeouts { registration: of(120), pending: of(600), grace: of(21_600), ..Timeouts::default() };
        assert_eq!(policy.timeouts, timeouts);
        assert_eq!(pods.namespace, "default");
        assert_eq!(pods.registry, "rg.fr-par.scw.cloud/funcscwriseriscvrunnerappqdvknz9s");
        assert_eq!(pods.tag, if realm == Realm::Prod { "latest" } else { "staging" });
        let hosts: Vec<&str> = pods.host_network.iter().map(|pool| pool.as_str()).collect();
        assert_eq!(hosts, ["cloudv10x-jupiter", "cloudv10x-pioneer", "cloudv10x-rvv"]);
        let pools: BTreeSet<&str> = policy.label_rules.iter().map(|rule| rule.pool.as_str()).collect();
        assert_eq!(pools.len(), 4);
    }
    assert_eq!(with_file(BUILT_IN), Vec::<String>::new());
    let top = "default_max_workers registry namespace organization personal registration pending grace surplus";
    let owner = "id name max_workers staging";
    let rule = "host_network owners repositories exactly includes containing pool image";
    for key in [top, owner, rule].iter().flat_map(|keys| keys.split(' ')) {
        assert!(BUILT_IN.lines().any(|line| line.starts_with(&format!("{key} = "))), "{key} is shown by example");
    }
}
