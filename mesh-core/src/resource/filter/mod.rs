//! The HTTP filters of a listener and what routes override of them (A39).
//!
//! A filter is known by the name it has in the listener's list. Four levels may override its configuration, from the most
//! specific: a cluster of a weighted route, the route, the virtual host, the route configuration. The most specific
//! override holds whole; nothing is merged, unless the filter's own documentation says so.

pub(crate) mod composite;
pub(crate) mod concurrency;
pub(crate) mod descriptor;
pub(crate) mod fault;
pub(crate) mod header_mutation;
pub(crate) mod rate_limit;
pub(crate) mod stateful_session;
pub(crate) mod template;

use std::collections::HashMap;
use std::sync::Arc;

use composite::Composite;
use concurrency::ConcurrencyLimit;
use fault::Fault;
use header_mutation::HeaderMutation;
use rate_limit::LocalRateLimit;
use stateful_session::StatefulSession;

use super::ext_authz::ExtAuthzConfig;
#[cfg(feature = "jwt")]
use super::jwt::JwtConfig;
use super::rbac::RbacFilter;

/// The filters of a listener in their order, without the router that ends the list.
#[derive(Debug, Default)]
pub(crate) struct HttpFilters(pub(crate) Vec<HttpFilter>);

/// One filter of the list.
#[derive(Clone, Debug)]
pub(crate) struct HttpFilter {
    /// Its name in the list: what overrides and running state are keyed by.
    pub(crate) name: Arc<str>,
    /// Off, except where an override configures it.
    pub(crate) disabled: bool,
    pub(crate) config: FilterConfig,
}

/// The configuration of a filter, by its kind.
#[derive(Clone, Debug)]
pub(crate) enum FilterConfig {
    Composite(Arc<Composite>),
    /// With what it counts: where it is in force, calls share that.
    ConcurrencyLimit(Arc<ConcurrencyLimit>),
    ExtAuthz(ExtAuthzConfig),
    Fault(Arc<Fault>),
    HeaderMutation(HeaderMutationConfig),
    /// With its bucket: where it is in force, calls share that.
    LocalRateLimit(Arc<LocalRateLimit>),
    StatefulSession(Arc<StatefulSession>),
    /// Of servers alone.
    Rbac(Arc<RbacFilter>),
    /// Of servers alone.
    #[cfg(feature = "jwt")]
    Jwt(JwtConfig),
}

/// The filter `header_mutation`, or what a route adds to it.
#[derive(Clone, Debug)]
pub(crate) struct HeaderMutationConfig {
    pub(crate) changes: Arc<HeaderMutation>,
    /// The levels' changes are made from the least to the most specific, so that the last has the last word; otherwise the
    /// other way round.
    pub(crate) most_specific_wins: bool,
}

/// What one level overrides, by the filter's name. Each of many routes has two levels, most of which override nothing.
#[derive(Clone, Debug, Default)]
#[expect(clippy::box_collection, reason = "an empty map has six times the size of a pointer")]
pub(crate) struct Overrides(Option<Box<HashMap<Arc<str>, Override>>>);

/// What a level says about one filter.
#[derive(Clone, Debug)]
pub(crate) enum Override {
    Disabled,
    Config(FilterConfig),
}

impl Overrides {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    fn of(&self, filter: &str) -> Option<&Override> {
        self.0.as_ref()?.get(filter)
    }
}

impl FromIterator<(Arc<str>, Override)> for Overrides {
    fn from_iter<I: IntoIterator<Item = (Arc<str>, Override)>>(overrides: I) -> Self {
        let overrides: HashMap<_, _> = overrides.into_iter().collect();
        Self(Some(overrides).filter(|overrides| !overrides.is_empty()).map(Box::new))
    }
}

impl HttpFilter {
    /// What is in force of it where these levels, from the most to the least specific, override it. `None` if it does
    /// nothing there.
    pub(crate) fn in_force(&self, levels: &[&Overrides]) -> Option<FilterConfig> {
        let mut said = levels.iter().filter_map(|level| level.of(&self.name)).filter(|said| said.fits(&self.config));
        let config = match (&self.config, said.clone().next()) {
            (own, Some(Override::Disabled)) => return own.switched_off(),
            (own, None) if self.disabled => return own.switched_off(),
            (FilterConfig::ExtAuthz(own), _) => {
                FilterConfig::ExtAuthz(own.with_all(said.filter_map(Override::ext_authz)))
            }
            (FilterConfig::HeaderMutation(own), _) => FilterConfig::HeaderMutation(own.with_all(&mut said)),
            #[cfg(feature = "jwt")]
            (FilterConfig::Jwt(own), Some(Override::Config(FilterConfig::Jwt(said)))) => {
                FilterConfig::Jwt(own.overridden(said))
            }
            (_, Some(Override::Config(config))) => config.clone(),
            (own, None) => own.clone(),
        };
        (!config.is_idle()).then_some(config)
    }
}

impl HeaderMutationConfig {
    /// In Envoy every level has its say: the filter's own changes come first, then those of the levels.
    fn with_all(&self, said: &mut dyn Iterator<Item = &Override>) -> Self {
        let levels = said.filter_map(|said| match said {
            Override::Config(FilterConfig::HeaderMutation(config)) => Some(&config.changes),
            _ => None,
        });
        let mut levels: Vec<_> = levels.collect();
        if self.most_specific_wins {
            levels.reverse();
        }
        let changes = levels.into_iter().fold((*self.changes).clone(), |changes, level| changes.then(level));
        Self { changes: Arc::new(changes), ..self.clone() }
    }
}

