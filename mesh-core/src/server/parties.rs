//! Both ends of a connection, as an authorization service is told of them (A92).

use super::state::ConnectionState;
#[cfg(feature = "tls")]
use crate::identity::Identity;
use crate::resource::ext_authz::Parties;

#[cfg(feature = "tls")]
pub(super) fn parties(connection: &ConnectionState) -> Parties {
    let security = connection.security();
    let peer = security.as_ref().and_then(|security| security.peer.as_ref());
    Parties {
        peer: peer.map(|peer| peer.name().to_owned()),
        certificate: peer.and_then(crate::tls::Peer::certificate_for_url),
        local: security.as_ref().map(|security| Identity::name(&security.identity).to_owned()),
        ..plain(connection)
    }
}

#[cfg(not(feature = "tls"))]
pub(super) fn parties(connection: &ConnectionState) -> Parties {
    plain(connection)
}

fn plain(connection: &ConnectionState) -> Parties {
    let ConnectionState { local_address, peer_address, .. } = *connection;
    Parties { peer_address, peer: None, certificate: None, local_address, local: None }
}
