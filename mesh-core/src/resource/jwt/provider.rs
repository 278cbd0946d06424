//! Who issues tokens: how theirs are known, and what is done with one that is good.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{URL_SAFE, URL_SAFE_NO_PAD};
use http::request::Parts;
use http::{HeaderName, HeaderValue};
use serde_json::{Map, Value};

use super::failure::Failure;
use super::keys::{KeySource, Unsigned};
use super::place::TokenPlace;
use super::remote::UnderWay;
use super::token::Token;
use crate::resource::matcher::text::TextMatch;

/// What clocks may differ by where a provider does not say it.
pub(crate) const CLOCK_SKEW: Duration = Duration::from_secs(60);

/// One issuer of tokens.
#[derive(Debug)]
pub(crate) struct Provider {
    /// Empty: of any.
    pub(crate) issuer: String,
    /// Empty: any will do.
    pub(crate) audiences: Vec<String>,
    pub(crate) subjects: Option<TextMatch>,
    pub(crate) needs_expiration: bool,
    /// The most that a token may have left.
    pub(crate) max_lifetime: Option<Duration>,
    pub(crate) clock_skew: Duration,
    pub(crate) keys: KeySource,
    pub(crate) places: Vec<TokenPlace>,
    pub(crate) effects: Effects,
}

/// What is done with a token that is good.
#[derive(Clone, Debug, Default)]
pub(crate) struct Effects {
    /// The handler gets the token, too.
    pub(crate) forwards: bool,
    /// Gets the payload as base64, padded if `pads`.
    pub(crate) payload_header: Option<HeaderName>,
    pub(crate) pads: bool,
    /// Headers that get claims, each with the claim's path.
    pub(crate) claim_headers: Vec<(HeaderName, Vec<String>)>,
    /// The entries of the payload and of the header for policies.
    pub(crate) payload_entry: Option<Arc<str>>,
    pub(crate) header_entry: Option<Arc<str>>,
    /// Claims whose texts become lists of words for policies.
    pub(crate) lists: Vec<String>,
}

impl Provider {
    /// Decides whether the token is one that this provider issued and that holds, at `now` in seconds since 1970: whomever it is
    /// for. Costs a signature or several. A fetch of keys that may change a bad outcome is told.
    pub(super) fn verify(&self, token: &Token, now: f64, under_way: &mut Vec<UnderWay>) -> Result<(), Failure> {
        if !self.issuer.is_empty() && token.issuer() != self.issuer {
            return Err(Failure::UnknownIssuer);
        }
        self.check_time(token, now)?;
        self.keys.signed(token, under_way).map_err(|unsigned| match unsigned {
            Unsigned::NoSet => Failure::NoKeys,
            Unsigned::NoKey => Failure::UnknownKey,
            Unsigned::BadSignature => Failure::BadSignature,
            Unsigned::ManyKeys => Failure::ManyKeys,
        })
    }

    /// Decides whether a token that was [verified](Self::verify) is for one of the audiences, `None`: for one of the provider's
    /// own, and of a subject that may be. Who has no good token learns nothing of what else would be wanted.
    pub(super) fn admit(&self, token: &Token, audiences: Option<&[String]>) -> Result<(), Failure> {
        let wanted = audiences.unwrap_or(&self.audiences);
        if !wanted.is_empty() && !token.audiences.iter().any(|own| wanted.contains(own)) {
            return Err(Failure::Audience);
        }
        if self.subjects.as_ref().is_some_and(|subjects| !subjects.matches(token.subject().as_bytes())) {
            return Err(Failure::Subject);
        }
        Ok(())
    }

    fn check_time(&self, token: &Token, now: f64) -> Result<(), Failure> {
        let skew = self.clock_skew.as_secs_f64();
        if token.not_before.is_some_and(|start| now + skew < start) {
            return Err(Failure::NotYetValid);
        }
        match (token.expires, self.max_lifetime) {
            (None, None) if !self.needs_expiration => Ok(()),
            (None, _) => Err(Failure::Endless),
            (Some(end), _) if now > end + skew => Err(Failure::Expired),
            (Some(end), Some(most)) if end - now > most.as_secs_f64() => Err(Failure::LivesTooLong),
            (Some(_), _) => Ok(()),
        }
    }

    /// The headers that it alone may set.
    pub(super) fn own_headers(&self) -> impl Iterator<Item = &HeaderName> {
        let claims = self.effects.claim_headers.iter().map(|(name, _)| name);
        self.effects.payload_header.iter().chain(claims)
    }
}

impl Effects {
    /// Changes the request of the token's call.
    pub(super) fn change(&self, token: &Token, place: &TokenPlace, head: &mut Parts) {
        if !self.forwards {
            place.clear(head);
        }
        if let Some(name) = &self.payload_header {
            let value = if self.pads { padded(&token.payload_text) } else { Some(token.payload_text.clone()) };
            insert(head, name, value);
        }
        for (name, path) in &self.claim_headers {
            insert(head, name, text_at(&token.payload, path));
        }
    }

    /// What policies see of it.
    pub(super) fn entries(&self, token: Token) -> impl Iterator<Item = (Arc<str>, Value)> {
        let header = self.header_entry.clone().map(|name| (name, Value::Object(token.header)));
        let payload = self.payload_entry.clone().map(|name| (name, Value::Object(self.normalized(token.payload))));
        header.into_iter().chain(payload)
    }

    fn normalized(&self, mut payload: Map<String, Value>) -> Map<String, Value> {
        for name in &self.lists {
            if let Some(Value::String(text)) = payload.get(name) {
                let words = text.split(' ').filter(|word| !word.is_empty()).map(Value::from).collect();
                payload.insert(name.clone(), words);
            }
        }
        payload
    }
}

fn padded(text: &str) -> Option<String> {
    Some(URL_SAFE.encode(URL_SAFE_NO_PAD.decode(text).ok()?))
}

/// What a header cannot hold is left out.
fn insert(head: &mut Parts, name: &HeaderName, value: Option<String>) {
    if let Some(value) = value.and_then(|value| HeaderValue::try_from(value).ok()) {
        head.headers.append(name, value);
    }
}

/// `None`: there is no such claim, or it is an object or a list.
fn text_at(payload: &Map<String, Value>, path: &[String]) -> Option<String> {
    let (first, rest) = path.split_first()?;
    let value = rest.iter().try_fold(payload.get(first)?, |value, step| value.as_object()?.get(step))?;
    match value {
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(is_true) => Some(is_true.to_string()),
        _ => None,
    }
}
