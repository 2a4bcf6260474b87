//! The kubeconfig: the cluster, and who this service is there.

use std::{
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use kube::{
    client::{ConfigExt, RustlsTlsError},
    config::{AuthInfo, Cluster, ExecInteractiveMode, KubeConfigOptions, Kubeconfig, KubeconfigError, LoadDataError},
};
use secrecy::{ExposeSecret, SecretString};

use super::{Environment, address};
use crate::kubernetes::{NO_AUTHORITY, unusable};

/// Where kube looks for a proxy when the kubeconfig names none.
const PROXY_VARIABLES: [&str; 2] = ["HTTPS_PROXY", "https_proxy"];

/// A key and a certificate in PEM form, in base64, that are neither: they stand in for one that cannot be read.
const SOME_KEY: &str = "LS0tLS1CRUdJTiBQUklWQVRFIEtFWS0tLS0tCkFBQUEKLS0tLS1FTkQgUFJJVkFURSBLRVktLS0tLQo=";
const SOME_CERTIFICATE: &str = "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURS0tLS0tCkFBQUEKLS0tLS1FTkQgQ0VSVElGSUNBVEUtLS0tLQo=";
/// An address that stands in for one that cannot be read.
const SOME_SERVER: &str = "https://localhost";

/// How long the files and the program that a kubeconfig names may take.
pub(super) const LIMIT: Duration = Duration::from_secs(30);

/// What the text of a kubeconfig says, or everything that is wrong with it.
pub(super) fn read(text: &str, limit: Duration) -> Result<kube::Config, Vec<String>> {
    // A parser's message can quote the text, and the text holds credentials.
    let Ok(parsed) = Kubeconfig::from_yaml(text) else {
        return Err(vec!["K8S_KUBECONFIG is not a kubeconfig: it must be the text of one, not its path".to_owned()]);
    };
    if parsed.contexts.is_empty() {
        return Err(vec![
            "K8S_KUBECONFIG has no context: it must be the text of a kubeconfig, not its path".to_owned(),
        ]);
    }
    let mut wrong = Vec::new();
    look_over(&with_context(parsed.clone()), &mut wrong);
    let made = try_out_within(limit, parsed, &mut wrong);
    match made {
        Some(config) if wrong.is_empty() => Ok(config),
        _ => Err(wrong.iter().map(|mistake| format!("K8S_KUBECONFIG cannot be used: {mistake}")).collect()),
    }
}

/// The environment's variables that would have the cluster called through a proxy, which may hold a password.
pub(super) fn proxies(env: &Environment) -> Vec<String> {
    let set = PROXY_VARIABLES.iter().filter(|&&name| env.get(name).is_some_and(|value| !value.is_empty()));
    set.map(|name| format!("{name} is set, but no proxy is used for the Kubernetes API: unset it for this process"))
        .collect()
}

/// What kube takes as it is, until a call fails.
fn look_over(parsed: &Kubeconfig, wrong: &mut Vec<String>) {
    let current = parsed.contexts.iter().find(|context| Some(&context.name) == parsed.current_context.as_ref());
    // Kube tells of a context that has nothing.
    let Some(context) = current.and_then(|named| named.context.as_ref()) else { return };
    match parsed.clusters.iter().find(|named| named.name == context.cluster).and_then(|named| named.cluster.as_ref()) {
        Some(cluster) => look_over_cluster(cluster, wrong),
        None => wrong.push(format!("its context names the cluster {:?}, and it has no such cluster", context.cluster)),
    }
    // A context without a user is one for a cluster that asks nobody who he is, such as a `kubectl proxy`.
    let Some(name) = &context.user else { return };
    match parsed.auth_infos.iter().find(|named| named.name == *name) {
        Some(named) => look_over_user(named.auth_info.as_ref(), wrong),
        None => wrong.push(format!("its context names the user {name:?}, and it has no such user")),
    }
}

fn look_over_cluster(cluster: &Cluster, wrong: &mut Vec<String>) {
    if cluster.server.as_ref().is_none_or(|server| address(server).is_none()) {
        wrong.push("its cluster's server is not an address: write https://host:port".to_owned());
    }
    if cluster.proxy_url.as_ref().is_some_and(|url| !url.is_empty()) {
        wrong.push("its cluster has a proxy-url, but no proxy is used for the Kubernetes API: leave it out".to_owned());
    }
}

fn look_over_user(user: Option<&AuthInfo>, wrong: &mut Vec<String>) {
    let Some(token) = user.and_then(|user| user.token.as_ref()) else { return };
    wrong.extend(token_mistake("its user's token", token.expose_secret()));
}

/// What is wrong with a token, which messages call `name`.
fn token_mistake(name: &str, token: &str) -> Option<String> {
    if token.trim().is_empty() {
        return Some(format!("{name} is empty: give one, or leave it out"));
    }
    http::HeaderValue::from_str(token).err()?;
    Some(token_with_odd_characters(name))
}

fn token_with_odd_characters(name: &str) -> String {
    format!("{name} holds characters that a token cannot have, such as a line break")
}

/// Makes what a client is made of and tries it out, on a thread of its own: it reads files and runs a program that the
/// kubeconfig names, and either may never end. Then the thread is left to itself; the process that is told of it ends.
fn try_out_within(limit: Duration, parsed: Kubeconfig, wrong: &mut Vec<String>) -> Option<kube::Config> {
    let (said, answers) = mpsc::channel();
    thread::spawn(move || try_out(parsed, &said));
    let deadline = Instant::now() + limit;
    let mistake = loop {
        match answers.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(Finding::Mistake(mistake)) => note(wrong, mistake),
            Ok(Finding::TriedOut(config)) => return config.map(|config| *config),
            Err(RecvTimeoutError::Timeout) => {
                break format!(
                    "its user's credentials were not there within {} s: see that the program or the file that gives them \
                     answers without a person",
                    limit.as_secs_f32()
                );
            }
            // A token from a program, which nobody else sees, makes a library fail.
            Err(RecvTimeoutError::Disconnected) => break token_with_odd_characters("its user's token"),
        }
    };
    note(wrong, mistake);
    None
}

