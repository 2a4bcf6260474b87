//! What went wrong with the cluster, for people. What a program or a file said is never quoted, since either may hold a
//! credential: each error that is known has words of its own here, and any other one has general ones.

use std::{error::Error, io};

use kube::{
    client::{AuthError, RustlsTlsError},
    config::{KubeconfigError, LoadDataError},
};

use super::MESSAGE_LIMIT;
use crate::quote::quotable;

/// Nobody says which clusters are to be trusted.
pub(crate) const NO_AUTHORITY: &str =
    "it has no certificate authority, and this system has none either: give certificate-authority-data";

/// What went wrong with a call. An answer that is not what it should be is never quoted: it can be anything.
pub(super) fn reason(error: &kube::Error) -> String {
    match error {
        kube::Error::SerdeError(error) => {
            let (line, column) = (error.line(), error.column());
            format!("the answer is not what Kubernetes documents (line {line}, column {column})")
        }
        kube::Error::FromUtf8(_) => "the answer is not text".to_owned(),
        other => {
            // The outer errors only repeat that a service failed.
            let mut inner: &dyn Error = other;
            loop {
                // A call may have to read a token's file anew, or to run the program that gives one.
                if let Some(error) = inner.downcast_ref::<AuthError>() {
                    return credentials(error);
                }
                let Some(source) = inner.source() else { break };
                inner = source;
            }
            quotable(&inner.to_string()).chars().take(MESSAGE_LIMIT).collect()
        }
    }
}

/// Why a kubeconfig makes no client, and what to do: a sentence's part about what is "its".
pub(crate) fn unusable(error: &kube::Error) -> String {
    match error {
        kube::Error::Auth(error) => credentials(error),
        kube::Error::InferKubeconfig(error) => kubeconfig(error),
        kube::Error::RustlsTls(error) => certificates(error).to_owned(),
        kube::Error::HttpError(_) => "its user acts as somebody whose name no header can carry: mend its as, as-uid, \
                                      as-groups and as-user-extra"
            .to_owned(),
        _ => "no client can be made of it: try it with kubectl".to_owned(),
    }
}

fn credentials(error: &AuthError) -> String {
    match error {
        AuthError::AuthExecStart(error) => {
            format!("the program that gives its user's token cannot be run: {}: install it here", error.kind())
        }
        AuthError::AuthExecRun { out, .. } => {
            format!("the program that gives its user's token failed: {}: run it by hand to see why", out.status)
        }
        AuthError::AuthExecParse(_) | AuthError::ParseTokenKey(_) => {
            "the program that gives its user's token wrote something else: it must write an ExecCredential in JSON"
                .to_owned()
        }
        AuthError::ExecPluginFailed => {
            "the program that gives its user's token wrote none: its ExecCredential must have a status".to_owned()
        }
        AuthError::MalformedTokenExpirationDate(_) => {
            "its user's token ends at a time that cannot be read: it must be as 2030-01-31T00:00:00Z".to_owned()
        }
        AuthError::MissingCommand => "its user's exec names no command: name the program to run".to_owned(),
        AuthError::ReadTokenFile(error, _) => format!("its user's tokenFile {}", unreadable(error)),
        AuthError::InvalidBasicAuth(_) | AuthError::InvalidBearerToken(_) => {
            "its user's token holds characters that a token cannot have, such as a line break".to_owned()
        }
        AuthError::AuthExec(_) => {
            "its user's auth-provider cannot be used: give a token, a client certificate, or exec".to_owned()
        }
        _ => "its user's credentials cannot be used: try them with kubectl".to_owned(),
    }
}

fn kubeconfig(error: &KubeconfigError) -> String {
    match error {
        KubeconfigError::CurrentContextNotSet => "it has no current-context: name one of its contexts".to_owned(),
        KubeconfigError::LoadContext(name) => {
            format!("its current-context is {name:?}, and it has no such context")
        }
        KubeconfigError::LoadClusterOfContext(name) => {
            format!("its context names the cluster {name:?}, and it has no such cluster")
        }
        KubeconfigError::MissingClusterUrl | KubeconfigError::ParseClusterUrl(_) => {
            "its cluster's server is not an address: write https://host:port".to_owned()
        }
        KubeconfigError::LoadCertificateAuthority(error) => data("its cluster's certificate-authority", error),
        KubeconfigError::LoadClientCertificate(error) => data("its user's client-certificate", error),
        KubeconfigError::LoadClientKey(error) => data("its user's client-key", error),
        KubeconfigError::ParseCertificates(_) => "its cluster's certificate authority is not in PEM form".to_owned(),
        _ => "no client can be made of it: try it with kubectl".to_owned(),
    }
}

