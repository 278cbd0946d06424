//! Streams in each direction: limits, metadata, flow control and cancellation.

use std::time::Duration;

use futures_util::{Stream, StreamExt, stream};
use mesh_core::Mesh;
use mesh_examples::helloworld::greeter_client::GreeterClient;
use mesh_examples::helloworld::{HelloReply, HelloRequest};
use mesh_tonic::MeshChannel;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::{AsciiMetadataValue, MetadataMap, MetadataValue};
use tonic::{Code, Request, Status, Streaming};

use crate::support::backend::Backend;
use crate::support::frames::{DATA, FrameServer, HEADERS, INITIAL_WINDOW_SIZE, SETTINGS};
use crate::support::{Counter, PATIENCE};

type Client = GreeterClient<MeshChannel>;

async fn connect(address: std::net::SocketAddr) -> (Mesh, Client) {
    let mesh = Mesh::builder().build().await.unwrap();
    let client = GreeterClient::new(MeshChannel::new(&mesh, &format!("static:///{address}")).unwrap());
    (mesh, client)
}

fn hello(name: &str) -> HelloRequest {
    HelloRequest { name: name.into() }
}

async fn all(replies: Streaming<HelloReply>) -> Result<Vec<String>, Status> {
    replies.map(|reply| reply.map(|reply| reply.message)).collect::<Vec<_>>().await.into_iter().collect()
}

#[tokio::test]
async fn streams_of_the_server_the_client_and_both_run_to_their_end() {
    let backend = Backend::start("a").await;
    let (_mesh, mut client) = connect(backend.address()).await;
    let replies = client.say_hello_stream(hello("1000")).await.unwrap().into_inner();
    assert_eq!(all(replies).await.unwrap(), vec!["a"; 1000]);
    let names = || stream::iter((0..1000).map(|number| hello(&number.to_string())));
    assert_eq!(client.collect_hellos(names()).await.unwrap().into_inner().message, "a");
    let replies = client.chat(names()).await.unwrap().into_inner();
    assert_eq!(all(replies).await.unwrap(), vec!["a"; 1000]);
    backend.wait_for_in_flight(0).await;
    assert_eq!((backend.calls(), backend.connections()), (3, 1));
}

/// The response begins before the request ends, and each message waits for no other.
#[tokio::test]
async fn both_sides_of_a_stream_take_turns() {
    let backend = Backend::start("a").await;
    let (_mesh, mut client) = connect(backend.address()).await;
    let (requests, receiver) = mpsc::channel(1);
    let mut replies = client.chat(ReceiverStream::new(receiver)).await.unwrap().into_inner();
    for turn in 0..20 {
        requests.send(hello(&turn.to_string())).await.unwrap();
        let reply = timeout(PATIENCE, replies.message()).await.expect("an answer to each message");
        assert_eq!(reply.unwrap().unwrap().message, "a");
    }
    drop(requests);
    assert_eq!(timeout(PATIENCE, replies.message()).await.unwrap().unwrap(), None);
}

#[tokio::test]
async fn ten_thousand_messages_of_16_kib_are_sent_in_one_stream() {
    let backend = Backend::start("a").await;
    let (_mesh, mut client) = connect(backend.address()).await;
    let message = hello(&"x".repeat(16 * 1024));
    let requests = stream::iter(std::iter::repeat_n(message, 10_000));
    assert_eq!(client.collect_hellos(requests).await.unwrap().into_inner().message, "a");
    assert_eq!((backend.calls(), backend.connections()), (1, 1));
}

