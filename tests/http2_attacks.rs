//! Attacks on a server by HTTP/2, each that was found in an implementation of it: the attacker's connection ends, what it made
//! the server take is bounded, and calls beside it all succeed. Resets of streams are in `server.rs`.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use mesh_core::Mesh;
use mesh_core::server::ServerOptions;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::support::PATIENCE;
use crate::support::backend::Backend;
use crate::support::client::Client;
use crate::support::frames::{
    DATA, END_HEADERS, END_STREAM, HEADERS, PING, Peer, RST_STREAM, SETTINGS, WINDOW_UPDATE, header_block,
};
use crate::support::secured_server::{CLIENT, Site, context, secured};
use crate::support::served::Served;

const PRIORITY: u8 = 2;
const PUSH_PROMISE: u8 = 5;
const CONTINUATION: u8 = 9;
/// What the buffers of two sockets on loopback hold, and what is read before it is enough.
const BOUND: usize = 24 << 20;

/// A server, and a client of it that calls without a pause.
struct Besieged {
    server: Served,
    backend: Backend,
    stop: Arc<AtomicBool>,
    calls: JoinHandle<usize>,
    _mesh: Mesh,
}

impl Besieged {
    async fn start(options: ServerOptions) -> Self {
        let backend = Backend::start("a").await;
        let server = Served::start(options, |server| server.add_service(backend.service())).await;
        let mesh = Mesh::builder().build().await.expect("a mesh");
        let client = Client::new(&mesh, &server.target());
        assert_eq!(client.hello().await.expect("an answer"), "a");
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let calls = tokio::spawn(async move {
            let mut calls = 0;
            while !stopped.load(Relaxed) {
                assert_eq!(client.hello().await.expect("calls beside the attack are answered"), "a");
                calls += 1;
                tokio::task::yield_now().await;
            }
            assert_eq!(client.hello().await.expect("calls after the attack are answered"), "a");
            calls
        });
        Self { server, backend, stop, calls, _mesh: mesh }
    }

    async fn attacker(&self) -> Peer {
        Peer::connect(self.server.address()).await.expect("a connection")
    }

    /// That the attacker's connections have ended, and no call beside them failed.
    async fn holds(self) {
        self.server.wait_for("the attacker is cut", |status| status.connections == 1).await;
        self.stop.store(true, Relaxed);
        assert!(self.calls.await.expect("no call failed") > 0, "calls were made meanwhile");
    }
}

