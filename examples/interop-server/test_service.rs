//! `grpc.testing.TestService`, as "Server" in `doc/interop-test-descriptions.md` of grpc/grpc describes it.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use futures_util::stream::try_unfold;
use mesh_core::server::Peer;
use mesh_examples::grpc_testing::test_service_server::TestService;
use mesh_examples::grpc_testing::{
    EchoStatus, Empty, Payload, PayloadType, ResponseParameters, SimpleRequest, SimpleResponse,
    StreamingInputCallRequest, StreamingInputCallResponse, StreamingOutputCallRequest, StreamingOutputCallResponse,
};
use tonic::codegen::BoxStream;
use tonic::{Code, Request, Response, Status, Streaming};

/// The largest payload that a caller may ask for.
const MAX_PAYLOAD: usize = 64 << 20;
/// How many responses HalfDuplexCall keeps until the caller has said everything.
const MAX_BUFFERED: usize = 10_000;

/// The service; says in responses which server it is.
#[derive(Debug)]
pub(crate) struct TestServer {
    server_id: String,
    host_name: String,
}

impl TestServer {
    pub(crate) fn new(server_id: String, host_name: String) -> Self {
        Self { server_id, host_name }
    }

    fn response(&self, payload: Option<Payload>) -> SimpleResponse {
        SimpleResponse {
            payload,
            server_id: self.server_id.clone(),
            hostname: self.host_name.clone(),
            ..Default::default()
        }
    }
}

#[tonic::async_trait]
impl TestService for TestServer {
    async fn empty_call(&self, _: Request<Empty>) -> Result<Response<Empty>, Status> {
        Ok(Response::new(Empty {}))
    }

    async fn unary_call(&self, request: Request<SimpleRequest>) -> Result<Response<SimpleResponse>, Status> {
        let caller = caller(&request);
        let request = request.into_inner();
        echo_status(request.response_status)?;
        let payload = payload(request.response_type, request.response_size)?;
        let username = if request.fill_username { caller } else { String::new() };
        Ok(Response::new(SimpleResponse { username, ..self.response(Some(payload)) }))
    }

    async fn cacheable_unary_call(&self, _: Request<SimpleRequest>) -> Result<Response<SimpleResponse>, Status> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let body = now.as_nanos().to_string().into_bytes();
        let payload = Payload { r#type: PayloadType::Compressable.into(), body: body.into() };
        let mut response = Response::new(self.response(Some(payload)));
        response.metadata_mut().insert("cache-control", "max-age=60, public".parse().expect("it is ASCII"));
        Ok(response)
    }

    async fn streaming_output_call(
        &self,
        request: Request<StreamingOutputCallRequest>,
    ) -> Result<Response<BoxStream<StreamingOutputCallResponse>>, Status> {
        let peer = request.remote_addr();
        let request = request.into_inner();
        echo_status(request.response_status.clone())?;
        let mut replies = Replies { requests: None, due: VecDeque::new(), peer };
        replies.take(request);
        Ok(Response::new(replies.stream()))
    }

    async fn streaming_input_call(
        &self,
        request: Request<Streaming<StreamingInputCallRequest>>,
    ) -> Result<Response<StreamingInputCallResponse>, Status> {
        let mut requests = request.into_inner();
        let mut aggregated_payload_size = 0i32;
        while let Some(request) = requests.message().await? {
            let size = request.payload.map_or(0, |payload| payload.body.len());
            aggregated_payload_size = aggregated_payload_size.saturating_add(i32::try_from(size).unwrap_or(i32::MAX));
        }
        Ok(Response::new(StreamingInputCallResponse { aggregated_payload_size }))
    }

    async fn full_duplex_call(
        &self,
        request: Request<Streaming<StreamingOutputCallRequest>>,
    ) -> Result<Response<BoxStream<StreamingOutputCallResponse>>, Status> {
        let peer = request.remote_addr();
        let replies = Replies { requests: Some(request.into_inner()), due: VecDeque::new(), peer };
        Ok(Response::new(replies.stream()))
    }

