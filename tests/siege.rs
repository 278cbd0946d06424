//! Clients that attack a server with HTTP/2: each way that an advisory knows, while others call.
//! Who makes the server reset streams by requests that are none is in `server.rs`.

use std::cell::Cell;
use std::collections::HashMap;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::ops::RangeFrom;
use std::time::Duration;

use futures_util::future::join_all;
use mesh_core::Mesh;
use mesh_core::identity::KeyMaterial;
use mesh_core::server::{ServerOptions, ServerTls};
use mesh_core::testing::filter_chain;
use mesh_tonic::MeshServer;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::open_streams::matching_otherwise;
use crate::support::backend::Backend;
use crate::support::configured::Setting;
use crate::support::frames::{
    ACK, CANCEL, CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, INITIAL_WINDOW_SIZE, PING, PRIORITY,
    Peer, RST_STREAM, SETTINGS, WINDOW_UPDATE, frame, header_block,
};
use crate::support::pki::{Authority, dns, uri};
use crate::support::secured_server::{CLIENT, Caller, SERVER, Site, connect, optional, secured};
use crate::support::served::Served;
use crate::support::{Counter, in_time};

/// Calls that are made beside each attack, at least.
const CALLS: usize = 20;
const SOON: Duration = Duration::from_millis(200);
const PADDED: u8 = 0x8;