/// Writes frames until the server closes the connection; how many bytes it took, or its sockets.
async fn flood(attacker: &mut Peer, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> usize {
    let length = u32::try_from(payload.len()).expect("a short frame").to_be_bytes();
    let frame = [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat();
    let batch = frame.repeat(500);
    let sent = async {
        let mut sent = 0;
        while attacker.bytes(&batch).await.is_ok() {
            sent += batch.len();
        }
        sent
    };
    timeout(PATIENCE, sent).await.expect("the flood is cut")
}

/// Reads until the connection ends.
async fn ends(attacker: &mut Peer, what: &str) {
    let end = async { while attacker.next_frame().await.is_ok() {} };
    timeout(PATIENCE, end).await.unwrap_or_else(|_| panic!("{what}: the connection goes on"));
}

/// RUSTSEC-2024-0332: a head that never ends.
#[tokio::test]
async fn a_head_that_is_continued_without_end_is_cut() {
    let besieged = Besieged::start(ServerOptions::new()).await;
    for payload in [&header_block(&[("name", "value")])[..], &[]] {
        let mut attacker = besieged.attacker().await;
        attacker.frame(HEADERS, 0, 1, &header_block(&[(":method", "POST")])).await.unwrap();
        let taken = flood(&mut attacker, CONTINUATION, 0, 1, payload).await;
        assert!(taken < BOUND, "{taken} bytes were taken");
        ends(&mut attacker, "a head without end").await;
    }
    besieged.holds().await;
}

/// RUSTSEC-2026-0258: messages that are empty, without end.
#[tokio::test]
async fn a_body_of_empty_frames_without_end_is_cut() {
    let besieged = Besieged::start(ServerOptions::new()).await;
    let mut attacker = besieged.attacker().await;
    attacker.call(1, "CollectHellos").await.unwrap();
    let taken = flood(&mut attacker, DATA, 0, 1, &[]).await;
    assert!(taken < BOUND, "{taken} bytes were taken");
    besieged.holds().await;
}

/// CVE-2019-9512, CVE-2019-9515: frames that must be answered, by one who reads no answer.
#[tokio::test]
async fn a_client_that_has_the_server_answer_and_does_not_read_is_cut() {
    let step = Duration::from_millis(300);
    let besieged = Besieged::start(ServerOptions::new().keepalive(Some(step), step)).await;
    for (kind, payload) in [(SETTINGS, &[][..]), (PING, &[7; 8])] {
        let mut attacker = Peer::connect_without_room(besieged.server.address()).await.expect("a connection");
        // The server stops to read when its answers are not taken.
        let taken = flood(&mut attacker, kind, 0, 0, payload).await;
        assert!(taken < BOUND, "{taken} bytes of frames of type {kind} were taken");
    }
    besieged.holds().await;
}

/// CVE-2019-9511, CVE-2019-9517: answers are asked for, and no window is given to send them.
#[tokio::test]
async fn a_client_that_takes_no_answer_holds_no_more_than_its_streams() {
    let step = Duration::from_millis(300);
    let options = ServerOptions::new().max_concurrent_streams(20).keepalive(Some(step), step);
    let besieged = Besieged::start(options).await;
    let before = besieged.backend.calls();
    let mut attacker = besieged.attacker().await;
    attacker.settings(&[(4, 0)]).await.unwrap();
    for call in 0..200 {
        let stream = 2 * call + 1;
        if attacker.call(stream, "SayHello").await.is_err() {
            break;
        }
        let _ = attacker.frame(DATA, END_STREAM, stream, &[0; 5]).await;
    }
    // It answers no PING either.
    besieged.server.wait_for("the attacker is cut", |status| status.connections == 1).await;
    let server = besieged.server.status();
    assert!(server.in_flight <= 1, "nothing of it is left: {server:?}");
    assert!(besieged.backend.calls() > before);
    besieged.holds().await;
}

/// A head or a frame that is begun, and not gone on with.
#[tokio::test]
async fn a_client_that_stops_within_a_frame_is_cut() {
    let step = Duration::from_millis(300);
    let besieged = Besieged::start(ServerOptions::new().keepalive(Some(step), step)).await;
    let mut stalled = Vec::new();
    for bytes in [&[0][..], &[0, 0, 50, HEADERS, 0, 0, 0, 0, 1, 0x83], &[0, 0, 8, PING, 0, 0, 0, 0, 0, 1, 2]] {
        let mut attacker = besieged.attacker().await;
        attacker.bytes(bytes).await.unwrap();
        stalled.push(attacker);
    }
    besieged.holds().await;
}

/// What breaks the protocol ends its connection at once (RFC 9113, 5.4.1).
#[tokio::test]
async fn a_client_that_breaks_the_protocol_is_cut() {
    let besieged = Besieged::start(ServerOptions::new()).await;
    let long = vec![0; 20_000];
    let huge = [0x40, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f];
    let attacks: [(&str, u8, u8, u32, &[u8]); 22] = [
        ("a frame that is too long", DATA, 0, 1, &long),
        ("DATA of no stream", DATA, 0, 0, b"x"),
        ("DATA of a stream that is idle", DATA, 0, 7, b"x"),
        ("HEADERS of no stream", HEADERS, END_HEADERS, 0, &[0x83]),
        ("HEADERS of a server's stream", HEADERS, END_HEADERS, 2, &[0x83, 0x86, 0x84]),
        ("an index that is not there (HPACK)", HEADERS, END_HEADERS, 1, &[0xff, 0x80, 0x01]),
        ("index 0 (HPACK)", HEADERS, END_HEADERS, 1, &[0x80]),
        ("an integer that is too long (HPACK)", HEADERS, END_HEADERS, 1, &huge),
        ("a table that is too large (HPACK)", HEADERS, END_HEADERS, 1, &[0x3f, 0xe1, 0xff, 0x7f]),
        ("a text that ends too early (HPACK)", HEADERS, END_HEADERS, 1, &[0, 0x7f, 0x20, b'a']),
        ("Huffman code that is none (HPACK)", HEADERS, END_HEADERS, 1, &[0, 0x84, 0xff, 0xff, 0xff, 0xff, 1, b'a']),
        ("padding that is longer than its frame", HEADERS, END_HEADERS | 0x8, 1, &[200, 0x83]),
        ("CONTINUATION of nothing", CONTINUATION, END_HEADERS, 1, &[0x83]),
        ("SETTINGS of a length that is none", SETTINGS, 0, 0, &[0; 5]),
        ("SETTINGS of a stream", SETTINGS, 0, 1, &[]),
        ("a window that is too large", SETTINGS, 0, 0, &[0, 4, 0xff, 0xff, 0xff, 0xff]),
        ("frames that are too small", SETTINGS, 0, 0, &[0, 5, 0, 0, 0, 1]),
        ("PING of 7 bytes", PING, 0, 0, &[0; 7]),
        ("a window grown by nothing", WINDOW_UPDATE, 0, 0, &[0; 4]),
        ("a window grown too far", WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff]),
        ("RST_STREAM of a stream that is idle", RST_STREAM, 0, 9, &[0; 4]),
        ("a promise", PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2, 0x83]),
    ];
    for (what, kind, flags, stream, payload) in attacks {
        let mut attacker = besieged.attacker().await;
        let _ = attacker.frame(kind, flags, stream, payload).await;
        ends(&mut attacker, what).await;
    }
    let mut attacker = besieged.attacker().await;
    let _ = attacker.frame(HEADERS, 0, 1, &[0x83]).await;
    let _ = attacker.frame(PRIORITY, 0, 1, &[0; 5]).await;
    ends(&mut attacker, "another frame within a head").await;
    let mut attacker = besieged.attacker().await;
    let _ = attacker.bytes(&[0xff; 9 + 16_384]).await;
    ends(&mut attacker, "rubbish").await;
    besieged.holds().await;
}

