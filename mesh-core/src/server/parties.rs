//! Both ends of a connection, as an authorization service is told of them (A92).

use http::Extensions;

use super::ConnectInfo;
use super::state::ConnectionState;
#[cfg(feature = "tls")]
use crate::identity::Identity;
use crate::resource::ext_authz::Parties;
#[cfg(feature = "tls")]
use crate::tls::Peer;

#[cfg(feature = "tls")]
pub(super) fn parties(connection: &ConnectionState) -> Parties {
    let security = connection.security();
    let peer = security.as_ref().and_then(|security| security.peer.as_ref());
    let local = security.as_ref().map(|security| Identity::name(&security.identity).to_owned());
    Parties { local, ..of_peer(plain(connection), peer) }
}

#[cfg(not(feature = "tls"))]
pub(super) fn parties(connection: &ConnectionState) -> Parties {
    plain(connection)
}

/// As the extensions of a request say it; `None`: they do not.
pub(crate) fn parties_of(extensions: &Extensions) -> Option<Parties> {
    let ConnectInfo { local_address, peer_address, .. } = *extensions.get::<ConnectInfo>()?;
    let parties = Parties { peer_address, peer: None, certificate: None, local_address, local: None };
    #[cfg(feature = "tls")]
    let parties = of_peer(parties, extensions.get::<Peer>());
    Some(parties)
}

#[cfg(feature = "tls")]
fn of_peer(parties: Parties, peer: Option<&Peer>) -> Parties {
    let certificate = peer.and_then(Peer::certificate_for_url);
    Parties { peer: peer.map(|peer| peer.name().to_owned()), certificate, ..parties }
}

fn plain(connection: &ConnectionState) -> Parties {
    let ConnectionState { local_address, peer_address, .. } = *connection;
    Parties { peer_address, peer: None, certificate: None, local_address, local: None }
}
