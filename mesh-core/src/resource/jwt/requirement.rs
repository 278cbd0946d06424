//! Which tokens a call must have, as a pure decision.

use std::rc::Rc;

use super::failure::Failure;
use super::place::TokenPlace;
use super::provider::Provider;
use super::token::Token;
use crate::resource::matcher::RequestHead;

/// What must hold of a call's tokens. Providers are named by their places in the filter's list.
#[derive(Debug)]
pub(crate) enum Requirement {
    Nothing,
    /// At least one token in the provider's places, and all of them good; of these audiences, if any are given.
    Provider {
        provider: usize,
        audiences: Option<Box<[String]>>,
    },
    Any(Box<[Requirement]>),
    All(Box<[Requirement]>),
    /// No token in the places of these providers, or good ones alone.
    AllowMissing(Box<[usize]>),
    /// Whatever there is; the good ones are used.
    AllowMissingOrFailed(Box<[usize]>),
}

/// A token that is good.
pub(super) struct Accepted<'p> {
    pub(super) provider: &'p Provider,
    pub(super) place: &'p TokenPlace,
    pub(super) token: Rc<Token>,
}

/// Decides on one call.
pub(super) struct Judge<'p, 'a> {
    providers: &'p [Provider],
    head: RequestHead<'a>,
    /// Seconds since 1970.
    now: f64,
    /// Each text is read once.
    read: Vec<(&'a str, Option<Rc<Token>>)>,
    /// And checked by each provider once, for its own audiences.
    checked: Vec<(usize, &'a str, Result<(), Failure>)>,
    pub(super) accepted: Vec<Accepted<'p>>,
}

impl<'p, 'a> Judge<'p, 'a> {
    pub(super) fn new(providers: &'p [Provider], head: RequestHead<'a>, now: f64) -> Self {
        Self { providers, head, now, read: Vec::new(), checked: Vec::new(), accepted: Vec::new() }
    }

    pub(super) fn decide(&mut self, requirement: &Requirement) -> Result<(), Failure> {
        match requirement {
            Requirement::Nothing => Ok(()),
            Requirement::Provider { provider, audiences } => self.of_provider(*provider, audiences.as_deref()),
            Requirement::All(all) => all.iter().try_for_each(|one| self.decide(one)),
            Requirement::Any(any) => self.any(any),
            Requirement::AllowMissing(providers) => self.each(providers).into_iter().collect(),
            Requirement::AllowMissingOrFailed(providers) => {
                self.each(providers);
                Ok(())
            }
        }
    }

    /// If none holds, what is told is why a token that was meant for one is not good.
    fn any(&mut self, any: &[Requirement]) -> Result<(), Failure> {
        let mut why = Failure::Missing;
        for one in any {
            match self.decide(one) {
                Ok(()) => return Ok(()),
                Err(failure) if !failure.says_little() || why.says_little() && failure != Failure::Missing => {
                    why = failure
                }
                Err(_) => {}
            }
        }
        Err(why)
    }

    /// A good token beside a bad one does not do: whoever reads them next might take the other.
    fn of_provider(&mut self, provider: usize, audiences: Option<&[String]>) -> Result<(), Failure> {
        let tokens = self.tokens(provider);
        if tokens.is_empty() {
            return Err(Failure::Missing);
        }
        for (place, text) in tokens {
            self.accept(provider, place, text?, audiences)?;
        }
        Ok(())
    }

    /// What becomes of each token in the places of these providers. A token is its issuer's, if that is one of them and has it
    /// in a place of its own.
    fn each(&mut self, providers: &[usize]) -> Vec<Result<(), Failure>> {
        let mut texts: Vec<(&'a str, Vec<(usize, &'p TokenPlace)>)> = Vec::new();
        let mut results = Vec::new();
        for provider in providers {
            for (place, text) in self.tokens(*provider) {
                match text {
                    Err(failure) => results.push(Err(failure)),
                    Ok(text) => match texts.iter_mut().find(|(known, _)| std::ptr::eq(*known, text)) {
                        Some((_, claimed)) => claimed.push((*provider, place)),
                        None => texts.push((text, vec![(*provider, place)])),
                    },
                }
            }
        }
        for (text, claimed) in texts {
            results.push(self.of_any(text, &claimed));
        }
        results
    }

    fn of_any(&mut self, text: &'a str, claimed: &[(usize, &'p TokenPlace)]) -> Result<(), Failure> {
        let token = self.token(text)?;
        let issued_by = |issuer: &str| claimed.iter().find(|(provider, _)| self.providers[*provider].issuer == issuer);
        let found = issued_by(token.issuer()).or_else(|| issued_by(""));
        let &(provider, place) = found.ok_or(Failure::UnknownIssuer)?;
        self.accept(provider, place, text, None)
    }

    fn tokens(&self, provider: usize) -> Vec<(&'p TokenPlace, Result<&'a str, Failure>)> {
        let places = self.providers[provider].places.iter();
        places.filter_map(|place| Some((place, place.token(&self.head)?))).collect()
    }

    fn accept(
        &mut self,
        provider: usize,
        place: &'p TokenPlace,
        text: &'a str,
        audiences: Option<&[String]>,
    ) -> Result<(), Failure> {
        let token = self.token(text)?;
        let known = self.checked.iter().find(|(by, known, _)| *by == provider && std::ptr::eq(*known, text));
        let result = match known.filter(|_| audiences.is_none()) {
            Some((_, _, result)) => *result,
            None => self.providers[provider].check(&token, audiences, self.now),
        };
        if audiences.is_none() {
            self.checked.push((provider, text, result));
        }
        result?;
        let provider = &self.providers[provider];
        let is_known = |accepted: &Accepted<'_>| std::ptr::eq(accepted.provider, provider) && accepted.place == place;
        if !self.accepted.iter().any(is_known) {
            self.accepted.push(Accepted { provider, place, token });
        }
        Ok(())
    }

    fn token(&mut self, text: &'a str) -> Result<Rc<Token>, Failure> {
        let known = self.read.iter().find(|(known, _)| std::ptr::eq(*known, text));
        let token = match known {
            Some((_, token)) => token.clone(),
            None => {
                let token = Token::read(text).map(Rc::new);
                self.read.push((text, token.clone()));
                token
            }
        };
        token.ok_or(Failure::Malformed)
    }
}