/// CVE-2016-6581, the bomb of HPACK: a few bytes that stand for a head of megabytes.
#[tokio::test]
async fn a_head_that_unpacks_to_megabytes_gets_to_no_handler() {
    let besieged = Besieged::start(ServerOptions::new()).await;
    let mut attacker = besieged.attacker().await;
    let mut block = header_block(&[(":method", "POST"), (":scheme", "http"), (":path", "/")]);
    // A header of 3 KiB goes into the table, and is named 4,000 times.
    block.extend([0x40, 1, b'a', 0x7f, 0xb9, 0x17]);
    block.extend(vec![b'x'; 127 + 0x39 + (0x17 << 7)]);
    block.extend(vec![0xbe; 4_000]);
    for call in 0..50 {
        attacker.frame(HEADERS, END_HEADERS | END_STREAM, 2 * call + 1, &block).await.unwrap_or_default();
        // From then on the table has it.
        block = vec![0xbe; 4_000];
    }
    let refused = async {
        let mut answers = 0;
        while answers < 50 {
            match attacker.next_frame().await {
                Ok(frame) if matches!(frame.kind, HEADERS | RST_STREAM) && frame.stream != 0 => answers += 1,
                Ok(_) => {}
                Err(_) => return,
            }
        }
    };
    timeout(PATIENCE, refused).await.expect("each is refused");
    drop(attacker);
    besieged.holds().await;
}