/// What a flood begins with, and what it repeats.
type Flood = (&'static str, Vec<Vec<u8>>, Vec<u8>);
/// What is sent for each stream.
type Attack = (&'static str, fn(u32) -> Vec<u8>);

/// A server, and somebody who calls it whatever others do.
struct Siege {
    greeter: Backend,
    server: Served,
    client: Caller,
    /// Of all certificates, if everything is over mTLS.
    authority: Option<Authority>,
}

impl Siege {
    async fn start(options: ServerOptions) -> Self {
        Self::of(Backend::start("a").await, options).await
    }

    async fn of(greeter: Backend, options: ServerOptions) -> Self {
        let server = Served::start(options, |server: MeshServer| server.add_service(greeter.service())).await;
        let client = Caller::plain(Mesh::builder(), &server).await;
        assert_eq!(client.hello().await.unwrap(), greeter.name());
        Self { greeter, server, client, authority: None }
    }

    /// Over mTLS: who attacks has a certificate, too.
    async fn secured(options: ServerOptions) -> Self {
        let greeter = Backend::start("a").await;
        let authority = Authority::new();
        let own = authority.issue(&[uri(SERVER), dns("server.test")], |_| {});
        let material = KeyMaterial::new().identity(own.identity()).trust(authority.trust());
        let mesh = Mesh::builder().certificate_provider("default", material).build().await.expect("a mesh");
        let services = |server: MeshServer| server.tls(ServerTls::new("default")).add_service(greeter.service());
        let server = Served::start_in(&mesh, options, services).await;
        let client = Caller::secured(server.address(), &authority, Some(&authority.svid(CLIENT))).await;
        assert_eq!(client.hello().await.unwrap(), greeter.name());
        Self { greeter, server, client, authority: Some(authority) }
    }

    /// One in plaintext, and one over mTLS.
    async fn both() -> [Self; 2] {
        [Self::start(ServerOptions::new()).await, Self::secured(ServerOptions::new()).await]
    }

    fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// What comes of an attack, which no call beside it feels.
    async fn bears<T>(&self, what: &str, attack: impl Future<Output = T>) -> T {
        let over = Cell::new(false);
        let attack = async {
            let outcome = attack.await;
            over.set(true);
            outcome
        };
        let calls = async {
            let mut calls = 0;
            while calls < CALLS || !over.get() {
                let answer = self.client.hello().await;
                assert_eq!(answer.as_deref().map_err(ToString::to_string), Ok(self.greeter.name()), "beside: {what}");
                calls += 1;
            }
        };
        in_time(what, async { tokio::join!(attack, calls).0 }).await
    }

    /// That an attacker who sends all this is cut, and leaves nothing behind.
    async fn cuts(&self, what: &str, begin: &[Vec<u8>], next: impl FnMut(u32) -> Vec<u8>) -> HashMap<u8, usize> {
        let Some(authority) = &self.authority else {
            return self.cuts_one(Peer::connect(self.address()).await.unwrap(), what, begin, next).await;
        };
        let stream = connect(self.address(), authority, Some(&authority.svid(CLIENT)), &["h2"]).await.unwrap();
        self.cuts_one(Peer::over(stream).await.unwrap(), &format!("{what}, over TLS"), begin, next).await
    }

    async fn cuts_one<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        mut attacker: Peer<S>,
        what: &str,
        begin: &[Vec<u8>],
        next: impl FnMut(u32) -> Vec<u8>,
    ) -> HashMap<u8, usize> {
        attacker.bytes(&begin.concat()).await.unwrap();
        let came = self.bears(what, attacker.flood(next)).await;
        self.is_alone(what).await;
        came
    }

    /// That there is nothing but the client's connection, and nothing is done for anybody else.
    async fn is_alone(&self, what: &str) {
        self.server.wait_for(what, |status| (status.connections, status.in_flight) == (1, 0)).await;
        self.greeter.wait_for_in_flight(0).await;
    }
}

/// The head of a call of the greeter, without its end.
fn call(stream: u32, method: &str) -> Vec<u8> {
    let path = format!("/helloworld.Greeter/{method}");
    let block = header_block(&[
        (":method", "POST"),
        (":scheme", "http"),
        (":path", &path),
        (":authority", "greeter"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ]);
    frame(HEADERS, END_HEADERS, stream, &block)
}

/// A whole call of the greeter, with this name.
fn whole_call(stream: u32, method: &str, name: &str) -> Vec<u8> {
    let length = u8::try_from(name.len()).expect("a short name");
    let message = [&[0, 0, 0, 0, length + 2, 0x0a, length], name.as_bytes()].concat();
    [call(stream, method), frame(DATA, END_STREAM, stream, &message)].concat()
}

fn settings(id: u16, value: u32) -> Vec<u8> {
    frame(SETTINGS, 0, 0, &[&id.to_be_bytes()[..], &value.to_be_bytes()].concat())
}

fn times(count: usize, bytes: &[u8]) -> Vec<u8> {
    bytes.repeat(count)
}

/// The `number`th stream that a client opens.
fn stream(number: u32) -> u32 {
    2 * number + 1
}

#[tokio::test]
async fn s17_frames_that_ask_for_nothing_end_the_connection_that_is_flooded_with_them() {
    let priority = |stream: u32| frame(PRIORITY, 0, stream, &[0, 0, 0, 0, 16]);
    let floods: [Flood; 8] = [
        ("PING (CVE-2019-9512)", vec![], frame(PING, 0, 0, &[7; 8])),
        ("acknowledged PINGs that nobody sent", vec![], frame(PING, ACK, 0, &[7; 8])),
        ("SETTINGS (CVE-2019-9515)", vec![], frame(SETTINGS, 0, 0, &[])),
        (
            "windows that open and shut under open streams",
            (0..100).map(|number| call(stream(number), "Chat")).collect(),
            [settings(INITIAL_WINDOW_SIZE, 0), settings(INITIAL_WINDOW_SIZE, 1 << 20)].concat(),
        ),
        ("PRIORITY (CVE-2019-9513)", vec![call(1, "Chat")], [priority(1), priority(3), priority(5)].concat()),
        ("resets of a stream that is closed", vec![call(1, "Chat")], frame(RST_STREAM, 0, 1, &8_u32.to_be_bytes())),
        ("frames of no known type", vec![], frame(0xbe, 0, 0, b"anything")),
        ("windows of a stream, one byte at a time", vec![call(1, "Chat")], frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1])),
    ];
    for it in Siege::both().await {
        for (cut, (what, begin, next)) in (1..).zip(&floods) {
            let came = it.cuts(what, begin, |_| times(100, next)).await;
            assert_eq!(came.get(&GOAWAY), Some(&1), "{what}: it is told");
            it.server.wait_for(what, |status| status.flooding == cut).await;
        }
    }
}

