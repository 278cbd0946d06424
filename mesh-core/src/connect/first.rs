//! An endpoint that is reached at several addresses (A61): whichever answers first, all the way to its SETTINGS.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tokio::time::timeout;

use super::{Connect, Security};
use crate::error::{BoxError, Error, ErrorKind, with_causes};
use crate::resource::endpoints::Address;

/// Between the attempts at the addresses of one endpoint, and at the endpoints of a group of which one is picked (RFC 8305, "Connection Attempt Delay").
pub(crate) const NEXT_ADDRESS: Duration = Duration::from_millis(250);

/// Connects to the addresses in order (Happy Eyeballs): the next is tried when the last failed, or after 250 ms, so that
/// one that leads nowhere does not take all the time there is. The caller bounds the time. Also says which it was.
///
/// # Errors
///
/// When all failed, with the error of each that is named.
pub(super) async fn connect_first<C: Connect>(
    connector: &C,
    addresses: &[Address],
    security: Option<&Security>,
) -> Result<(C::Connection, Address), BoxError> {
    let attempt = |address: &Address| {
        let (connecting, address) = (connect(connector, address, security), address.clone());
        async move {
            match connecting.await {
                Ok(connection) => Ok((connection, address)),
                Err(error) => Err((format!("{address}: {}", with_causes(&*error)), advice(&error))),
            }
        }
    };
    let addresses = interleaved(addresses);
    let mut next = addresses.iter().copied();
    let mut attempts = FuturesUnordered::new();
    let (mut failures, mut next_step): (Vec<String>, Option<Arc<str>>) = Default::default();
    attempts.extend(next.next().map(attempt));
    while !attempts.is_empty() {
        match timeout(NEXT_ADDRESS, attempts.next()).await {
            Ok(Some(Ok(connected))) => return Ok(connected),
            Ok(Some(Err((error, cure)))) => {
                failures.push(error);
                next_step = next_step.or(cure);
            }
            Ok(None) | Err(_) => {}
        }
        attempts.extend(next.next().map(attempt));
    }
    let error = Error::new(ErrorKind::Connection, failures.join("; "));
    Err(match next_step {
        Some(next_step) => error.with_next_step(&*next_step),
        None => error,
    }
    .into())
}

/// What to do about an attempt that failed, if it is known.
pub(super) fn advice(error: &BoxError) -> Option<Arc<str>> {
    error.downcast_ref::<Error>().and_then(Error::next_step).map(Into::into)
}

/// Connects as the endpoint's security asks, and not otherwise.
pub(super) fn connect<C: Connect>(
    connector: &C,
    address: &Address,
    security: Option<&Security>,
) -> impl Future<Output = Result<C::Connection, BoxError>> + Send + use<C> {
    let connecting = match security {
        None => Some(connector.connect(address)),
        Some(security) => connector.connect_secured(address, security),
    };
    async move {
        match connecting {
            Some(connecting) => connecting.await,
            None => Err("the cluster asks for TLS, which this connector cannot do".into()),
        }
    }
}

/// The address families by turns, from that of the first, so that a family that leads nowhere costs one delay.
pub(crate) fn interleaved(addresses: &[Address]) -> Vec<&Address> {
    let is_v6 = |address: &&Address| matches!(address, Address::Socket(SocketAddr::V6(_)));
    let first_is_v6 = addresses.first().is_some_and(|address| is_v6(&address));
    let (first, second): (Vec<_>, Vec<_>) = addresses.iter().partition(|address| is_v6(address) == first_is_v6);
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    let mut turns = Vec::with_capacity(addresses.len());
    loop {
        let (one, other) = (first.next(), second.next());
        if one.is_none() && other.is_none() {
            return turns;
        }
        turns.extend(one.into_iter().chain(other));
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;
    use crate::connect::testing::{Network, Reach, address};

    #[test]
    fn families_take_turns_and_keep_their_order() {
        let parsed = |text: &str| text.parse::<Address>().unwrap();
        for (addresses, wanted) in [
            ("1.1.1.1:1 1.1.1.2:1 [::1]:1 [::2]:1", "1.1.1.1:1 [::1]:1 1.1.1.2:1 [::2]:1"),
            ("[::1]:1 1.1.1.1:1 1.1.1.2:1 1.1.1.3:1", "[::1]:1 1.1.1.1:1 1.1.1.2:1 1.1.1.3:1"),
            ("1.1.1.2:1 1.1.1.1:1", "1.1.1.2:1 1.1.1.1:1"),
        ] {
            let addresses: Vec<Address> = addresses.split(' ').map(parsed).collect();
            let turns: Vec<String> = interleaved(&addresses).iter().map(ToString::to_string).collect();
            assert_eq!(turns.join(" "), wanted);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_next_address_is_tried_at_once_after_a_failure_and_soon_after_silence() {
        let network = Network::default();
        network.reach(1, Reach::Silent);
        network.reach(2, Reach::Refuses);
        let before = Instant::now();
        let (_, at) = connect_first(&network, &[address(1), address(2), address(3)], None).await.unwrap();
        assert_eq!((at, before.elapsed().as_millis() / 50), (address(3), 5));
        assert_eq!(network.attempts(1), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn when_all_fail_each_is_named() {
        let network = Network::default();
        network.reach(1, Reach::Refuses);
        network.reach(2, Reach::Refuses);
        let error = connect_first(&network, &[address(1), address(2)], None).await.map(drop).unwrap_err().to_string();
        assert!(
            error.contains(&format!("{}: ", address(1))) && error.contains(&format!("; {}: ", address(2))),
            "{error}"
        );
    }
}