#[tokio::test]
async fn messages_are_limited_as_tonic_limits_them() {
    let backend = Backend::start("a").await;
    let large = Backend::start(&"x".repeat(3_900_000)).await;
    let huge = Backend::start(&"x".repeat(5 << 20)).await;
    let (_mesh, mut client) = connect(backend.address()).await;
    assert_eq!(client.say_hello(hello(&"x".repeat(3_900_000))).await.unwrap().into_inner().message, "a");
    let status = client.say_hello(hello(&"x".repeat(5 << 20))).await.unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange, "{status}");

    let (_mesh, mut client) = connect(large.address()).await;
    assert_eq!(client.say_hello(hello("")).await.unwrap().into_inner().message.len(), 3_900_000);

    let (_mesh, mut client) = connect(huge.address()).await;
    let status = client.say_hello(hello("")).await.unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange, "{status}");
    let mut client = client.max_decoding_message_size(6 << 20);
    assert_eq!(client.say_hello(hello("")).await.unwrap().into_inner().message.len(), 5 << 20);
}

#[tokio::test]
async fn metadata_passes_in_both_directions_as_text_and_as_bytes() {
    let bytes = [0, 1, 0xfe, 0xff];
    let backend = Backend::start("a").await;
    let mut told = MetadataMap::new();
    told.insert("x-text", AsciiMetadataValue::from_static("from the server"));
    told.insert_bin("x-bytes-bin", MetadataValue::from_bytes(&bytes));
    backend.fail(Status::with_metadata(Code::FailedPrecondition, "not so", told));
    let (_mesh, mut client) = connect(backend.address()).await;
    let mut request = Request::new(hello(""));
    request.metadata_mut().insert("x-text", AsciiMetadataValue::from_static("from the client"));
    request.metadata_mut().append("x-many", AsciiMetadataValue::from_static("1"));
    request.metadata_mut().append("x-many", AsciiMetadataValue::from_static("2"));
    request.metadata_mut().insert_bin("x-bytes-bin", MetadataValue::from_bytes(&bytes));
    let status = client.say_hello(request).await.unwrap_err();

    let seen = &backend.seen()[0].metadata;
    assert_eq!(seen.get("x-text").unwrap(), "from the client");
    assert_eq!(seen.get_all("x-many").iter().collect::<Vec<_>>(), ["1", "2"]);
    assert_eq!(seen.get_bin("x-bytes-bin").unwrap().to_bytes().unwrap(), &bytes[..]);
    assert_eq!((status.code(), status.message()), (Code::FailedPrecondition, "not so"));
    assert_eq!(status.metadata().get("x-text").unwrap(), "from the server");
    assert_eq!(status.metadata().get_bin("x-bytes-bin").unwrap().to_bytes().unwrap(), &bytes[..]);
}

#[tokio::test]
async fn a_hundred_streams_that_nobody_reads_delay_no_call_beside_them() {
    // Each stream has more to say than its first window takes, 300 times 4 KiB, and all of them more than any connection's
    // window that does not cover them all.
    let backend = Backend::start(&"x".repeat(4096)).await;
    let (_mesh, mut client) = connect(backend.address()).await;
    let mut stalled = Vec::new();
    for _ in 0..100 {
        stalled.push(client.say_hello_stream(hello("300")).await.unwrap().into_inner());
    }
    for _ in 0..50 {
        timeout(PATIENCE, client.say_hello(hello(""))).await.expect("no call waits for a reader").unwrap();
    }
    assert_eq!(backend.connections(), 1);
    for replies in stalled {
        assert_eq!(all(replies).await.unwrap().len(), 300);
    }
}

/// Messages without end, counted as they are taken.
fn endless(taken: &Counter, size: usize) -> impl Stream<Item = HelloRequest> + Send + 'static {
    let (taken, message) = (taken.clone(), hello(&"x".repeat(size)));
    stream::repeat_with(move || {
        taken.add(1);
        message.clone()
    })
}