/// Rapid reset (CVE-2023-44487), a hundred streams at a time: one that is reset after the server has looked at it is a call that
/// was cancelled.
#[tokio::test]
async fn s17_a_client_that_opens_and_resets_streams_is_cut_and_others_are_not() {
    let cancelled = |number| {
        let reset = frame(RST_STREAM, 0, stream(number), &CANCEL.to_be_bytes());
        [call(stream(number), "Chat"), reset].concat()
    };
    for it in Siege::both().await {
        let next = |round: u32| (100 * round..100 * (round + 1)).flat_map(cancelled).collect();
        let came = it.cuts("open and reset", &[], next).await;
        assert_eq!(came.get(&GOAWAY), Some(&1), "it is told");
        assert_eq!(it.server.status().accepted, 2);
    }
}

/// As gRPC's clients do, which say of each message that they have it, and measure the way with a PING; here with four, so that its
/// own messages do not pay for them.
#[tokio::test]
async fn s17_a_client_that_acknowledges_each_of_its_many_small_messages_is_no_flood() {
    const MESSAGES: usize = 2_000;
    let it = Siege::of(Backend::start("").await, ServerOptions::new()).await;
    let mut peer = Peer::connect(it.address()).await.unwrap();
    let empty = frame(DATA, 0, 1, &[0; 5]);
    peer.bytes(&[call(1, "Chat"), empty.clone()].concat()).await.unwrap();
    let update = |stream| frame(WINDOW_UPDATE, 0, stream, &5_u32.to_be_bytes());
    let next = [update(0), update(1), times(4, &frame(PING, 0, 0, &[7; 8])), empty].concat();
    let to_and_fro = async {
        for round in 0..MESSAGES {
            let answer = peer.next_of(DATA).await.unwrap_or_else(|error| panic!("cut in {round}: {error}"));
            assert_eq!(answer.payload, [0; 5]);
            peer.bytes(&next).await.unwrap();
        }
    };
    it.bears("a conversation", to_and_fro).await;
    assert_eq!(it.server.status().flooding, 0);
    drop(peer);
    it.is_alone("no flood").await;
}

/// As it cannot be answered, no more is read of it, and it ends by its silence.
#[tokio::test]
async fn s17_a_client_that_asks_and_never_reads_is_cut_and_little_is_made_for_it() {
    const REPLY: usize = 10_000;
    let greeter = Backend::start(&"a".repeat(REPLY)).await;
    let it = Siege::of(greeter, ServerOptions::new().keepalive(Some(SOON), SOON)).await;
    let mut attacker = Peer::connect(it.address()).await.unwrap();
    attacker.bytes(&settings(INITIAL_WINDOW_SIZE, u32::MAX >> 1)).await.unwrap();
    // Each has more to answer than all buffers on the way take.
    let calls: Vec<u8> =
        (0..100).flat_map(|number| whole_call(stream(number), "SayHelloStream", "100000000")).collect();
    attacker.bytes(&calls).await.unwrap();
    it.bears("a deaf client (CVE-2019-9517)", it.is_alone("a deaf client")).await;
    let bytes = it.greeter.replies() * REPLY as u64;
    // What the system's buffers take, and some 100 kB for each call.
    assert!(bytes < 32 << 20, "{bytes} bytes were made for who takes none");
    drop(attacker);
}

