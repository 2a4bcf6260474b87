//! What others say and people read: without the credentials that it may repeat.

/// What stands in a credential's place.
const HIDDEN: &str = "(hidden)";
/// No credential is shorter.
const LEAST: usize = 8;

/// A message without credentials: a proxy, or a page for debugging, may answer with the request that it was sent. What
/// follows `Bearer` or `Basic`, a JSON web token and a token of GitHub's are left out, word by word.
pub fn quotable(message: &str) -> String {
    let mut out = String::with_capacity(message.len());
    let mut scheme = false;
    for word in message.split_inclusive(|c: char| c.is_whitespace()) {
        let bare = word.trim_end();
        let hidden = bare.len() >= LEAST && (scheme || is_credential(bare));
        out.push_str(if hidden { HIDDEN } else { bare });
        out.push_str(&word[bare.len()..]);
        let lower = bare.to_ascii_lowercase();
        // More than one space may follow.
        scheme = lower.ends_with("bearer") || lower.ends_with("basic") || (scheme && bare.is_empty());
    }
    out
}

fn is_credential(word: &str) -> bool {
    let github = ["ghs_", "ghp_", "gho_", "ghu_", "ghr_", "github_pat_"];
    word.contains("eyJ") || github.iter().any(|begin| word.contains(begin)) || {
        let lower = word.to_ascii_lowercase();
        ["bearer%20", "basic%20", "bearer+", "basic+"].iter().any(|scheme| lower.contains(scheme))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_left_out_and_nothing_else() {
        for (said, shown) in [
            ("pods is forbidden: User \"a\" cannot list", "pods is forbidden: User \"a\" cannot list"),
            (
                "GET / \r\nauthorization: Bearer TOPSECRET\r\nhost: a",
                "GET / \r\nauthorization: Bearer (hidden)\r\nhost: a",
            ),
            ("{\"authorization\":\"Bearer  TOPSECRET\"} x", "{\"authorization\":\"Bearer  (hidden) x"),
            ("Authorization: basic dXNlcjpwYXNz", "Authorization: basic (hidden)"),
            ("auth=bearer%20TOPSECRET&x", "(hidden)"),
            ("token eyJ0eXAi.eyJpc3Mi.c2ln and ghs_1234567890", "token (hidden) and (hidden)"),
            ("a bearer of it", "a bearer of it"),
            ("", ""),
        ] {
            assert_eq!(quotable(said), shown);
        }
    }
}
