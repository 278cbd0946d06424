//! No bytes make a decoder panic, and what it accepts can be used.

use std::sync::LazyLock;

use proptest::prelude::*;
use prost::Message;

use super::fixture::Fixture;
use super::istio::everything;
use crate::resource::{CLUSTER, ENDPOINTS, LISTENER, ROUTE_CONFIGURATION, trial};
use crate::xds::resource_type::Extensions;

/// Decodes as each of the types, and uses what comes out.
fn total(bytes: &[u8], path: &str) {
    let kinds = [
        &LISTENER,
        &ROUTE_CONFIGURATION,
        &CLUSTER,
        &ENDPOINTS,
        #[cfg(feature = "tls")]
        &crate::resource::SECRET,
    ];
    kinds.into_iter().for_each(|kind| trial::decode(kind, bytes, &Extensions::default(), path));
}

/// Valid resources to start from.
static CORPUS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let f = Fixture::default();
    let mut corpus: Vec<_> = everything().into_iter().map(|(_, bytes)| bytes).collect();
    corpus.push(f.packed().encode_to_vec());
    corpus.push(f.routes.encode_to_vec());
    corpus.push(f.cluster.encode_to_vec());
    corpus.push(f.endpoints.encode_to_vec());
    corpus
});

proptest! {
    #[test]
    fn arbitrary_bytes(bytes in prop::collection::vec(any::<u8>(), 0..300), path in ".{0,20}") {
        total(&bytes, &path);
    }

    #[test]
    fn changed_resources(
        pick in any::<prop::sample::Index>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<Option<prop::sample::Index>>(),
        path in ".{0,20}",
    ) {
        let mut bytes = pick.get(&CORPUS[..]).clone();
        for (place, byte) in changes {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        total(&bytes, &path);
    }

    #[test]
    fn crossed_resources(
        one in any::<prop::sample::Index>(),
        other in any::<prop::sample::Index>(),
        path in ".{0,20}",
    ) {
        // Messages that stand behind each other are merged.
        let mut bytes = one.get(&CORPUS[..]).clone();
        bytes.extend_from_slice(other.get(&CORPUS[..]) as &Vec<u8>);
        total(&bytes, &path);
    }
}

#[test]
fn messages_nested_without_end_are_refused() {
    // A struct in a struct in a struct …, in a listener's metadata.
    let mut bytes = Vec::new();
    for _ in 0..10_000 {
        let length = bytes.len();
        let mut outer = vec![0x0a];
        prost::encoding::encode_varint(length as u64, &mut outer);
        outer.append(&mut bytes);
        bytes = outer;
    }
    for tag in [0x0a, 0x12, 0x32, 0x2a] {
        let mut resource = vec![tag];
        prost::encoding::encode_varint(bytes.len() as u64, &mut resource);
        resource.extend_from_slice(&bytes);
        total(&resource, "/");
    }
}
