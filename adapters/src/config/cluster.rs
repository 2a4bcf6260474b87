//! The kubeconfig: the cluster, and who this service is there.

use std::{
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::Duration,
};

use kube::{
    client::ConfigExt,
    config::{AuthInfo, Cluster, ExecInteractiveMode, KubeConfigOptions, Kubeconfig},
};
use secrecy::ExposeSecret;

use super::{Environment, address};
use crate::kubernetes::unusable;

/// Where kube looks for a proxy when the kubeconfig names none.
const PROXY_VARIABLES: [&str; 2] = ["HTTPS_PROXY", "https_proxy"];

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
    look_over(&parsed, &mut wrong);
    let made = if wrong.is_empty() { make(parsed, limit).map_err(|mistake| vec![mistake]) } else { Err(wrong) };
    made.map_err(|wrong| wrong.iter().map(|mistake| format!("K8S_KUBECONFIG cannot be used: {mistake}")).collect())
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
    // Kube tells of a context that is not there.
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
    Some(format!("{name} holds characters that a token cannot have, such as a line break"))
}

/// Makes what a client is made of, on a thread of its own: it reads files and runs a program that the kubeconfig names, and
/// either may never end. Then the thread is left to itself; the process that is told of it ends.
fn make(parsed: Kubeconfig, limit: Duration) -> Result<kube::Config, String> {
    let (said, answer) = mpsc::sync_channel(1);
    thread::spawn(move || drop(said.send(make_at_leisure(parsed))));
    answer.recv_timeout(limit).unwrap_or_else(|error| match error {
        RecvTimeoutError::Timeout => Err(format!(
            "its user's credentials were not there within {} s: see that the program or the file that gives them answers \
             without a person",
            limit.as_secs_f32()
        )),
        // A token from a program, which nobody else sees, makes a library fail.
        RecvTimeoutError::Disconnected => {
            Err("its user's token holds characters that a token cannot have, such as a line break".to_owned())
        }
    })
}

fn make_at_leisure(parsed: Kubeconfig) -> Result<kube::Config, String> {
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
    try_out(&config)?;
    Ok(config)
}

/// What kube finds out only when it makes a client, or a call: too late to be told with the other mistakes.
fn try_out(config: &kube::Config) -> Result<(), String> {
    if config.root_cert.as_ref().is_some_and(Vec::is_empty) {
        return Err("its certificate-authority-data holds no certificate in PEM form".to_owned());
    }
    // Each reads a token's file, or runs the program that gives one. A program that fails fails the connector's making too,
    // which then says less.
    let layer = config.auth_layer().map_err(|error| unusable(&error))?;
    config.rustls_https_connector().map_err(|error| unusable(&error))?;
    let user = &config.auth_info;
    if user.exec.is_some()
        && layer.is_none()
        && config.rustls_client_config().is_ok_and(|tls| !tls.client_auth_cert_resolver.has_certs())
    {
        return Err("the program that gives its user's token wrote neither a token nor a certificate".to_owned());
    }
    // Kube puts what the file holds into a header as it is.
    if let (None, Some(file)) = (&user.token, &user.token_file)
        && let Ok(token) = std::fs::read_to_string(file)
        && let Some(mistake) = token_mistake("what its user's tokenFile holds", &token)
    {
        return Err(mistake);
    }
    config.extra_headers_layer().map_err(|error| unusable(&error))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

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