impl Override {
    fn ext_authz(&self) -> Option<&ExtAuthzConfig> {
        match self {
            Self::Config(FilterConfig::ExtAuthz(config)) => Some(config),
            _ => None,
        }
    }

    /// Whether it is one of a filter of this kind; that of another is not.
    fn fits(&self, config: &FilterConfig) -> bool {
        match self {
            Self::Disabled => true,
            Self::Config(own) => std::mem::discriminant(own) == std::mem::discriminant(config),
        }
    }
}

impl FilterConfig {
    /// Goes on with what the filter counted that it takes the place of.
    pub(crate) fn inherit(&self, before: &Self) {
        match (self, before) {
            (Self::LocalRateLimit(limit), Self::LocalRateLimit(before)) => limit.inherit(before),
            (Self::Composite(own), Self::Composite(before)) => own.inherit(before),
            (Self::ConcurrencyLimit(limit), Self::ConcurrencyLimit(before)) => limit.inherit(before),
            _ => {}
        }
    }

    /// What is left of it where it is off.
    fn switched_off(&self) -> Option<Self> {
        match self {
            #[cfg(feature = "jwt")]
            Self::Jwt(own) => Some(Self::Jwt(own.switched_off())).filter(|off| !off.is_idle()),
            _ => None,
        }
    }

    /// Whether it can do nothing to any call.
    pub(crate) fn is_idle(&self) -> bool {
        match self {
            // A call that it has no action for fails.
            Self::Composite(_) => false,
            Self::ConcurrencyLimit(limit) => limit.is_idle(),
            Self::ExtAuthz(config) => config.filter.is_none(),
            Self::Fault(fault) => fault.is_idle(),
            Self::HeaderMutation(config) => config.changes.is_idle(),
            Self::LocalRateLimit(limit) => limit.is_idle(),
            Self::StatefulSession(session) => session.state.is_none(),
            Self::Rbac(rbac) => rbac.rules.is_none() && rbac.shadow.is_none(),
            #[cfg(feature = "jwt")]
            Self::Jwt(jwt) => jwt.is_idle(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::resource::matcher::RequestHead;

    fn delaying(millis: u64) -> FilterConfig {
        FilterConfig::Fault(Arc::new(Fault::new().delay(Duration::from_millis(millis), 1_000_000)))
    }

    fn level(name: &str, said: Override) -> Overrides {
        [(name.into(), said)].into_iter().collect()
    }

    fn millis(config: Option<FilterConfig>) -> Option<u128> {
        let FilterConfig::Fault(fault) = config? else { panic!("a fault") };
        fault.decide(&http::HeaderMap::new(), || 0).delay.map(|delay| delay.as_millis())
    }

    #[test]
    fn the_most_specific_override_holds_whole() {
        let config = |millis| level("f", Override::Config(delaying(millis)));
        let none = Overrides::default();
        let other = level("g", Override::Config(delaying(9)));
        let off = level("f", Override::Disabled);
        let idle = level("f", Override::Config(FilterConfig::Fault(Arc::default())));
        for (disabled, levels, expected) in [
            (false, vec![&none], Some(1)),
            (false, vec![&other, &none], Some(1)),
            (false, vec![&config(2), &config(3)], Some(2)),
            (false, vec![&none, &config(3), &config(4)], Some(3)),
            (false, vec![&off, &config(3)], None),
            (false, vec![&config(3), &off], Some(3)),
            (false, vec![&idle, &config(3)], None),
            (true, vec![&none], None),
            (true, vec![&none, &config(3)], Some(3)),
            (true, vec![&off], None),
        ] {
            let filter = HttpFilter { name: "f".into(), disabled, config: delaying(1) };
            assert_eq!(millis(filter.in_force(&levels)), expected, "disabled {disabled}, {levels:?}");
        }
    }

    fn setting(value: &'static str) -> HeaderMutation {
        let (name, value) = (http::HeaderName::from_static("x"), http::HeaderValue::from_static(value));
        HeaderMutation::new().append_to_request(name, value)
    }

    #[test]
    fn every_level_changes_headers_and_the_filter_says_in_which_order() {
        let config = |value, most_specific_wins| {
            FilterConfig::HeaderMutation(HeaderMutationConfig { changes: Arc::new(setting(value)), most_specific_wins })
        };
        let route = level("h", Override::Config(config("route", false)));
        let host = level("h", Override::Config(config("host", false)));
        let of_another_kind = level("h", Override::Config(delaying(1)));
        for (most_specific_wins, expected) in [(false, "own route host"), (true, "own host route")] {
            let config = config("own", most_specific_wins);
            let filter = HttpFilter { name: "h".into(), disabled: false, config };
            let in_force = filter.in_force(&[&route, &of_another_kind, &host]).expect("changes");
            let FilterConfig::HeaderMutation(config) = in_force else { panic!("changes of headers") };
            let mut headers = http::HeaderMap::new();
            for change in &config.changes.request {
                let head = RequestHead { path: "/", method: &http::Method::POST, authority: "", headers: &headers };
                let facts = template::Facts { cluster: None, route: None, message: template::Message::Request(head) };
                let value = change.value(&facts);
                change.apply(value, &mut headers);
            }
            let values: Vec<_> = headers.get_all("x").iter().map(|value| value.to_str().expect("text")).collect();
            assert_eq!(values.join(" "), expected);
        }
    }
}