#[tokio::test]
async fn a_server_that_does_not_read_holds_its_client_back() {
    const SIZE: usize = 16 << 10;
    // Tonic's backend holds the call before it reads: the windows are all that can be sent.
    let backend = Backend::start("a").await;
    backend.hold();
    let (_mesh, mut client) = connect(backend.address()).await;
    let taken = Counter::new();
    let requests = endless(&taken, SIZE).take(1000);
    let call = tokio::spawn({
        let mut client = client.clone();
        async move { client.collect_hellos(requests).await }
    });
    backend.wait_for_in_flight(1).await;
    let mut before = taken.get();
    while timeout(Duration::from_millis(100), taken.clone().wait_for("more", |count| *count > before)).await.is_ok() {
        before = taken.get();
    }
    // The server's windows are 1 MiB at most, what is queued on this side 256 KiB; 1,000 messages are 16 MiB.
    assert!(taken.get() * SIZE as u64 <= 2 << 20, "{} messages were taken", taken.get());
    backend.release();
    assert_eq!(timeout(PATIENCE, call).await.unwrap().unwrap().unwrap().into_inner().message, "a");
    assert_eq!(taken.get(), 1000);
    client.say_hello(hello("")).await.unwrap();
}

#[tokio::test]
async fn no_byte_is_sent_beyond_the_peers_window() {
    let (sent, closed) = (Counter::new(), Counter::new());
    let (count, end) = (sent.clone(), closed.clone());
    let server = FrameServer::start(move |mut peer| {
        let (count, end) = (count.clone(), end.clone());
        async move {
            peer.greet(&[(INITIAL_WINDOW_SIZE, 1000)]).await?;
            while peer.next_of(SETTINGS).await?.flags == 0 {}
            let call = peer.next_of(HEADERS).await?.stream;
            while count.get() < 1000 {
                count.add(u64::try_from(peer.next_of(DATA).await?.payload.len()).expect("a length"));
            }
            // Whatever else came would be counted; the call is then answered.
            if let Ok(frame) = timeout(Duration::from_millis(50), peer.next_of(DATA)).await {
                count.add(u64::try_from(frame?.payload.len()).expect("a length"));
            }
            end.add(1);
            peer.answer(call, "enough").await?;
            peer.wait_for_end().await
        }
    })
    .await;
    let (_mesh, mut client) = connect(server.address()).await;
    let taken = Counter::new();
    let requests = endless(&taken, 100);
    let reply = timeout(PATIENCE, client.collect_hellos(requests)).await.expect("the response ends the call");
    assert_eq!(reply.unwrap().into_inner().message, "enough");
    assert_eq!((sent.get(), closed.get()), (1000, 1));
}

#[tokio::test]
async fn a_call_that_is_dropped_is_cancelled_at_the_server() {
    let backend = Backend::start("a").await;
    backend.hold();
    let (_mesh, mut client) = connect(backend.address()).await;
    for _ in 0..3 {
        let call = tokio::spawn({
            let mut client = client.clone();
            async move { client.say_hello(hello("")).await }
        });
        backend.wait_for_in_flight(1).await;
        call.abort();
        backend.wait_for_in_flight(0).await;
    }
    backend.release();
    client.say_hello(hello("")).await.unwrap();
    assert_eq!(backend.connections(), 1, "a reset costs the stream, not the connection");
}

#[tokio::test]
async fn a_response_that_is_dropped_is_cancelled_at_the_server() {
    let backend = Backend::start(&"x".repeat(4096)).await;
    let (_mesh, mut client) = connect(backend.address()).await;
    let mut replies = client.say_hello_stream(hello("100000000")).await.unwrap().into_inner();
    replies.message().await.unwrap().unwrap();
    assert_eq!(backend.in_flight(), 1);
    drop(replies);
    backend.wait_for_in_flight(0).await;

    let (requests, receiver) = mpsc::channel(1);
    let replies = client.chat(ReceiverStream::new(receiver)).await.unwrap().into_inner();
    backend.wait_for_in_flight(1).await;
    drop(replies);
    backend.wait_for_in_flight(0).await;
    timeout(PATIENCE, requests.closed()).await.expect("the request's stream is dropped too");
    client.say_hello(hello("")).await.unwrap();
    assert_eq!(backend.connections(), 1);
}
