//! Authentication at a registry: a password, or a token that is exchanged for one.

use http_auth::{ChallengeParser, ParamValue};
use reqwest::Url;
use reqwest::header::{HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use serde::Deserialize;

use super::failure::Failure;

/// The largest answer of a server for tokens, in bytes.
pub const MAX_TOKEN: u64 = 256 << 10;
/// The longest token that is sent on, in bytes.
const MAX_HEADER: usize = 64 << 10;

/// What a registry asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Challenge {
    Basic,
    /// A token from this URL.
    Bearer(Url),
}

/// What an answer with status 401 asks for, to read one repository.
pub fn challenge(headers: &HeaderMap, repository: &str) -> Result<Challenge, Failure> {
    let unclear = || Failure::Final("the registry wants a login, and does not say how in a way that is known".into());
    let texts = headers
        .get_all(WWW_AUTHENTICATE)
        .iter()
        .filter_map(|value| value.to_str().ok());
    let mut basic = false;
    for challenge in texts.flat_map(ChallengeParser::new) {
        let Ok(challenge) = challenge else { continue };
        if challenge.scheme.eq_ignore_ascii_case("bearer") {
            let value = |wanted: &str| {
                let mut found = challenge
                    .params
                    .iter()
                    .filter(|(name, _)| name.eq_ignore_ascii_case(wanted));
                found
                    .next()
                    .map(|(_, value): &(&str, ParamValue<'_>)| value.to_unescaped())
            };
            let mut realm: Url = value("realm")
                .and_then(|realm| realm.parse().ok())
                .ok_or_else(unclear)?;
            if let Some(service) = value("service") {
                realm.query_pairs_mut().append_pair("service", &service);
            }
            let scope = format!("repository:{repository}:pull");
            realm.query_pairs_mut().append_pair("scope", &scope);
            return Ok(Challenge::Bearer(realm));
        }
        basic |= challenge.scheme.eq_ignore_ascii_case("basic");
    }
    if basic { Ok(Challenge::Basic) } else { Err(unclear()) }
}

#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

/// The token in an answer, as a header says it.
pub fn bearer(answer: &[u8]) -> Result<HeaderValue, Failure> {
    let unclear = || Failure::Final("the server for tokens gave none".into());
    let answer: Token = serde_json::from_slice(answer).map_err(|_| unclear())?;
    let token = answer.token.or(answer.access_token).ok_or_else(unclear)?;
    if token.len() > MAX_HEADER {
        return Err(Failure::Final("the server for tokens gave one that is too long".into()));
    }
    let mut value = HeaderValue::from_str(&format!("Bearer {token}"))
        .map_err(|_| Failure::Final("the server for tokens gave one that no header may hold".into()))?;
    value.set_sensitive(true);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::{Challenge, bearer, challenge};
    use reqwest::header::{HeaderMap, WWW_AUTHENTICATE};

    fn asks(text: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(WWW_AUTHENTICATE, text.parse().unwrap());
        headers
    }

    #[test]
    fn what_a_registry_asks_for_is_understood() {
        let wanted = "https://auth.example/token?service=registry.example&scope=repository%3Aa%2Fb%3Apull";
        let text = r#"Bearer realm="https://auth.example/token",service="registry.example",scope="whatever""#;
        let found = challenge(&asks(text), "a/b").unwrap();
        assert_eq!(found, Challenge::Bearer(wanted.parse().unwrap()));
        assert_eq!(challenge(&asks(r#"Basic realm="x""#), "a").unwrap(), Challenge::Basic);
        for odd in ["Negotiate", "Bearer realm=\"not a url\"", "Bearer", ",,,=\"\\"] {
            assert!(challenge(&asks(odd), "a").is_err(), "{odd}");
        }
    }

    #[test]
    fn a_token_is_a_header_or_nothing() {
        assert_eq!(bearer(br#"{"access_token": "abc"}"#).unwrap(), "Bearer abc");
        for odd in ["", "{}", r#"{"token": "a\nb"}"#, "[[[[", r#"{"token": 5}"#] {
            assert!(bearer(odd.as_bytes()).is_err(), "{odd}");
        }
    }
}
