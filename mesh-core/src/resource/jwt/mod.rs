//! JSON Web Tokens of callers (Envoy's `jwt_authn`): which a call must have, and what is done with good ones.
//!
//! ```text
//! JwtFilter ─ the first rule that the request matches ─▸ its Requirement ─ Judge ─┬─ Failure: the call is refused
//!  └ Providers: places of tokens, issuer, keys, …                                 └─ headers and Claims of the good tokens
//! ```
//!
//! The decision is total, and pure but for the keys that issuers publish ([`remote`]); the time is an argument. No error, log or answer has anything of a token in it.

pub(crate) mod failure;
mod json;
pub(crate) mod keys;
pub(crate) mod place;
pub(crate) mod provider;
pub(crate) mod remote;
pub(crate) mod requirement;
mod signature;
#[cfg(test)]
mod tests;
mod token;

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use failure::Failure;
use http::header::WWW_AUTHENTICATE;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use keys::KeySource;
use provider::Provider;
use remote::UnderWay;
use requirement::{Accepted, Judge, Requirement};

use super::answer::{Answer, AnswerStatus};
use super::claims::Claims;
use super::matcher::{RequestHead, RouteMatch};

/// The filter `jwt_authn`.
#[derive(Debug)]
pub(crate) struct JwtFilter {
    providers: Vec<Provider>,
    /// The first that matches holds; if none does, nothing is required.
    rules: Vec<(RouteMatch, Requirement)>,
    /// For routes, by their names.
    named: BTreeMap<Arc<str>, Requirement>,
    /// Headers that only the providers may set.
    own_headers: Vec<HeaderName>,
    /// Who is refused is not told why.
    is_silent: bool,
}

/// The filter where it is configured, or what a route makes of it.
#[derive(Clone, Debug)]
pub(crate) enum JwtConfig {
    Rules(Arc<JwtFilter>),
    /// Of a route: a requirement of the filter, by its name.
    Named(Arc<str>),
    /// The filter where such a route is.
    Required(Arc<JwtFilter>, Arc<str>),
    /// The filter where it is off.
    Off(Arc<JwtFilter>),
}

impl JwtConfig {
    /// Where a route says something else.
    pub(crate) fn overridden(&self, said: &Self) -> Self {
        match (self, said) {
            (Self::Rules(filter), Self::Named(name)) => Self::Required(filter.clone(), name.clone()),
            _ => self.clone(),
        }
    }

    /// Where nothing is required. What only tokens may say, no caller may, there too.
    pub(crate) fn switched_off(&self) -> Self {
        match self {
            Self::Rules(filter) | Self::Required(filter, _) | Self::Off(filter) => Self::Off(filter.clone()),
            Self::Named(_) => self.clone(),
        }
    }

    /// Whether it can do nothing to any call.
    pub(crate) fn is_idle(&self) -> bool {
        match self {
            Self::Rules(filter) => filter.rules.is_empty() && filter.own_headers.is_empty(),
            Self::Off(filter) => filter.own_headers.is_empty(),
            Self::Named(_) | Self::Required(..) => false,
        }
    }

    /// Verifies the tokens that a request must have, takes out of it what its caller may not say, and puts in what the tokens
    /// say.
    pub(crate) fn authenticate(&self, head: &mut Parts, now: SystemTime) -> Result<(), Failure> {
        self.authenticate_by_chance(head, now, || fastrand::u32(..1_000_000), None)
    }

    /// Has the keys fetched that its issuers publish. Which of them are waited for before it is put in force.
    pub(crate) fn start(&self) -> Vec<UnderWay> {
        let (Self::Rules(filter) | Self::Required(filter, _)) = self else { return Vec::new() };
        let remote = filter.providers.iter().filter_map(|provider| match &provider.keys {
            KeySource::Remote(set) => Some(set),
            KeySource::Local(_) => None,
        });
        remote.inspect(|set| set.start()).filter_map(|set| set.first()).collect()
    }

