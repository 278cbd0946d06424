//! The control plane seen by a plain HTTP/2 client.

use std::time::Duration;

use bytes::{Buf, Bytes};
use h2::client::SendRequest;
use h2::{RecvStream, SendStream};
use mesh_xds_proto::envoy::config::core::v3::Node;
use mesh_xds_proto::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};
use mesh_xds_proto::google::rpc::Status;
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::type_url::{CLUSTER, ENDPOINTS, LISTENER};
use super::*;

const ADS: &str = "http://test/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources";

/// An ADS stream of a client.
struct Client {
    requests: SendStream<Bytes>,
    response: h2::client::ResponseFuture,
    body: Option<RecvStream>,
    buffer: Vec<u8>,
}

async fn http2(io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Result<SendRequest<Bytes>, h2::Error> {
    let (client, connection) = h2::client::handshake(io).await?;
    tokio::spawn(connection);
    client.ready().await
}

async fn connect(control_plane: &ControlPlane) -> Client {
    open(http2(control_plane.connector().connect().unwrap()).await.unwrap(), ADS)
}

fn open(mut client: SendRequest<Bytes>, uri: &str) -> Client {
    let request = http::Request::post(uri).header("content-type", "application/grpc").body(()).unwrap();
    let (response, requests) = client.send_request(request, false).unwrap();
    Client { requests, response, body: None, buffer: Vec::new() }
}

impl Client {
    fn ask(&mut self, type_url: &str, names: &[&str]) {
        let node = Some(Node { id: "me".into(), ..Default::default() });
        self.request(DiscoveryRequest {
            type_url: type_url.to_owned(),
            resource_names: names.iter().map(ToString::to_string).collect(),
            node,
            ..Default::default()
        });
    }

    fn request(&mut self, request: DiscoveryRequest) {
        self.requests.send_data(frame::of_message(&request), false).unwrap();
    }

    fn answer(&mut self, response: &DiscoveryResponse, names: &[&str], error: Option<&str>) {
        let error = error.map(|message| Status { code: 3, message: message.into(), details: Vec::new() });
        self.request(DiscoveryRequest {
            type_url: response.type_url.clone(),
            version_info: response.version_info.clone(),
            resource_names: names.iter().map(ToString::to_string).collect(),
            response_nonce: response.nonce.clone(),
            error_detail: error,
            ..Default::default()
        });
    }

    /// The next message, or none at the end of the stream.
    async fn message(&mut self) -> Result<Option<Bytes>, h2::Error> {
        if self.body.is_none() {
            let response = (&mut self.response).await?;
            assert_eq!(response.headers()["content-type"], "application/grpc");
            self.body = Some(response.into_body());
        }
        let body = self.body.as_mut().unwrap();
        loop {
            if let Some((prefix, rest)) = self.buffer.split_at_checked(5) {
                let length = (&prefix[1..]).get_u32() as usize;
                if rest.len() >= length {
                    let message = Bytes::copy_from_slice(&rest[..length]);
                    self.buffer.drain(..5 + length);
                    return Ok(Some(message));
                }
            }
            let Some(data) = body.data().await else { return Ok(None) };
            let data = data?;
            body.flow_control().release_capacity(data.len())?;
            self.buffer.extend_from_slice(&data);
        }
    }

    async fn response(&mut self) -> DiscoveryResponse {
        let message = self.message().await.unwrap().expect("a response");
        DiscoveryResponse::decode(message).unwrap()
    }

    /// Status and message at the end of the stream.
    async fn status(&mut self) -> (String, String) {
        assert_eq!(self.message().await.unwrap(), None);
        let trailers = self.body.as_mut().unwrap().trailers().await.unwrap().unwrap();
        let text = |name| trailers.get(name).map_or("", |value| value.to_str().unwrap()).to_owned();
        (text("grpc-status"), text("grpc-message"))
    }
}

fn greeter() -> ControlPlane {
    let control_plane = ControlPlane::new();
    control_plane.set(Resources::service("greeter", ["127.0.0.1:1"]));
    control_plane
}

#[tokio::test(start_paused = true)]
async fn resources_are_asked_for_acknowledged_and_replaced() {
    let control_plane = greeter();
    let mut client = connect(&control_plane).await;
    client.ask(CLUSTER, &["greeter"]);
    let first = client.response().await;
    assert_eq!((first.version_info.as_str(), first.resources.len()), ("1", 1));
    assert_eq!(first.resources[0].type_url, CLUSTER);
    client.answer(&first, &["greeter"], None);
    control_plane.acked(CLUSTER).await;

    control_plane.put(cluster("greeter").max_requests(7));
    let second = client.response().await;
    assert_eq!((second.version_info.as_str(), second.nonce.as_str()), ("2", "2"));
    client.answer(&second, &["greeter"], None);
    control_plane.acked(CLUSTER).await;

    let requests = control_plane.requests();
    let kinds: Vec<_> = requests.iter().map(|request| request.kind).collect();
    assert_eq!(kinds, [RequestKind::Subscribe, RequestKind::Ack, RequestKind::Ack]);
    assert_eq!(requests[0].node.as_ref().unwrap().id, "me");
    assert!(requests[0].asks_for(CLUSTER, "greeter"));
    assert_eq!((control_plane.streams(), control_plane.connections()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_nack_can_be_waited_for() {
    let control_plane = greeter();
    let mut client = connect(&control_plane).await;
    client.ask(CLUSTER, &["greeter"]);
    for problem in ["first", "second"] {
        let response = client.response().await;
        client.answer(&response, &["greeter"], Some(problem));
        assert_eq!(control_plane.next_nack().await.error, Some((3, problem.to_owned())));
        control_plane.resend(CLUSTER);
    }
    let nack = control_plane.wait_for(SeenRequest::is_nack).await;
    assert_eq!(nack.error, Some((3, "first".to_owned())));
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "the ACK of type.googleapis.com/envoy.config.cluster.v3.Cluster did not come within 30s")]
async fn waiting_ends() {
    greeter().acked(CLUSTER).await;
}

#[tokio::test(start_paused = true)]
async fn streams_end_with_a_status_on_command_or_by_a_fault() {
    let control_plane = greeter();
    let mut client = connect(&control_plane).await;
    client.ask(CLUSTER, &["greeter"]);
    client.response().await;
    control_plane.close_streams(14, "100 % gone\n");
    assert_eq!(client.status().await, ("14".into(), "100 %25 gone%0A".into()));

    control_plane.inject(Fault::close_stream(8, "").once());
    let mut client = connect(&control_plane).await;
    client.ask(CLUSTER, &["greeter"]);
    assert_eq!(client.status().await.0, "8");

    control_plane.inject(Fault::refuse_streams(7, "no").once());
    let mut client = connect(&control_plane).await;
    let head = (&mut client.response).await.unwrap();
    assert_eq!(head.headers()["grpc-status"], "7");
    control_plane.inject(Fault::reset_streams());
    assert!(connect(&control_plane).await.message().await.unwrap_err().is_reset());
    control_plane.wait_for_streams(0).await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_closes_its_half_gets_ok() {
    let control_plane = greeter();
    let mut client = connect(&control_plane).await;
    client.requests.send_data(Bytes::new(), true).unwrap();
    assert_eq!(client.status().await.0, "0");
}

#[tokio::test(start_paused = true)]
async fn other_methods_and_broken_requests_are_refused() {
    let control_plane = greeter();
    let client = http2(control_plane.connector().connect().unwrap()).await.unwrap();
    let mut unknown = open(client, "http://test/some.Service/Method");
    let head = (&mut unknown.response).await.unwrap();
    assert_eq!(head.headers()["grpc-status"], "12");

    let mut client = connect(&control_plane).await;
    client.requests.send_data(frame::of_bytes(b"\x0f"), false).unwrap();
    assert_eq!(client.status().await.0, "3");
}

#[tokio::test(start_paused = true)]
async fn a_delayed_response_comes_later_and_requests_are_read_meanwhile() {
    let control_plane = greeter();
    control_plane.inject(Fault::delay(Duration::from_secs(5)).only(CLUSTER));
    let mut client = connect(&control_plane).await;
    let start = Instant::now();
    client.ask(CLUSTER, &["greeter"]);
    client.ask(ENDPOINTS, &["greeter"]);
    assert_eq!(client.response().await.type_url, ENDPOINTS);
    assert_eq!(start.elapsed(), Duration::ZERO);
    assert_eq!(client.response().await.type_url, CLUSTER);
    assert!(start.elapsed() >= Duration::from_secs(5));
}

#[tokio::test(start_paused = true)]
async fn silence_holds_a_type_back_until_it_is_lifted() {
    let control_plane = greeter();
    let silence = control_plane.inject(Fault::silence().only(CLUSTER));
    let mut client = connect(&control_plane).await;
    client.ask(CLUSTER, &["greeter"]);
    client.ask(ENDPOINTS, &["greeter"]);
    assert_eq!(client.response().await.type_url, ENDPOINTS);
    control_plane.put(cluster("greeter").max_requests(1));
    control_plane.lift(silence);
    let response = client.response().await;
    assert_eq!((response.type_url.as_str(), response.version_info.as_str()), (CLUSTER, "2"));
}

#[tokio::test(start_paused = true)]
async fn headers_are_withheld_until_the_fault_is_lifted() {
    let control_plane = greeter();
    control_plane.inject(Fault::withhold_headers());
    let mut client = connect(&control_plane).await;
    client.ask(CLUSTER, &["greeter"]);
    control_plane.wait_for(|request| request.asks_for(CLUSTER, "greeter")).await;
    assert!(tokio::time::timeout(Duration::from_secs(60), client.message()).await.is_err());
    control_plane.heal();
    assert_eq!(client.response().await.type_url, CLUSTER);
}

#[tokio::test(start_paused = true)]
async fn a_connection_is_cut_in_the_middle_of_a_frame() {
    let control_plane = greeter();
    let cut = control_plane.inject(Fault::cut_connections_after(100));
    let mut client = connect(&control_plane).await;
    client.ask(CLUSTER, &["greeter"]);
    assert!(client.message().await.is_err());
    control_plane.wait_for_connections(0).await;
    control_plane.applied(cut, 1).await;
    control_plane.lift(cut);
    let mut client = connect(&control_plane).await;
    client.ask(CLUSTER, &["greeter"]);
    client.response().await;
    control_plane.inject(Fault::cut_connections_after(0));
    control_plane.resend(CLUSTER);
    client.ask(ENDPOINTS, &["greeter"]);
    assert!(client.message().await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_half_open_connection_goes_on_where_it_stopped() {
    let control_plane = greeter();
    let mut client = connect(&control_plane).await;
    client.ask(CLUSTER, &["greeter"]);
    let response = client.response().await;
    let half_open = control_plane.inject(Fault::half_open());
    client.answer(&response, &["greeter"], None);
    client.ask(ENDPOINTS, &["greeter"]);
    assert!(tokio::time::timeout(Duration::from_secs(3600), client.message()).await.is_err());
    control_plane.lift(half_open);
    assert_eq!(client.response().await.type_url, ENDPOINTS);
    control_plane.acked(CLUSTER).await;
}

#[tokio::test(start_paused = true)]
async fn a_response_can_be_sent_as_it_is() {
    let control_plane = greeter();
    let mut client = connect(&control_plane).await;
    client.ask(CLUSTER, &["greeter"]);
    client.response().await;
    let odd = DiscoveryResponse { type_url: "odd".into(), nonce: "x".into(), ..Default::default() };
    control_plane.send(&odd);
    assert_eq!(client.response().await, odd);
}

#[tokio::test(start_paused = true)]
async fn stopping_ends_connections_and_refuses_new_ones() {
    let control_plane = greeter();
    let mut client = connect(&control_plane).await;
    client.ask(CLUSTER, &["greeter"]);
    client.response().await;
    control_plane.stop().await;
    assert!(client.message().await.is_err());
    assert!(control_plane.connector().connect().is_err());
    control_plane.restart().await.unwrap();
    let mut client = connect(&control_plane).await;
    client.ask(LISTENER, &["greeter"]);
    assert_eq!(client.response().await.nonce, "1");
    let connector = control_plane.connector();
    drop(control_plane);
    assert!(client.message().await.is_err());
    assert!(connector.connect().is_err());
}

#[tokio::test(start_paused = true)]
async fn go_away_lets_open_streams_live_and_takes_no_more() {
    let control_plane = greeter();
    let mut client = http2(control_plane.connector().connect().unwrap()).await.unwrap();
    let mut stream = open(client.clone(), ADS);
    stream.ask(CLUSTER, &["greeter"]);
    let response = stream.response().await;
    control_plane.go_away();
    stream.answer(&response, &["greeter"], None);
    control_plane.acked(CLUSTER).await;
    // The client's side knows once it has answered the server's ping.
    while std::future::poll_fn(|cx| client.poll_ready(cx)).await.is_ok() {
        tokio::task::yield_now().await;
    }
    stream.requests.send_data(Bytes::new(), true).unwrap();
    assert_eq!(stream.status().await.0, "0");
    control_plane.wait_for_connections(0).await;
}

#[tokio::test]
async fn it_listens_and_restarts_on_the_same_port() {
    let control_plane = ControlPlane::builder().listen("127.0.0.1:0").start().await.unwrap();
    control_plane.set(Resources::service("greeter", ["127.0.0.1:1"]));
    let address = control_plane.addr();
    let bootstrap: serde_json::Value = serde_json::from_str(&control_plane.bootstrap_json()).unwrap();
    assert_eq!(bootstrap["xds_servers"][0]["server_uri"], address.to_string());
    for _ in 0..2 {
        let mut client = open(http2(TcpStream::connect(address).await.unwrap()).await.unwrap(), ADS);
        client.ask(CLUSTER, &["greeter"]);
        assert_eq!(client.response().await.resources.len(), 1);
        control_plane.stop().await;
        assert!(client.message().await.is_err());
        assert!(TcpStream::connect(address).await.is_err());
        control_plane.restart().await.unwrap();
    }
}

#[tokio::test]
async fn refused_and_killed_connections_are_reset() {
    let control_plane = ControlPlane::builder().listen("127.0.0.1:0").start().await.unwrap();
    let refuse = control_plane.inject(Fault::refuse_connections().once());
    let mut refused = TcpStream::connect(control_plane.addr()).await.unwrap();
    control_plane.applied(refuse, 1).await;
    while refused.write_all(b"x").await.is_ok() {}

    let mut client = open(http2(TcpStream::connect(control_plane.addr()).await.unwrap()).await.unwrap(), ADS);
    control_plane.wait_for_streams(1).await;
    control_plane.kill_connections();
    assert!(client.message().await.unwrap_err().is_io());
    control_plane.wait_for_connections(0).await;
}
