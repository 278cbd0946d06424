//! `transport_socket_matches`: what secures the connections to an endpoint, by the endpoint's metadata.

use std::collections::BTreeMap;
use std::sync::Arc;

use prost_types::Value;

use super::security::UpstreamTls;

/// Labels by name.
pub(crate) type Labels = BTreeMap<String, Value>;

/// What secures the connections to the endpoints of some labels.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SocketMatch {
    /// Those that an endpoint must have, and may have others beside. Without any, it is for all.
    pub(crate) labels: Labels,
    /// `None`: plaintext.
    pub(crate) security: Option<Arc<UpstreamTls>>,
}

/// `envoy.transport_socket_match` of an endpoint's metadata, and of its locality's.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct SocketLabels {
    pub(crate) endpoint: Option<Arc<Labels>>,
    pub(crate) locality: Option<Arc<Labels>>,
}

impl SocketMatch {
    /// The endpoint's own labels are asked first, but have no part in what its locality's say, as in Envoy.
    pub(crate) fn is_for(&self, endpoint: Option<&SocketLabels>) -> bool {
        let fit = |labels: &Arc<Labels>| self.labels.iter().all(|(name, value)| labels.get(name) == Some(value));
        let of_either = |labels: &SocketLabels| [&labels.endpoint, &labels.locality].into_iter().flatten().any(fit);
        self.labels.is_empty() || endpoint.is_some_and(of_either)
    }
}

#[cfg(test)]
mod tests {
    use prost_types::value::Kind;
    use prost_types::{ListValue, Struct};

    use super::*;

    fn text(text: &str) -> Value {
        Value { kind: Some(Kind::StringValue(text.to_owned())) }
    }

    fn labels(labels: &[(&str, Value)]) -> Labels {
        labels.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
    }

    #[test]
    fn a_match_is_for_endpoints_that_have_all_its_labels_with_equal_values() {
        let number = |number| Value { kind: Some(Kind::NumberValue(number)) };
        let list = |values: Vec<Value>| Value { kind: Some(Kind::ListValue(ListValue { values })) };
        let object = |fields: Labels| Value { kind: Some(Kind::StructValue(Struct { fields })) };
        let istio = [("tlsMode", text("istio"))];
        let both = [("tlsMode", text("istio")), ("n", number(1.0))];
        for (wanted, endpoint, locality, expected) in [
            (&[][..], None, None, true),
            (&istio, None, None, false),
            (&istio, Some(&istio[..]), None, true),
            (&istio, Some(&both), None, true),
            (&istio, None, Some(&istio[..]), true),
            (&istio, Some(&[("tlsMode", text("disabled"))]), Some(&istio), true),
            (&istio, Some(&[("tlsMode", text("Istio"))]), None, false),
            (&istio, Some(&[("tlsmode", text("istio"))]), None, false),
            (&istio, Some(&[("tlsMode", list(vec![text("istio")]))]), None, false),
            (&both, Some(&istio), Some(&[("n", number(1.0))]), false),
            (&both, Some(&istio), Some(&both), true),
            (&[("a", list(vec![text("x")]))], Some(&[("a", list(vec![text("x")]))]), None, true),
            (&[("a", list(vec![text("x")]))], Some(&[("a", list(vec![text("x"), text("y")]))]), None, false),
            (&[("a", object(labels(&istio)))], Some(&[("a", object(labels(&istio)))]), None, true),
            (&[("a", object(labels(&istio)))], Some(&[("a", object(labels(&both)))]), None, false),
            (&[("a", Value { kind: None })], Some(&istio), None, false),
        ] {
            let endpoint_labels = endpoint.map(|own| Arc::new(labels(own)));
            let of = SocketLabels { endpoint: endpoint_labels, locality: locality.map(|own| Arc::new(labels(own))) };
            let wanted = SocketMatch { labels: labels(wanted), security: None };
            assert_eq!(wanted.is_for(Some(&of)), expected, "{wanted:?} for {of:?}");
            assert_eq!(wanted.is_for(None), wanted.labels.is_empty());
        }
    }
}
