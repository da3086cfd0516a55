//! Registry logins, from the files that `docker login` and `podman login` write.

use std::collections::HashMap;
use std::path::PathBuf;

use serde::Deserialize;

use crate::{Credentials, Error, Result};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    #[serde(default)]
    auths: HashMap<String, Login>,
    #[serde(default)]
    creds_store: String,
    #[serde(default)]
    cred_helpers: HashMap<String, String>,
}

#[derive(Deserialize)]
struct Login {
    #[serde(default)]
    auth: String,
}

/// The registry of an image's name.
fn registry(reference: &str) -> &str {
    match reference.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => host,
        _ => "docker.io",
    }
}

/// Who we are at the registry of this image; `None` where nobody logged in. A login that only a helper program knows is
/// an error: without it the registry would say that there is no such image.
pub fn login(reference: &str) -> Result<Option<Credentials>> {
    let env = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let home = env("HOME");
    let files = [
        env("DOCKER_CONFIG").map(|dir| dir.join("config.json")),
        env("XDG_RUNTIME_DIR").map(|dir| dir.join("containers/auth.json")),
        home.map(|dir| dir.join(".docker/config.json")),
    ];
    for file in files.into_iter().flatten() {
        let Ok(text) = std::fs::read(&file) else { continue };
        let wrong = |why: String| Error::Pull {
            image: reference.into(),
            why: format!("{}: {why}", file.display()),
        };
        let known: File = serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))?;
        if let Some(found) = find(&known, registry(reference)).map_err(wrong)? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

fn find(known: &File, registry: &str) -> std::result::Result<Option<Credentials>, String> {
    let aliases: &[&str] = if registry == "docker.io" {
        &["docker.io", "https://index.docker.io/v1/"]
    } else {
        &[registry]
    };
    let login = aliases.iter().find_map(|name| known.auths.get(*name));
    let Some(login) = login.filter(|login| !login.auth.is_empty()) else {
        let helped = aliases.iter().any(|name| known.cred_helpers.contains_key(*name));
        if helped || (login.is_some() && !known.creds_store.is_empty()) {
            return Err(format!(
                "the login for {registry} is kept by a helper program; log in without one"
            ));
        }
        return Ok(None);
    };
    let text = base64(&login.auth).and_then(|bytes| String::from_utf8(bytes).ok());
    let pair = text.as_deref().and_then(|text| text.split_once(':'));
    let (username, password) = pair.ok_or_else(|| format!("the login for {registry} cannot be read"))?;
    Ok(Some(Credentials {
        username: username.into(),
        password: password.into(),
    }))
}

fn base64(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let (mut bits, mut count) = (0u32, 0);
    for byte in text.trim_end_matches('=').bytes() {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
            bits &= (1 << count) - 1;
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_is_found_by_the_registry_of_the_image() {
        let text =
            r#"{"auths": {"127.0.0.1:5000": {"auth": "dXNlcjpwYTpzcw=="}, "helped.example": {}}, "credsStore": "x"}"#;
        let known: File = serde_json::from_str(text).unwrap();
        let found = find(&known, registry("127.0.0.1:5000/a/b:1")).unwrap().unwrap();
        assert_eq!((found.username.as_str(), found.password.as_str()), ("user", "pa:ss"));
        assert!(find(&known, registry("alpine")).unwrap().is_none());
        assert!(find(&known, registry("helped.example/a")).is_err());
        assert!(!format!("{found:?}").contains("pa:ss"));
    }
}