/// The same mistake may be met more than once.
fn note(wrong: &mut Vec<String>, mistake: String) {
    if !wrong.contains(&mistake) {
        wrong.push(mistake);
    }
}

/// What came of trying out a kubeconfig.
enum Finding {
    Mistake(String),
    /// All was tried; what a client is made of, if it could be made.
    TriedOut(Option<Box<kube::Config>>),
}

/// Finds what kube itself finds only when it makes a client, or a call, and then one mistake at a time. What may never end
/// comes last.
fn try_out(parsed: Kubeconfig, said: &mpsc::Sender<Finding>) {
    // Nobody may listen any more.
    let wrong = |mistake| drop(said.send(Finding::Mistake(mistake)));
    let made = make(parsed.clone());
    // Without an authority that cannot be read, or a server's address, the rest can be tried still.
    let tried = match &made {
        Ok(config) => Some(config.clone()),
        Err(mistake) => {
            wrong(mistake.clone());
            let reachable = with_server(with_context(parsed));
            match make(reachable.clone()) {
                Ok(config) => Some(config),
                Err(mistake) => {
                    wrong(mistake);
                    make(plain(reachable)).ok()
                }
            }
        }
    };
    if let Some(mut config) = tried {
        let mut user = std::mem::take(&mut config.auth_info);
        try_cluster(&config).err().into_iter().for_each(wrong);
        let certificate = AuthInfo {
            client_certificate: user.client_certificate.take(),
            client_certificate_data: user.client_certificate_data.take(),
            client_key: user.client_key.take(),
            client_key_data: user.client_key_data.take(),
            ..AuthInfo::default()
        };
        // None but an authority that there is not, so that this system's are not asked for.
        config.root_cert = Some(Vec::new());
        let alone = |user| {
            let mut config = config.clone();
            config.auth_info = user;
            config
        };
        // One that no header can carry has been found already, and would make a library fail.
        user.token.take_if(|token| token_mistake("", token.expose_secret()).is_some());
        try_certificate(certificate, alone).into_iter().for_each(wrong);
        try_credentials(&alone(user)).into_iter().for_each(wrong);
    }
    let _ = said.send(Finding::TriedOut(made.ok().map(Box::new)));
}

fn make(parsed: Kubeconfig) -> Result<kube::Config, String> {
    let options = KubeConfigOptions::default();
    let made = futures::executor::block_on(kube::Config::from_custom_kubeconfig(parsed, &options));
    let mut config = made.map_err(|error| unusable(&kube::Error::InferKubeconfig(error)))?;
    if let Some(exec) = &mut config.auth_info.exec {
        // Nobody is there to be asked. And what the program writes to standard error, which may be a secret, would be
        // this process's otherwise.
        exec.interactive_mode = Some(ExecInteractiveMode::Never);
    }
    // Kube has read the environment's by itself; what there is has been refused.
    config.proxy_url = None;
    Ok(config)
}

/// The same with a context: its first one, where it names none that it has.
fn with_context(mut parsed: Kubeconfig) -> Kubeconfig {
    if !parsed.contexts.iter().any(|context| Some(&context.name) == parsed.current_context.as_ref()) {
        parsed.current_context = parsed.contexts.first().map(|context| context.name.clone());
    }
    parsed
}