#[tokio::test]
async fn s17_headers_without_an_end_end_the_connection() {
    for it in Siege::both().await {
        let begun = || vec![frame(HEADERS, 0, 1, &header_block(&[(":method", "POST"), (":path", "/")]))];
        let small = frame(CONTINUATION, 0, 1, &header_block(&[("x-more", "and more")]));
        it.cuts("CONTINUATION (RUSTSEC-2024-0332)", &begun(), |_| small.clone()).await;
        it.cuts("empty CONTINUATION (CVE-2019-9518)", &begun(), |_| frame(CONTINUATION, 0, 1, &[])).await;
        // A value of 2 MiB (RFC 7541, 5.1), of which none may be kept.
        let endless = [&[0, 1, b'x', 0x7f][..], &[0x81, 0xff, 0x7f]].concat();
        let begun = vec![frame(HEADERS, 0, 1, &endless)];
        it.cuts("one header without an end", &begun, |_| frame(CONTINUATION, 0, 1, &[b'v'; 16_000])).await;
        assert_eq!(it.greeter.seen().iter().filter(|seen| seen.method != "SayHello").count(), 0);
    }
}

#[tokio::test]
async fn s17_frames_without_content_end_the_connection() {
    for it in Siege::both().await {
        let open = || vec![call(1, "CollectHellos")];
        let data = |flags, payload: &[u8]| times(100, &frame(DATA, flags, 1, payload));
        it.cuts("empty DATA (CVE-2019-9518, RUSTSEC-2026-0258)", &open(), |_| data(0, &[])).await;
        it.cuts("DATA of padding alone", &open(), |_| data(PADDED, &[0])).await;
        it.cuts("empty HEADERS", &[], |number| frame(HEADERS, END_HEADERS, stream(number), &[])).await;
        it.cuts("HEADERS again and again", &open(), |_| frame(HEADERS, END_HEADERS, 1, &header_block(&[("x", "y")])))
            .await;
        // Headers whose name is empty (CVE-2019-9516).
        it.cuts("nameless headers", &[], |number| {
            frame(HEADERS, END_HEADERS, stream(number), &[0, 0, 0].repeat(1_000))
        })
        .await;
    }
}

/// Of a message that comes a byte at a time no more is kept than of one that comes at once.
#[tokio::test]
async fn s17_a_message_in_frames_of_one_byte_that_nobody_reads_ends_the_connection() {
    let it = Siege::start(ServerOptions::new()).await;
    it.greeter.hold();
    let mut attacker = Peer::connect(it.address()).await.unwrap();
    attacker.bytes(&call(1, "CollectHellos")).await.unwrap();
    it.greeter.wait_for_in_flight(1).await;
    let drip = times(100, &frame(DATA, 0, 1, &[0]));
    in_time("frames of one byte", attacker.flood(|_| drip.clone())).await;
    it.greeter.release();
    it.is_alone("frames of one byte").await;
}

#[tokio::test]
async fn s17_headers_that_are_larger_than_they_look_reach_no_handler_and_end_the_connection() {
    for it in Siege::both().await {
        // One header of 3,000 bytes is put into the table (RFC 7541, 6.2.1), and named 15,000 times (6.1): 45 MB.
        let value = [b'v'; 3_000];
        let literal = [&[0x40, 1, b'x', 0x7f][..], &[0xb9, 0x16], &value].concat();
        let request =
            header_block(&[(":method", "POST"), (":scheme", "http"), (":path", "/helloworld.Greeter/SayHello")]);
        let bomb = |number: u32| {
            let named = vec![0xbe; 15_000];
            let block = [&request[..], if number == 0 { &literal } else { &[] }, &named].concat();
            let (first, rest) = block.split_at(16_000.min(block.len()));
            let id = stream(number);
            [frame(HEADERS, END_STREAM, id, first), frame(CONTINUATION, END_HEADERS, id, rest)].concat()
        };
        it.cuts("HPACK bomb (CVE-2016-6581)", &[], bomb).await;
        let many = header_block(&[("x-y", "z")]).repeat(1_900);
        let lists = |number| frame(HEADERS, END_HEADERS | END_STREAM, stream(number), &[&request[..], &many].concat());
        it.cuts("lists of 1,900 headers", &[], lists).await;
        assert!(it.greeter.seen().iter().all(|seen| seen.metadata.len() < 20), "a handler got them");
    }
}

