//! A bearer token in a file (A97): read anew for each stream, since whoever puts it there replaces it before it expires.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::HeaderValue;
use tokio::time::timeout;

use super::StreamError;
use crate::aside::{Ongoing, PATIENCE};
use crate::files;

/// A larger file is no token; servers take headers of some 8 KiB.
const MAX_SIZE: u64 = 64 << 10;

const NO_TOKEN: &str = "it is no JSON Web Token";

/// The file of a token.
#[derive(Debug)]
pub(super) struct TokenFile {
    path: PathBuf,
    reading: Ongoing<Result<HeaderValue, StreamError>>,
}

impl TokenFile {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, reading: Ongoing::default() }
    }

    /// The value of `authorization` of now. A file that cannot be read within [`PATIENCE`] is an error, and is read on.
    pub(super) async fn authorization(&self) -> Result<HeaderValue, StreamError> {
        let path = self.path.clone();
        match timeout(PATIENCE, self.reading.run(move || authorization(&path))).await {
            Ok(Ok(value)) => value,
            Ok(Err(error)) => Err(unavailable(&self.path, error)),
            Err(_) => {
                let problem = format!("it could not be read within {PATIENCE:?}, and is waited for");
                Err(unavailable(&self.path, problem))
            }
        }
    }
}

/// The value of `authorization`, which is never printed. Blocks.
pub(crate) fn authorization(path: &Path) -> Result<HeaderValue, StreamError> {
    let bytes = files::read_up_to(path, MAX_SIZE).map_err(|error| unavailable(path, error))?;
    let token = std::str::from_utf8(&bytes).map_err(|_| NO_TOKEN.to_owned());
    token
        .and_then(|token| bearer(token, SystemTime::now()))
        .map_err(|problem| StreamError::new(format!("UNAUTHENTICATED: the token in {}: {problem}", path.display())))
}

fn unavailable(path: &Path, problem: impl fmt::Display) -> StreamError {
    StreamError::new(format!("UNAVAILABLE: the token in {}: {problem}", path.display()))
}

/// What is wrong with a token is said without a word of it.
fn bearer(token: &str, now: SystemTime) -> Result<HeaderValue, String> {
    let token = token.trim();
    if let Some(expiry) = expiry(token).ok_or(NO_TOKEN)?
        && let Ok(ago) = now.duration_since(UNIX_EPOCH + Duration::from_secs(expiry))
    {
        return Err(format!("it expired {} s ago", ago.as_secs()));
    }
    let mut value = HeaderValue::try_from(format!("Bearer {token}")).map_err(|_| NO_TOKEN)?;
    value.set_sensitive(true);
    Ok(value)
}

/// The claim `exp` of a token, in seconds since 1970, if it has one; `None`: it is none.
fn expiry(token: &str) -> Option<Option<u64>> {
    let mut parts = token.split('.');
    let (Some(_), Some(claims), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
        return None;
    };
    let claims = URL_SAFE_NO_PAD.decode(claims.trim_end_matches('=')).ok()?;
    let claims: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(&claims).ok()?;
    // Ten thousand years are enough, and can be added to any time.
    Some(claims.get("exp").and_then(serde_json::Value::as_f64).map(|exp| exp.clamp(0.0, 3e11) as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(claims: &str) -> String {
        format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims))
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn what_is_no_file_of_a_token_is_neither_waited_for_nor_read_whole() {
        let folder = tempfile::TempDir::new().unwrap();
        let at = |name: &str| folder.path().join(name);
        assert!(std::process::Command::new("mkfifo").arg(at("pipe")).status().unwrap().success());
        std::fs::write(at("large"), vec![b'x'; 64 * 1024 + 1]).unwrap();
        std::fs::write(at("bytes"), [0xff]).unwrap();
        for (name, problem) in [
            ("pipe", "it is no regular file"),
            ("large", "it has more than 65536 bytes"),
            ("bytes", "it is no JSON Web Token"),
            ("nowhere", "No such file"),
        ] {
            let file = TokenFile::new(at(name));
            let reading = timeout(PATIENCE / 2, file.authorization()).await.expect("it does not block");
            let error = reading.unwrap_err().to_string();
            assert!(error.contains(&format!("/{name}: {problem}")), "{error}");
        }
    }

    #[test]
    fn a_token_is_sent_while_it_is_valid_and_never_printed() {
        let now = UNIX_EPOCH + Duration::from_secs(1000);
        for claims in ["{}", r#"{"exp": 1001}"#, r#"{"exp": 1e300}"#, r#"{"exp": "x"}"#] {
            let token = token(claims);
            let value = bearer(&format!(" {token}\n"), now).unwrap();
            assert_eq!(value.as_bytes(), format!("Bearer {token}").as_bytes());
            assert!(!format!("{value:?}").contains(&token));
        }
        for (token, problem) in [
            (token(r#"{"exp": 990}"#), "it expired 10 s ago"),
            (token(r#"{"exp": -1}"#), "it expired 1000 s ago"),
            (token("[]"), "no JSON Web Token"),
            (String::new(), "no JSON Web Token"),
            ("secret".to_owned(), "no JSON Web Token"),
            ("a.b.c.d".to_owned(), "no JSON Web Token"),
            (format!("{}\u{7}", token("{}")), "no JSON Web Token"),
        ] {
            let error = bearer(&token, now).unwrap_err();
            assert!(error.contains(problem) && !error.contains("secret"), "{error}");
        }
    }
}
