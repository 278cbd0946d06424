//! What a call is answered with that goes to no endpoint: an injected fault, a limit, a redirect.

use bytes::Bytes;
use http::{HeaderMap, StatusCode};

use crate::xds::grpc_code_of_http;

/// An answer that the mesh gives itself, before it takes the form of the call's protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    status: AnswerStatus,
    body: Bytes,
    headers: HeaderMap,
}

/// How a call ends that the mesh answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AnswerStatus {
    /// With a status of HTTP.
    Http(StatusCode),
    /// With a status code of gRPC, 0 to 16.
    Grpc(u8),
}

impl AnswerStatus {
    pub(crate) const UNAVAILABLE: Self = Self::Grpc(14);

    /// The code of gRPC, 0 to 16; of a status of HTTP the one that it stands for (gRPC's `http-grpc-status-mapping.md`),
    /// which is never 0.
    pub fn grpc_code(self) -> u8 {
        match self {
            Self::Http(status) => grpc_code_of_http(status),
            Self::Grpc(code) => code,
        }
    }
}

impl Answer {
    pub(crate) fn new(status: AnswerStatus, body: impl Into<Bytes>) -> Self {
        Self { status, body: body.into(), headers: HeaderMap::new() }
    }

    pub(crate) fn with_headers(mut self, headers: HeaderMap) -> Self {
        self.headers = headers;
        self
    }

    /// How the call ends.
    pub fn status(&self) -> AnswerStatus {
        self.status
    }

    /// Text for people, or the body that a route has for its answer.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// Headers beside those that the protocol has for the status.
    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// The answer as a response of HTTP.
    pub(crate) fn into_http(self) -> http::Response<Bytes> {
        let mut response = http::Response::new(self.body);
        *response.status_mut() = match self.status {
            AnswerStatus::Http(status) => status,
            AnswerStatus::Grpc(code) => http_status(code),
        };
        *response.headers_mut() = self.headers;
        response
    }
}

/// A status with which calls are refused: `default` in the place of one that says no error.
pub(crate) fn or_error(status: StatusCode, default: StatusCode) -> StatusCode {
    if status.is_client_error() || status.is_server_error() { status } else { default }
}

/// What a code of gRPC is to a caller that does not speak gRPC, as in Envoy.
fn http_status(code: u8) -> StatusCode {
    const CLIENT_CLOSED_REQUEST: u16 = 499;
    let status = match code {
        0 => 200,
        1 => CLIENT_CLOSED_REQUEST,
        3 | 9 | 11 => 400,
        4 => 504,
        5 => 404,
        6 | 10 => 409,
        7 => 403,
        8 => 429,
        12 => 501,
        14 => 503,
        16 => 401,
        _ => 500,
    };
    StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_of_http_stands_for_a_code_of_grpc() {
        for (status, code) in [
            (200, 2),
            (301, 2),
            (400, 13),
            (401, 16),
            (403, 7),
            (404, 12),
            (429, 14),
            (431, 2),
            (500, 2),
            (501, 2),
            (502, 14),
            (503, 14),
            (504, 14),
        ] {
            let status = StatusCode::from_u16(status).expect("a status");
            assert_eq!(AnswerStatus::Http(status).grpc_code(), code, "{status}");
        }
    }
}