/// A message of groups within groups: a decoder without a limit has no stack left.
#[tokio::test]
async fn a_message_that_is_nested_without_end_fails_its_call_alone() {
    let besieged = Besieged::start(ServerOptions::new()).await;
    let mut attacker = besieged.attacker().await;
    attacker.call(1, "SayHello").await.unwrap();
    // The begin of a group, field 5, which no message here has.
    let message = vec![0x2b; 60_000];
    let length = u32::try_from(message.len()).unwrap();
    let body = [&[0][..], &length.to_be_bytes(), &message].concat();
    for part in body.chunks(16_000) {
        attacker.frame(DATA, 0, 1, part).await.unwrap();
    }
    attacker.frame(DATA, END_STREAM, 1, &[]).await.unwrap();
    let answered = async {
        loop {
            let frame = attacker.next_frame().await.expect("an answer");
            if frame.stream == 1 && (frame.kind == RST_STREAM || frame.flags & END_STREAM != 0) {
                return;
            }
        }
    };
    timeout(PATIENCE, answered).await.expect("the call ends");
    drop(attacker);
    besieged.holds().await;
}

/// A TLS record of the kind "handshake" for each part.
fn records(message: &[u8], part: usize) -> Vec<u8> {
    let record = |part: &[u8]| [&[0x16, 3, 1], &u16::try_from(part.len()).unwrap().to_be_bytes()[..], part].concat();
    message.chunks(part).flat_map(record).collect()
}

/// A ClientHello, by rustls.
fn client_hello() -> io::Result<Vec<u8>> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let name = "server.test".try_into().expect("a name");
    let mut client = rustls::ClientConnection::new(Arc::new(config), name).expect("a client");
    let mut hello = Vec::new();
    client.write_tls(&mut hello)?;
    Ok(hello[5..].to_vec())
}

/// RUSTSEC-2024-0399 (a ClientHello in parts), RUSTSEC-2024-0336 (an end within a handshake), and what else begins no TLS.
#[tokio::test]
async fn handshakes_that_break_tls_are_closed_and_hold_nothing_up() {
    let options = ServerOptions::new().handshake_timeout(Duration::from_millis(500));
    let site = Site::start(Some(secured(&context())), options, |server| server).await.certified().await;
    let hello = client_hello().unwrap();
    let close = [0x15, 3, 3, 0, 2, 1, 0];
    let attacks: [(&str, Vec<u8>); 8] = [
        ("a byte in each record", records(&hello, 1)),
        ("two parts, and an end", [records(&hello, hello.len() / 2 + 1), close.to_vec()].concat()),
        ("a part, and an end", [records(&hello[..20], 20), close.to_vec()].concat()),
        ("an end alone", close.to_vec()),
        ("empty records", [0x16, 3, 1, 0, 0].repeat(1_000)),
        ("warnings without end", [0x15, 3, 3, 0, 2, 1, 90].repeat(1_000)),
        ("a record that is too long", [&[0x16, 3, 1, 0xff, 0xff][..], &[0; 0xffff]].concat()),
        ("a message of 16 MiB", [&[0x16, 3, 1, 0x40, 0, 1, 0xff, 0xff, 0xff][..], &[0; 0x4000 - 4]].concat()),
    ];
    let all = attacks.len() as u64;
    for (what, bytes) in attacks {
        let mut attacker = TcpStream::connect(site.address()).await.unwrap();
        let _ = attacker.write_all(&bytes).await;
        let mut said = Vec::new();
        let end = attacker.read_to_end(&mut said);
        let _ = timeout(PATIENCE, end).await.unwrap_or_else(|_| panic!("{what}: the connection goes on"));
        let caller = site.caller(Some(&site.authority.svid(CLIENT))).await;
        assert_eq!(caller.hello().await.unwrap(), "client of shop", "after {what}");
    }
    site.server.wait_for("each is counted", |status| status.failed_handshakes == all).await;
}
