//! Which tokens a call must have, as a pure decision.

use std::rc::Rc;

use super::failure::Failure;
use super::place::TokenPlace;
use super::provider::Provider;
use super::remote::UnderWay;
use super::token::Token;
use crate::resource::matcher::RequestHead;

/// What must hold of a call's tokens.
#[derive(Debug)]
pub(crate) enum Requirement {
    Nothing,
    /// At least one token in the provider's places, and all of them good.
    Provider(TokenOf),
    Any(Box<[Requirement]>),
    All(Box<[Requirement]>),
    /// No token in the places of these, or good ones alone.
    AllowMissing(Box<[TokenOf]>),
    /// Whatever there is; the good ones are used.
    AllowMissingOrFailed(Box<[TokenOf]>),
}

/// The tokens of one provider.
#[derive(Clone, Debug)]
pub(crate) struct TokenOf {
    /// Its place in the filter's list.
    pub(crate) provider: usize,
    /// They are for one of these; `None`: for one of the provider's own.
    pub(crate) audiences: Option<Box<[String]>>,
}

impl TokenOf {
    /// For the provider's own audiences.
    pub(crate) fn provider(provider: usize) -> Self {
        Self { provider, audiences: None }
    }
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
    /// And verified by each provider once, in however many places it is and for whichever audiences.
    verified: Vec<(usize, &'a str, Result<(), Failure>)>,
    pub(super) accepted: Vec<Accepted<'p>>,
    /// Fetches of keys that may change the decision.
    pub(super) under_way: Vec<UnderWay>,
}

impl<'p, 'a> Judge<'p, 'a> {
    pub(super) fn new(providers: &'p [Provider], head: RequestHead<'a>, now: f64) -> Self {
        Self {
            providers,
            head,
            now,
            read: Vec::new(),
            verified: Vec::new(),
            accepted: Vec::new(),
            under_way: Vec::new(),
        }
    }

    pub(super) fn decide(&mut self, requirement: &Requirement) -> Result<(), Failure> {
        match requirement {
            Requirement::Nothing => Ok(()),
            Requirement::Provider(of) => self.of_provider(of.provider, of.audiences.as_deref()),
            Requirement::All(all) => all.iter().try_for_each(|one| self.decide(one)),
            Requirement::Any(any) => self.any(any),
            Requirement::AllowMissing(allowed) => self.each(allowed).into_iter().collect(),
            Requirement::AllowMissingOrFailed(allowed) => {
                self.each(allowed);
                Ok(())
            }
        }
    }

    /// If none holds, what is told is why a token that was meant for one is not good.
    fn any(&mut self, any: &[Requirement]) -> Result<(), Failure> {
        let mut why = Failure::Missing;
        for one in any {
            let before = self.accepted.len();
            let decided = self.decide(one);
            if decided.is_err() {
                // Good ones among them are not, beside what is bad.
                self.accepted.truncate(before);
            }
            match decided {
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
    fn each(&mut self, allowed: &[TokenOf]) -> Vec<Result<(), Failure>> {
        let mut texts: Vec<(&'a str, Vec<(&TokenOf, &'p TokenPlace)>)> = Vec::new();
        let mut results = Vec::new();
        for of in allowed {
            for (place, text) in self.tokens(of.provider) {
                match text {
                    Err(failure) => results.push(Err(failure)),
                    Ok(text) => match texts.iter_mut().find(|(known, _)| std::ptr::eq(*known, text)) {
                        Some((_, claimed)) => claimed.push((of, place)),
                        None => texts.push((text, vec![(of, place)])),
                    },
                }
            }
        }
        for (text, claimed) in texts {
            results.push(self.of_any(text, &claimed));
        }
        results
    }

    fn of_any(&mut self, text: &'a str, claimed: &[(&TokenOf, &'p TokenPlace)]) -> Result<(), Failure> {
        let issuer = self.token(text)?.issuer().to_owned();
        let is_known = claimed.iter().any(|(of, _)| self.providers[of.provider].issuer == issuer);
        let issuer = if is_known { issuer } else { String::new() };
        let mut result = Err(Failure::UnknownIssuer);
        // One provider may be named more than once, for other audiences each time.
        for (of, place) in claimed.iter().filter(|(of, _)| self.providers[of.provider].issuer == issuer) {
            result = self.accept(of.provider, place, text, of.audiences.as_deref());
            if result.is_ok() {
                break;
            }
        }
        result
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
        self.verify(provider, &token, text)?;
        self.providers[provider].admit(&token, audiences)?;
        let provider = &self.providers[provider];
        let mut of_provider = self.accepted.iter().filter(|accepted| std::ptr::eq(accepted.provider, provider));
        // Policies might go by the one, and the handler by the other.
        if of_provider.any(|accepted| accepted.token != token) {
            return Err(Failure::Ambiguous);
        }
        let is_known = |accepted: &Accepted<'_>| std::ptr::eq(accepted.provider, provider) && accepted.place == place;
        if !self.accepted.iter().any(is_known) {
            self.accepted.push(Accepted { provider, place, token });
        }
        Ok(())
    }

    fn verify(&mut self, provider: usize, token: &Token, text: &'a str) -> Result<(), Failure> {
        let known = self.verified.iter().find(|(by, known, _)| *by == provider && *known == text);
        if let Some((_, _, result)) = known {
            return *result;
        }
        let result = self.providers[provider].verify(token, self.now, &mut self.under_way);
        self.verified.push((provider, text, result));
        result
    }

    fn token(&mut self, text: &'a str) -> Result<Rc<Token>, Failure> {
        let known = self.read.iter().find(|(known, _)| *known == text);
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
