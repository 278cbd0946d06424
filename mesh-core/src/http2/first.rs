//! Of several addresses, whichever answers first (Happy Eyeballs, RFC 8305; A61): of an endpoint, of a name, of a control
//! plane.

use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tokio::time::timeout;

/// Between the attempts at the addresses of one endpoint or name, and at the endpoints of a group of which one is picked
/// (RFC 8305, "Connection Attempt Delay").
pub(crate) const NEXT_ADDRESS: Duration = Duration::from_millis(250);

/// Attempts one address after the other: the next when the last failed, or after 250 ms, so that one that leads nowhere does
/// not take all the time there is. The caller bounds the time.
///
/// # Errors
///
/// When all failed, those of each; none, if there is no address.
pub(crate) async fn first_of<A, F, T, E>(
    addresses: impl IntoIterator<Item = A>,
    attempt: impl Fn(A) -> F,
) -> Result<T, Vec<E>>
where
    F: Future<Output = Result<T, E>>,
{
    let mut addresses = addresses.into_iter();
    let (mut attempts, mut failures) = (FuturesUnordered::new(), Vec::new());
    attempts.extend(addresses.next().map(&attempt));
    while !attempts.is_empty() {
        match timeout(NEXT_ADDRESS, attempts.next()).await {
            Ok(Some(Ok(connected))) => return Ok(connected),
            Ok(Some(Err(error))) => failures.push(error),
            Ok(None) | Err(_) => {}
        }
        attempts.extend(addresses.next().map(&attempt));
    }
    Err(failures)
}

/// The address families by turns, from that of the first, so that a family that leads nowhere costs one delay.
pub(crate) fn interleaved<A>(addresses: &[A], is_v6: impl Fn(&A) -> bool) -> Vec<&A> {
    let first_is_v6 = addresses.first().is_some_and(&is_v6);
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
    use std::net::SocketAddr;

    use super::*;

    #[test]
    fn families_take_turns_and_keep_their_order() {
        let parsed = |text: &str| text.parse::<SocketAddr>().unwrap();
        for (addresses, wanted) in [
            ("1.1.1.1:1 1.1.1.2:1 [::1]:1 [::2]:1", "1.1.1.1:1 [::1]:1 1.1.1.2:1 [::2]:1"),
            ("[::1]:1 1.1.1.1:1 1.1.1.2:1 1.1.1.3:1", "[::1]:1 1.1.1.1:1 1.1.1.2:1 1.1.1.3:1"),
            ("1.1.1.2:1 1.1.1.1:1", "1.1.1.2:1 1.1.1.1:1"),
        ] {
            let addresses: Vec<SocketAddr> = addresses.split(' ').map(parsed).collect();
            let turns: Vec<String> =
                interleaved(&addresses, SocketAddr::is_ipv6).iter().map(ToString::to_string).collect();
            assert_eq!(turns.join(" "), wanted);
        }
    }
}