    /// The same, where chance is not to say another thing each time. `draw` is as that of [`RouteMatch::matches`]. Whoever
    /// can wait gives `under_way`: if there is anything in it then, nothing is decided, and nothing changed, until these
    /// fetches have ended.
    pub(crate) fn authenticate_by_chance(
        &self,
        head: &mut Parts,
        now: SystemTime,
        draw: impl FnMut() -> u32,
        under_way: Option<&mut Vec<UnderWay>>,
    ) -> Result<(), Failure> {
        match self {
            Self::Rules(filter) => {
                let requirement = filter.rule(&RequestHead::of_parts(head), draw);
                filter.authenticate(requirement, head, now, under_way)
            }
            Self::Required(filter, name) => {
                let requirement = filter.named.get(name).ok_or(Failure::UnknownRequirement)?;
                filter.authenticate(requirement, head, now, under_way)
            }
            Self::Off(filter) => {
                filter.strip(head);
                Ok(())
            }
            // Without the filter there is nothing that it could mean.
            Self::Named(_) => Err(Failure::UnknownRequirement),
        }
    }

    /// The answer to a caller whose tokens are not what is required.
    pub(crate) fn answer(&self, failure: Failure) -> Answer {
        let is_silent = match self {
            Self::Rules(filter) | Self::Required(filter, _) | Self::Off(filter) => filter.is_silent,
            Self::Named(_) => true,
        };
        let status = failure.status();
        let answer = Answer::new(AnswerStatus::Http(status), if is_silent { "" } else { failure.text() });
        match (status, failure) {
            (StatusCode::UNAUTHORIZED, _) if is_silent => answer,
            (StatusCode::UNAUTHORIZED, Failure::Missing) => challenged(answer, "Bearer"),
            (StatusCode::UNAUTHORIZED, _) => challenged(answer, "Bearer error=\"invalid_token\""),
            _ => answer,
        }
    }
}

/// With a word on what would do (RFC 6750, 3).
fn challenged(answer: Answer, challenge: &'static str) -> Answer {
    let mut headers = HeaderMap::new();
    headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
    answer.with_headers(headers)
}

impl JwtFilter {
    pub(crate) fn new(
        providers: Vec<Provider>,
        rules: Vec<(RouteMatch, Requirement)>,
        named: BTreeMap<Arc<str>, Requirement>,
        is_silent: bool,
    ) -> Self {
        let own_headers = providers.iter().flat_map(Provider::own_headers).cloned().collect();
        Self { providers, rules, named, own_headers, is_silent }
    }

    /// `draw` is as that of [`RouteMatch::matches`].
    fn rule(&self, request: &RequestHead<'_>, mut draw: impl FnMut() -> u32) -> &Requirement {
        let mut rules = self.rules.iter();
        let found = rules.find(|(condition, _)| condition.matches(request.bare_path(), request, &mut draw));
        found.map_or(&Requirement::Nothing, |(_, requirement)| requirement)
    }

    /// Takes out of a request what its caller may not say.
    fn strip(&self, head: &mut Parts) {
        self.own_headers.iter().for_each(|name| drop(head.headers.remove(name)));
    }

    fn authenticate(
        &self,
        requirement: &Requirement,
        head: &mut Parts,
        now: SystemTime,
        under_way: Option<&mut Vec<UnderWay>>,
    ) -> Result<(), Failure> {
        // Before 1970 no token has ever begun.
        let now = now.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
        let mut judge = Judge::new(&self.providers, RequestHead::of_parts(head), now);
        let decided = judge.decide(requirement);
        // A call that could pass without the token that is not known yet waits, too: what it claims is for policies to see.
        if let Some(under_way) = under_way
            && !judge.under_way.is_empty()
        {
            *under_way = judge.under_way;
            return Err(Failure::NoKeys);
        }
        decided?;
        let accepted = judge.accepted;
        self.strip(head);
        for Accepted { provider, place, token } in &accepted {
            provider.effects.change(token, place, head);
        }
        let entries = accepted.into_iter().flat_map(|Accepted { provider, token, .. }| {
            let token = Rc::unwrap_or_clone(token);
            provider.effects.entries(token)
        });
        let claims = head.extensions.get::<Claims>().cloned().unwrap_or_default().with(entries);
        head.extensions.insert(claims);
        Ok(())
    }
}