/// Streams that the server is made to reset while it works on them (CVE-2025-8671), or to refuse.
#[tokio::test]
async fn s17_a_client_that_has_the_server_reset_its_streams_is_cut_and_has_no_more_calls_than_streams() {
    let it = Siege::start(ServerOptions::new().max_concurrent_streams(50)).await;
    it.greeter.hold();
    let before = it.greeter.calls();
    let attacks: [Attack; 3] = [
        ("streams whose window overflows", |number| {
            let overflow = 0x7fff_ffff_u32.to_be_bytes();
            [call(stream(number), "Chat"), frame(WINDOW_UPDATE, 0, stream(number), &overflow)].concat()
        }),
        ("streams that go on behind their end", |number| {
            [whole_call(stream(number), "SayHello", ""), frame(DATA, 0, stream(number), &[0])].concat()
        }),
        ("more streams than allowed", |number| call(stream(number), "Chat")),
    ];
    for (what, next) in attacks {
        let mut attacker = Peer::connect(it.address()).await.unwrap();
        let came = in_time(what, attacker.flood(next)).await;
        let (resets, most) = (came.get(&RST_STREAM).copied().unwrap_or_default(), 256);
        assert!(resets <= most, "{what}: {resets} resets");
        it.server.wait_for(what, |status| (status.connections, status.in_flight) == (1, 0)).await;
    }
    let calls = it.greeter.calls() - before;
    assert!(calls <= 3 * 256, "{calls} calls were begun");
    it.greeter.release();
    it.bears("all that", async {}).await;
    it.is_alone("all that").await;
}

/// Slow readers (CVE-2019-9511): the protocol allows them, so they cost no more than their streams until their time is up.
#[tokio::test]
async fn s17_a_client_that_takes_no_byte_of_its_answers_holds_its_own_streams_alone_and_until_its_age() {
    let options = ServerOptions::new().max_concurrent_streams(20).max_connection_age(Some(5 * SOON)).drain_grace(SOON);
    let it = Siege::start(options).await;
    let mut attacker = Peer::connect(it.address()).await.unwrap();
    attacker.bytes(&settings(INITIAL_WINDOW_SIZE, 0)).await.unwrap();
    let calls: Vec<u8> = (0..20).flat_map(|number| whole_call(stream(number), "SayHelloStream", "100000000")).collect();
    attacker.bytes(&calls).await.unwrap();
    it.server.wait_for("calls", |status| status.open.iter().any(|open| open.in_flight == 20)).await;
    let slow = async {
        // It answers what it is asked, so it is there; and takes a byte of each answer now and then.
        let mut answered = 0;
        while let Ok(frame_) = attacker.next_frame().await {
            let ack = matches!(frame_.kind, PING | SETTINGS) && frame_.flags & ACK == 0;
            if ack
                && attacker
                    .frame(frame_.kind, ACK, 0, &frame_.payload.repeat(usize::from(frame_.kind == PING)))
                    .await
                    .is_err()
            {
                break;
            }
            answered += usize::from(frame_.kind == DATA);
            if frame_.kind == GOAWAY {
                assert_eq!(answered, 0, "bytes that there was no window for");
            }
        }
    };
    it.bears("a slow reader", slow).await;
    it.server.wait_for("the end of the slow reader", |status| status.in_flight == 0).await;
}

/// What is no HTTP/2 at all, from connections that never get to a call.
#[tokio::test]
async fn s17_what_is_no_http2_ends_without_a_call() {
    let it = Siege::start(ServerOptions::new().handshake_timeout(SOON)).await;
    let garbage = async {
        for seed in 0..20_u8 {
            let mut stream = TcpStream::connect(it.address()).await.unwrap();
            let bytes: Vec<u8> = (0..4_000_u32).map(|at| (at * 31 + u32::from(seed) * 17) as u8).collect();
            let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, &bytes).await;
            let mut rest = Vec::new();
            let _ = timeout(Duration::from_secs(5), stream.read_to_end(&mut rest)).await.expect("it ends");
        }
    };
    it.bears("garbage", garbage).await;
    it.is_alone("garbage").await;
}