    async fn half_duplex_call(
        &self,
        request: Request<Streaming<StreamingOutputCallRequest>>,
    ) -> Result<Response<BoxStream<StreamingOutputCallResponse>>, Status> {
        let mut replies = Replies { requests: None, due: VecDeque::new(), peer: request.remote_addr() };
        let mut requests = request.into_inner();
        while let Some(request) = requests.message().await? {
            echo_status(request.response_status.clone())?;
            replies.take(request);
            if replies.due.len() > MAX_BUFFERED {
                return Err(Status::resource_exhausted(format!("more than {MAX_BUFFERED} responses are due")));
            }
        }
        Ok(Response::new(replies.stream()))
    }
}

/// The caller's name as its certificate says it: the first that there is of URI, DNS name and subject. Empty: it showed none.
fn caller<T>(request: &Request<T>) -> String {
    let Some(peer) = request.extensions().get::<Peer>() else { return String::new() };
    let name = peer.uris.first().or_else(|| peer.dns_names.first());
    name.map_or_else(|| peer.subject.to_string(), String::clone)
}

/// The responses of a streaming call: what is due now, and the requests that say what is due next.
struct Replies {
    requests: Option<Streaming<StreamingOutputCallRequest>>,
    due: VecDeque<(i32, ResponseParameters)>,
    peer: Option<SocketAddr>,
}

impl Replies {
    fn take(&mut self, request: StreamingOutputCallRequest) {
        let payload_type = request.response_type;
        self.due.extend(request.response_parameters.into_iter().map(|parameters| (payload_type, parameters)));
    }

    fn stream(self) -> BoxStream<StreamingOutputCallResponse> {
        Box::pin(try_unfold(self, |mut replies| async move {
            let next = replies.next().await?;
            Ok(next.map(|response| (response, replies)))
        }))
    }

    async fn next(&mut self) -> Result<Option<StreamingOutputCallResponse>, Status> {
        loop {
            if let Some((payload_type, parameters)) = self.due.pop_front() {
                return self.reply(payload_type, parameters).await.map(Some);
            }
            let Some(requests) = &mut self.requests else { return Ok(None) };
            let Some(request) = requests.message().await? else { return Ok(None) };
            echo_status(request.response_status.clone())?;
            self.take(request);
        }
    }

    async fn reply(
        &self,
        payload_type: i32,
        parameters: ResponseParameters,
    ) -> Result<StreamingOutputCallResponse, Status> {
        if let Ok(interval @ 1..) = u64::try_from(parameters.interval_us) {
            tokio::time::sleep(Duration::from_micros(interval)).await;
        }
        let wants_peer = parameters.fill_peer_socket_address.is_some_and(|fill| fill.value);
        let peer = self.peer.filter(|_| wants_peer);
        Ok(StreamingOutputCallResponse {
            payload: Some(payload(payload_type, parameters.size)?),
            peer_socket_address: peer.map(|peer| peer.to_string()).unwrap_or_default(),
        })
    }
}

fn payload(payload_type: i32, size: i32) -> Result<Payload, Status> {
    if payload_type != i32::from(PayloadType::Compressable) {
        return Err(Status::invalid_argument(format!("payload type {payload_type} is not supported")));
    }
    match usize::try_from(size) {
        Ok(size @ 0..=MAX_PAYLOAD) => Ok(Payload { r#type: payload_type, body: vec![0; size].into() }),
        _ => Err(Status::invalid_argument(format!("payload size {size} is not within 0 and {MAX_PAYLOAD}"))),
    }
}

/// "Echo Status": the caller may ask for any status but OK.
fn echo_status(status: Option<EchoStatus>) -> Result<(), Status> {
    match status {
        Some(EchoStatus { code, message }) if code != 0 => Err(Status::new(Code::from(code), message)),
        _ => Ok(()),
    }
}