/// What `name`, or `name`-data, has.
fn data(name: &str, error: &LoadDataError) -> String {
    match error {
        LoadDataError::DecodeBase64(_) => format!("{name}-data is not in base64"),
        LoadDataError::ReadFile(error, _) => format!("{name} {}", unreadable(error)),
        LoadDataError::NoBase64DataOrFile => format!("{name} is missing: a client has a certificate and its key"),
    }
}

fn certificates(error: &RustlsTlsError) -> &'static str {
    match error {
        RustlsTlsError::MissingPrivateKey => "its user's client key holds no private key in PEM form",
        RustlsTlsError::MissingCertificate => "its user's client certificate holds no certificate in PEM form",
        RustlsTlsError::InvalidIdentityPem(_)
        | RustlsTlsError::InvalidPrivateKey(_)
        | RustlsTlsError::UnknownPrivateKeyFormat => "its user's client certificate and key are not a pair in PEM form",
        RustlsTlsError::AddRootCertificate(_) => "its cluster's certificate authority is no certificate",
        RustlsTlsError::NoValidNativeRootCA(_) => NO_AUTHORITY,
        RustlsTlsError::InvalidServerName(_) => "its cluster's tls-server-name is not the name of a host",
    }
}

/// The path is not repeated: whoever writes a token there finds it in no log.
fn unreadable(error: &io::Error) -> String {
    format!("names a file that cannot be read: {}", error.kind())
}

#[cfg(test)]
mod tests {
    use std::{os::unix::process::ExitStatusExt, process};

    use kube::core::Status;

    use super::*;

    const SECRET: &str = "c2VjcmV0-nobody-may-see-this";

    /// What the program of a kubeconfig's exec did. A call meets it when a token has become old.
    fn failed_program() -> AuthError {
        let (stdout, stderr) = (SECRET.into(), SECRET.into());
        let out = process::Output { status: process::ExitStatus::from_raw(256), stdout, stderr };
        AuthError::AuthExecRun { cmd: format!("TOKEN={SECRET} program"), out: Box::new(out) }
    }

    #[test]
    fn no_error_of_a_call_shows_what_a_program_or_a_file_said() {
        let failed = "the program that gives its user's token failed: exit status: 1: run it by hand to see why";
        let unread = || io::Error::other(SECRET);
        let not_json = || serde_json::from_str::<u8>(&format!("{SECRET:?}")).unwrap_err();
        for (error, expected) in [
            (kube::Error::Auth(failed_program()), failed),
            (kube::Error::Service(failed_program().into()), failed),
            (
                kube::Error::Service(AuthError::AuthExecStart(unread()).into()),
                "the program that gives its user's token cannot be run: other error: install it here",
            ),
            (
                kube::Error::Service(AuthError::ReadTokenFile(unread(), SECRET.into()).into()),
                "its user's tokenFile names a file that cannot be read: other error",
            ),
            (
                kube::Error::Service(AuthError::ParseTokenKey(not_json()).into()),
                "the program that gives its user's token wrote something else: it must write an ExecCredential in JSON",
            ),
            (
                kube::Error::Service(AuthError::AuthExec(SECRET.into()).into()),
                "its user's auth-provider cannot be used: give a token, a client certificate, or exec",
            ),
            (kube::Error::SerdeError(not_json()), "the answer is not what Kubernetes documents (line 1, column 30)"),
            (kube::Error::Service(io::Error::other("connection reset by peer").into()), "connection reset by peer"),
            // A watch's error comes here with the answer's message.
            (
                kube::Error::Api(Box::new(Status::failure(&format!("GET / authorization: Bearer {SECRET}"), ""))),
                "GET / authorization: Bearer (hidden) ",
            ),
        ] {
            assert_eq!(reason(&error), expected);
        }
    }
}
