//! The kubeconfig: the cluster, and who this service is there.

use kube::{
    client::ConfigExt,
    config::{ExecInteractiveMode, KubeConfigOptions, Kubeconfig},
};
use secrecy::{ExposeSecret, SecretString};

use super::{Environment, address};
use crate::kubernetes::unusable;

/// Where kube looks for a proxy when the kubeconfig names none.
const PROXY_VARIABLES: [&str; 2] = ["HTTPS_PROXY", "https_proxy"];

/// What the text of a kubeconfig says, or everything that is wrong with it.
pub(super) fn read(text: &str) -> Result<kube::Config, Vec<String>> {
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
    let made = if wrong.is_empty() { make(parsed).map_err(|mistake| vec![mistake]) } else { Err(wrong) };
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
    // Kube tells of what is not there.
    let Some(context) = current.and_then(|named| named.context.as_ref()) else { return };
    let cluster = parsed.clusters.iter().find(|named| named.name == context.cluster);
    let Some(cluster) = cluster.and_then(|named| named.cluster.as_ref()) else { return };
    if cluster.server.as_ref().is_none_or(|server| address(server).is_none()) {
        wrong.push("its cluster's server is not an address: write https://host:port".to_owned());
    }
    if cluster.proxy_url.as_ref().is_some_and(|url| !url.is_empty()) {
        wrong.push("its cluster has a proxy-url, but no proxy is used for the Kubernetes API: leave it out".to_owned());
    }
}

fn make(parsed: Kubeconfig) -> Result<kube::Config, String> {
    // It waits for nothing but files that the kubeconfig names.
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
    let is_header = |token: &SecretString| http::HeaderValue::from_str(token.expose_secret()).is_ok();
    if !config.auth_info.token.as_ref().is_none_or(is_header) {
        return Err("its user's token holds characters that a token cannot have, such as a line break".to_owned());
    }
    // It reads a token's file, or runs the program that gives one. A program that fails fails the connector's making too,
    // which then says less.
    let layer = config.auth_layer().map_err(|error| unusable(&error))?;
    let tls = config.rustls_client_config().map_err(|error| unusable(&error))?;
    if config.auth_info.exec.is_some() && layer.is_none() && !tls.client_auth_cert_resolver.has_certs() {
        return Err("the program that gives its user's token wrote neither a token nor a certificate".to_owned());
    }
    config.rustls_https_connector().map_err(|error| unusable(&error))?;
    config.extra_headers_layer().map_err(|error| unusable(&error))?;
    Ok(())
}
