//! An endpoint that is reached at several addresses (A61): whichever answers first, all the way to its SETTINGS.

use std::net::SocketAddr;
use std::sync::Arc;

use super::{Connect, Security};
use crate::error::{BoxError, Error, ErrorKind, with_causes};
use crate::http2::{first_of, interleaved};
use crate::resource::endpoints::Address;

/// Connects to the addresses as [`first_of`] does. The caller bounds the time. Also says which it was.
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
    let failures = match first_of(interleaved(addresses, is_v6), attempt).await {
        Ok(connected) => return Ok(connected),
        Err(failures) => failures,
    };
    let next_step = failures.iter().find_map(|(_, cure)| cure.clone());
    let failures: Vec<_> = failures.into_iter().map(|(failure, _)| failure).collect();
    let error = Error::new(ErrorKind::Connection, failures.join("; "));
    Err(match next_step {
        Some(next_step) => error.with_next_step(&*next_step),
        None => error,
    }
    .into())
}

pub(crate) fn is_v6(address: &Address) -> bool {
    matches!(address, Address::Socket(SocketAddr::V6(_)))
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

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;
    use crate::connect::testing::{Network, Reach, address};

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