/// Calls with so many bytes that more of them came than a task may read at a time; each is answered at once.
struct EndlessCalls {
    calls: Vec<u8>,
    length: usize,
    numbers: RangeFrom<u32>,
}

impl EndlessCalls {
    fn new() -> Self {
        let path = (":path", "/helloworld.Greeter/Nothing");
        let head = [(":method", "POST"), (":scheme", "http"), path, ("content-type", "application/grpc")];
        // A header of 3,000 bytes (RFC 7541, 5.1).
        let filler = [&[0, 1, b'x', 0x7f, 0xb9, 0x16][..], &[b'v'; 3_000]].concat();
        let call = frame(HEADERS, END_HEADERS | END_STREAM, 0, &[header_block(&head), filler].concat());
        Self { calls: times(50, &call), length: call.len(), numbers: 0.. }
    }

    /// The next of them.
    fn next(&mut self) -> &[u8] {
        for (call, number) in self.calls.chunks_mut(self.length).zip(&mut self.numbers) {
            call[5..9].copy_from_slice(&stream(number).to_be_bytes());
        }
        &self.calls
    }
}

/// Clients that send as fast as they can, whatever comes. They have threads of their own, and are several, so that there is more of
/// each whenever the server looks.
struct Restless(Vec<oneshot::Receiver<()>>);

impl Restless {
    /// Once they have sent so much that it is their own speed that limits them no more.
    async fn start(address: SocketAddr) -> Self {
        let mut over = Vec::new();
        let mut sent = Vec::new();
        for _ in 0..3 {
            let mut writing = Peer::connect(address).await.unwrap().into_blocking();
            let mut reading = writing.try_clone().unwrap();
            let (end, ended) = oneshot::channel();
            let sends = Counter::new();
            over.push(ended);
            sent.push(sends.clone());
            std::thread::spawn(move || io::copy(&mut reading, &mut io::sink()));
            std::thread::spawn(move || {
                let mut calls = EndlessCalls::new();
                while writing.write_all(calls.next()).is_ok() {
                    sends.add(1);
                }
                drop(end);
            });
        }
        for sends in sent {
            sends.wait_for("calls without an end", |sends| *sends >= 40).await;
        }
        Self(over)
    }

    /// Waits until the server ended the connection of each.
    async fn are_cut(self) {
        in_time("the end of all", join_all(self.0)).await;
    }
}

/// One that answers each of their calls.
fn tireless() -> ServerOptions {
    ServerOptions::new().max_concurrent_streams(1_000_000)
}

#[tokio::test]
async fn s17_clients_that_never_stop_to_send_are_cut_at_the_end_of_a_shutdown() {
    let mut server = Served::start(tireless().shutdown_timeout(SOON), |server| server).await;
    let restless = Restless::start(server.address()).await;
    server.stop();
    server.ended().await;
    restless.are_cut().await;
}

#[tokio::test]
async fn s17_clients_that_never_stop_to_send_are_cut_at_the_end_of_the_grace() {
    let it = Setting::start(filter_chain(), tireless().drain_grace(SOON)).await;
    let restless = Restless::start(it.server.address()).await;
    it.changes_to(matching_otherwise(filter_chain())).await;
    restless.are_cut().await;
}

/// Here those that called in plaintext, once TLS is asked for.
#[tokio::test]
async fn s3_clients_that_never_stop_to_send_are_cut_when_the_server_does_not_let_them_in_any_more() {
    let site = Site::start(Some(filter_chain()), tireless(), |server| server).await.certified().await;
    let restless = Restless::start(site.address()).await;
    site.listen(secured(&optional()));
    restless.are_cut().await;
    site.server.wait_for("no connection", |status| status.connections == 0).await;
}