/// The same with servers that could be called.
fn with_server(mut parsed: Kubeconfig) -> Kubeconfig {
    for cluster in parsed.clusters.iter_mut().filter_map(|named| named.cluster.as_mut()) {
        cluster.server = Some(SOME_SERVER.to_owned());
    }
    parsed
}

/// The same with clusters of which nothing can be wrong.
fn plain(mut parsed: Kubeconfig) -> Kubeconfig {
    for cluster in parsed.clusters.iter_mut().filter_map(|named| named.cluster.as_mut()) {
        *cluster = Cluster { server: Some(SOME_SERVER.to_owned()), ..Cluster::default() };
    }
    parsed
}

/// A cluster whose certificates nobody can show or know.
fn try_cluster(config: &kube::Config) -> Result<(), String> {
    if config.root_cert.as_ref().is_some_and(Vec::is_empty) {
        return Err("its certificate-authority-data holds no certificate in PEM form".to_owned());
    }
    config.rustls_https_connector().map(drop).map_err(|error| match error {
        // Kube calls the system's authorities by the name of the kubeconfig's.
        kube::Error::RustlsTls(RustlsTlsError::AddRootCertificate(_)) if config.root_cert.is_none() => {
            NO_AUTHORITY.to_owned()
        }
        error => unusable(&error),
    })
}

/// A client's certificate and its key: kube tells of one only once it can read the other, so that each is tried with one that
/// only looks like the other before both are tried together.
fn try_certificate(certificate: AuthInfo, alone: impl Fn(AuthInfo) -> kube::Config) -> Vec<String> {
    let with_key =
        AuthInfo { client_key_data: Some(SecretString::from(SOME_KEY)), client_key: None, ..certificate.clone() };
    let with_certificate = AuthInfo {
        client_certificate_data: Some(SOME_CERTIFICATE.to_owned()),
        client_certificate: None,
        ..certificate.clone()
    };
    let refused = |user| alone(user).rustls_https_connector().err();
    // That one is missing, or that they are no pair, is told of the two as they are.
    let of_itself = |error: &kube::Error| match error {
        kube::Error::InferKubeconfig(
            KubeconfigError::LoadClientCertificate(why) | KubeconfigError::LoadClientKey(why),
        ) => !matches!(why, LoadDataError::NoBase64DataOrFile),
        kube::Error::RustlsTls(error) => {
            matches!(error, RustlsTlsError::MissingCertificate | RustlsTlsError::MissingPrivateKey)
        }
        _ => false,
    };
    let each = [with_key, with_certificate].map(|user| refused(user).filter(of_itself));
    each.iter().flatten().chain(&refused(certificate)).map(unusable).collect()
}

/// Tokens, the programs and files that give them, and who the user acts as.
fn try_credentials(config: &kube::Config) -> Vec<String> {
    let mut wrong: Vec<String> = config.extra_headers_layer().err().iter().map(unusable).collect();
    wrong.extend(try_token(config).err());
    wrong
}

fn try_token(config: &kube::Config) -> Result<(), String> {
    let user = &config.auth_info;
    // Kube puts what the file holds into a header as it is.
    if let (None, Some(file)) = (&user.token, &user.token_file)
        && let Ok(token) = std::fs::read_to_string(file)
        && let Some(mistake) = token_mistake("what its user's tokenFile holds", &token)
    {
        return Err(mistake);
    }
    // Each reads a token's file, or runs the program that gives one. A program that fails fails the connector's making too,
    // which then says less.
    let layer = config.auth_layer().map_err(|error| unusable(&error))?;
    config.rustls_https_connector().map_err(|error| unusable(&error))?;
    if user.exec.is_some()
        && layer.is_none()
        && config.rustls_client_config().is_ok_and(|tls| !tls.client_auth_cert_resolver.has_certs())
    {
        return Err("the program that gives its user's token wrote neither a token nor a certificate".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_gives_no_token_in_time_is_a_mistake_like_any_other() {
        let text = "current-context: c\nclusters: [{name: k, cluster: {server: \"https://127.0.0.1:6443\"}}]\n\
                    contexts: [{name: c, context: {cluster: k, user: u}}]\n\
                    users: [{name: u, user: {exec: {command: sleep, args: [\"60\"]}}}]\n";
        let begun = Instant::now();
        let mistakes = read(text, Duration::from_millis(100)).unwrap_err();
        assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
        let expected = "K8S_KUBECONFIG cannot be used: its user's credentials were not there within 0.1 s: see that the \
                        program or the file that gives them answers without a person";
        assert_eq!(mistakes, [expected]);
    }
}
