//! The mesh's own answers as responses of gRPC: trailers only, as a server's that fails at once.

use bytes::Bytes;
use http::{Response, header};
use mesh_core::filter::{Answer, AnswerProtocol};
use tonic::{Code, Status};

use crate::grpc::{self, Grpc};

impl AnswerProtocol for Grpc {
    fn respond(&self, answer: Answer) -> Response<Bytes> {
        let code = Code::from_i32(answer.status().grpc_code().into());
        let message = String::from_utf8_lossy(answer.body());
        let mut response = Response::new(Bytes::new());
        let headers = response.headers_mut();
        headers.extend(answer.headers().iter().map(|(name, value)| (name.clone(), value.clone())));
        headers.insert(header::CONTENT_TYPE, grpc::CONTENT_TYPE);
        // What fails is a message that no header can hold, and that is percent-encoded.
        let _ = Status::new(code, message).add_header(headers);
        response
    }

    fn is_health_check(&self, path: &str) -> bool {
        matches!(path.strip_prefix("/grpc.health.v1.Health/"), Some("Check" | "List" | "Watch"))
    }
}
