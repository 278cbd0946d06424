//! A bearer token in a file (A97): read anew for each stream, since whoever puts it there replaces it before it expires.

use std::io::Read;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::HeaderValue;

use super::StreamError;
use crate::aside::aside;

/// A larger file is no token; servers take headers of some 8 KiB.
const MAX_SIZE: u64 = 64 << 10;

/// The value of `authorization`, which is never printed.
pub(super) async fn authorization(path: &Path) -> Result<HeaderValue, StreamError> {
    let owned = path.to_owned();
    let reading = aside(move || read(&owned)).await;
    let token = reading.unwrap_or_else(|_| Err(unavailable(path, "it cannot be read")))?;
    bearer(&token, SystemTime::now())
        .map_err(|problem| StreamError::new(format!("UNAUTHENTICATED: the token in {}: {problem}", path.display())))
}

fn read(path: &Path) -> Result<String, StreamError> {
    let mut token = String::new();
    let reading = std::fs::File::open(path).and_then(|file| file.take(MAX_SIZE + 1).read_to_string(&mut token));
    match reading {
        Ok(_) if token.len() as u64 > MAX_SIZE => Err(unavailable(path, "it is larger than 64 KiB")),
        Ok(_) => Ok(token),
        Err(error) => Err(unavailable(path, &error.to_string())),
    }
}

fn unavailable(path: &Path, problem: &str) -> StreamError {
    StreamError::new(format!("UNAVAILABLE: the token in {}: {problem}", path.display()))
}

/// What is wrong with a token is said without a word of it.
fn bearer(token: &str, now: SystemTime) -> Result<HeaderValue, String> {
    let token = token.trim();
    if let Some(expiry) = expiry(token).ok_or("it is no JSON Web Token")?
        && let Ok(ago) = now.duration_since(UNIX_EPOCH + Duration::from_secs(expiry))
    {
        return Err(format!("it expired {} s ago", ago.as_secs()));
    }
    let mut value = HeaderValue::try_from(format!("Bearer {token}")).map_err(|_| "it is no JSON Web Token")?;
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
