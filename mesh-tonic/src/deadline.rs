//! gRPC's deadline header: `grpc-timeout`, at most eight digits and a unit (gRPC over HTTP/2, "Requests"); and what a
//! server says when it has passed.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Response, header};
use mesh_core::deadline::{DeadlineLayer, InboundProtocol};
use tonic::{Code, Status};

use crate::grpc::{self, Grpc};
use crate::retry::{PUSHBACK, failed};
use crate::status::code_of;

const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
const MOST_DIGITS: u128 = 99_999_999;

/// The layer for a tonic server, or hyper's: the deadline of each call holds for its handler and for all calls that the
/// handler makes, and a call whose nested calls must not be tried again tells its caller so. Handlers need no code for it.
///
/// ```
/// use tonic::transport::Server;
///
/// let server = Server::builder().layer(mesh_tonic::deadline_layer());
/// # let _ = server;
/// ```
pub fn deadline_layer() -> DeadlineLayer {
    DeadlineLayer::new().protocol(&Grpc)
}

impl InboundProtocol for Grpc {
    fn timeout(&self, headers: &HeaderMap) -> Option<Duration> {
        decode_timeout(headers)
    }

    fn expired(&self) -> Response<()> {
        let mut response = Response::new(());
        *response.headers_mut() = self.expired_trailers();
        response.headers_mut().insert(header::CONTENT_TYPE, grpc::CONTENT_TYPE);
        response
    }

    fn expired_trailers(&self) -> HeaderMap {
        let status = Status::new(Code::DeadlineExceeded, "the deadline passed while the call was served");
        let mut trailers = HeaderMap::new();
        status.add_header(&mut trailers).expect("a code and a text are headers");
        trailers
    }

    fn refused(&self, error: &mesh_core::Error) -> Response<()> {
        Status::new(code_of(error.kind()), error.report()).into_http()
    }

    fn forbid_retry(&self, headers: &mut HeaderMap) {
        if failed(headers) {
            headers.insert(PUSHBACK, HeaderValue::from_static("-1"));
        }
    }
}

/// The time that the application gave a call: its request's `grpc-timeout`, if there is one and it is well-formed. For
/// [`Call::new`](mesh_core::Call::new) in a stack of one's own.
pub fn decode_timeout(headers: &HeaderMap) -> Option<Duration> {
    // Most calls have three headers and no timeout: looking at their names is cheaper than hashing this one.
    let (_, value) = headers.iter().find(|(name, _)| *name == GRPC_TIMEOUT)?;
    let value = value.to_str().ok()?;
    let (digits, unit) = value.split_at_checked(value.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let amount: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(amount * 3600)),
        "M" => Some(Duration::from_secs(amount * 60)),
        "S" => Some(Duration::from_secs(amount)),
        "m" => Some(Duration::from_millis(amount)),
        "u" => Some(Duration::from_micros(amount)),
        "n" => Some(Duration::from_nanos(amount)),
        _ => None,
    }
}

/// `grpc-timeout` for a time that remains: in the coarsest unit that says it exactly, else in the finest that fits; never
/// more than what remains, but for rounding up to the 1 ns below which there is no timeout. For
/// `TimeoutLayer::tell_peer` in a stack of one's own.
pub fn encode_timeout(remaining: Duration) -> (HeaderName, HeaderValue) {
    const UNITS: [(u128, u8); 5] =
        [(1, b'n'), (1_000, b'u'), (1_000_000, b'm'), (1_000_000_000, b'S'), (60_000_000_000, b'M')];
    let nanos = remaining.as_nanos().max(1);
    let exact = UNITS[..4].iter().rev().find(|(size, _)| nanos.is_multiple_of(*size) && nanos / size <= MOST_DIGITS);
    let fits = exact.or_else(|| UNITS.iter().find(|(size, _)| nanos / size <= MOST_DIGITS));
    let (size, unit) = fits.copied().unwrap_or((3_600_000_000_000, b'H'));
    let amount = (nanos / size).min(MOST_DIGITS);
    let mut buffer = [0; 9];
    let start = write_digits(amount, &mut buffer);
    buffer[8] = unit;
    let value = HeaderValue::from_bytes(&buffer[start..]).expect("digits and a letter");
    (GRPC_TIMEOUT, value)
}

/// Writes `amount`, at most eight digits, before the last byte of `buffer`; returns where it starts.
fn write_digits(mut amount: u128, buffer: &mut [u8; 9]) -> usize {
    let mut start = 8;
    loop {
        start -= 1;
        buffer[start] = b'0' + u8::try_from(amount % 10).expect("a digit");
        amount /= 10;
        if amount == 0 || start == 0 {
            return start;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_is_written_in_the_coarsest_exact_unit_or_the_finest_that_fits() {
        let cases = [
            (Duration::from_nanos(0), "1n"),
            (Duration::from_nanos(99_999_999), "99999999n"),
            (Duration::from_micros(1_500), "1500u"),
            (Duration::from_millis(100), "100m"),
            (Duration::from_millis(100) - Duration::from_micros(3), "99997u"),
            (Duration::from_secs(15), "15S"),
            (Duration::from_secs(15) - Duration::from_nanos(1), "14999999u"),
            (Duration::from_secs(100) - Duration::from_nanos(1), "99999999u"),
            (Duration::from_secs(200) - Duration::from_nanos(1), "199999m"),
            (Duration::from_secs(99_999_999), "99999999S"),
            (Duration::from_secs(100_000_000), "1666666M"),
            (Duration::MAX, "99999999H"),
        ];
        for (remaining, text) in cases {
            assert_eq!(encode_timeout(remaining).1, text, "{remaining:?}");
        }
    }

    #[test]
    fn a_timeout_is_read_back_and_nonsense_is_not() {
        let read = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(GRPC_TIMEOUT, text.parse().unwrap());
            decode_timeout(&headers)
        };
        assert_eq!(read("150m"), Some(Duration::from_millis(150)));
        assert_eq!(read("99999999H"), Some(Duration::from_secs(99_999_999 * 3600)));
        for nonsense in ["", "m", "1", "-1m", "123456789m", "1x", "1é", " 1m"] {
            assert_eq!(read(nonsense), None, "{nonsense}");
        }
    }
}
