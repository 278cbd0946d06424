//! An HTTP/2 server, or client, made of raw frames (RFC 9113), which may be wrong in any way that a test writes down.
//!
//! A test gives [`FrameServer::start`] what becomes of each connection, as code that reads and writes frames:
//!
//! ```text
//! let server = FrameServer::start(|mut peer| async move {
//!     peer.greet(&[(MAX_CONCURRENT_STREAMS, 1)]).await?;
//!     let call = peer.next_call().await?;
//!     peer.reset(call, REFUSED_STREAM).await?;
//!     peer.serve("ok").await
//! }).await;
//! ```

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;
use mesh_examples::helloworld::HelloReply;
use prost::Message;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use super::Counter;

// Frame types (RFC 9113, 6).
pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

// Flags.
pub(crate) const ACK: u8 = 0x1;
pub(crate) const END_STREAM: u8 = 0x1;
pub(crate) const END_HEADERS: u8 = 0x4;

// Error codes (7).
pub(crate) const NO_ERROR: u32 = 0;
pub(crate) const REFUSED_STREAM: u32 = 7;
pub(crate) const CANCEL: u32 = 8;
pub(crate) const ENHANCE_YOUR_CALM: u32 = 11;

// Settings (6.5.2).
pub(crate) const MAX_CONCURRENT_STREAMS: u16 = 3;
pub(crate) const INITIAL_WINDOW_SIZE: u16 = 4;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A server whose connections are played by a script. A script that panics fails its test when the server is dropped.
pub(crate) struct FrameServer {
    address: SocketAddr,
    accepted: Counter,
    panics: Counter,
    task: JoinHandle<()>,
}

impl FrameServer {
    /// Plays `script` on each connection. The connection ends with it, in order; an error in it is the client's end.
    pub(crate) async fn start<F>(script: impl Fn(Peer) -> F + Send + 'static) -> Self
    where
        F: Future<Output = io::Result<()>> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound listener");
        let (accepted, panics) = (Counter::new(), Counter::new());
        let (counter, failed) = (accepted.clone(), panics.clone());
        let task = tokio::spawn(async move {
            let mut playing = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.expect("a listener that works");
                stream.set_nodelay(true).expect("a TCP option");
                counter.add(1);
                let play = AssertUnwindSafe(script(Peer { stream })).catch_unwind();
                let failed = failed.clone();
                playing.spawn(async move { failed.add(u64::from(play.await.is_err())) });
            }
        });
        Self { address, accepted, panics, task }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many connections it accepted.
    pub(crate) fn accepted(&self) -> u64 {
        self.accepted.get()
    }

    pub(crate) async fn wait_for_accepted(&self, at_least: u64) {
        self.accepted.wait_for("accepted connections", |count| *count >= at_least).await;
    }
}

impl Drop for FrameServer {
    fn drop(&mut self) {
        self.task.abort();
        // A test that fails already has more to say.
        assert!(self.panics.get() == 0 || std::thread::panicking(), "a script of a frame server panicked: see above");
    }
}

/// A frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Self> {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await?;
        let [a, b, c, kind, flags, stream_id @ ..] = head;
        let mut payload = vec![0; usize::try_from(u32::from_be_bytes([0, a, b, c])).expect("64 bits")];
        stream.read_exact(&mut payload).await?;
        Ok(Self { kind, flags, stream: u32::from_be_bytes(stream_id) & 0x7fff_ffff, payload })
    }
}

/// One connection, as the side that a test plays sees it.
pub(crate) struct Peer<S = TcpStream> {
    stream: S,
}

/// The other way round: a client that may be wrong in any way, of a server.
impl Peer {
    /// Connects, and writes the preface and the client's settings.
    pub(crate) async fn connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Self::over(stream).await
    }

    /// The connection, for threads that block.
    pub(crate) fn into_blocking(self) -> std::net::TcpStream {
        let stream = self.stream.into_std().expect("a socket");
        stream.set_nonblocking(false).expect("a socket");
        stream
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Peer<S> {
    /// Writes the preface and the client's settings on a connection that is there.
    pub(crate) async fn over(stream: S) -> io::Result<Self> {
        let mut peer = Self { stream };
        peer.bytes(PREFACE).await?;
        peer.settings(&[]).await?;
        peer.window_update(0, 1 << 30).await?;
        Ok(peer)
    }

    /// The head of a call of the greeter.
    pub(crate) async fn call(&mut self, stream: u32, method: &str) -> io::Result<()> {
        self.call_with(stream, method, &[(":authority", "greeter")]).await
    }

    /// Of which these headers, too, say what it is.
    async fn call_with(&mut self, stream: u32, method: &str, more: &[(&str, &str)]) -> io::Result<()> {
        let path = format!("/helloworld.Greeter/{method}");
        let head = [(":method", "POST"), (":scheme", "http"), (":path", &path)];
        let block = [&head[..], more, &[("content-type", "application/grpc"), ("te", "trailers")]].concat();
        self.frame(HEADERS, END_HEADERS, stream, &header_block(&block)).await
    }

    /// A whole unary call of the greeter, and the frame that ends it: the trailers, or a reset. Nothing is acknowledged.
    pub(crate) async fn hello(&mut self, stream: u32) -> io::Result<Frame> {
        self.hello_with(stream, &[(":authority", "greeter")]).await
    }

    /// As [`hello`](Self::hello), with these headers for the authority and more.
    pub(crate) async fn hello_with(&mut self, stream: u32, more: &[(&str, &str)]) -> io::Result<Frame> {
        self.call_with(stream, "SayHello", more).await?;
        self.frame(DATA, END_STREAM, stream, &[0; 5]).await?;
        loop {
            let frame = self.next_frame().await?;
            if frame.stream == stream && (frame.kind == RST_STREAM || frame.flags & END_STREAM != 0) {
                return Ok(frame);
            }
        }
    }
}

/// A client that sends more than a server is to bear.
impl<S: AsyncRead + AsyncWrite + Unpin> Peer<S> {
    /// Sends what `next` makes of 0, 1, 2, … for as long as the server lets it, reads what comes meanwhile, and returns how often each
    /// type of frame came before the server ended the connection.
    pub(crate) async fn flood(&mut self, mut next: impl FnMut(u32) -> Vec<u8>) -> HashMap<u8, usize> {
        let (mut reading, mut writing) = split(&mut self.stream);
        let mut came = HashMap::new();
        let sends = async {
            for number in 0.. {
                // The server may end the connection before it has all of it; that is seen by who reads.
                if writing.write_all(&next(number)).await.is_err() {
                    break;
                }
                tokio::task::yield_now().await;
            }
            std::future::pending::<()>().await;
        };
        let reads = async {
            while let Ok(frame) = Frame::read(&mut reading).await {
                *came.entry(frame.kind).or_default() += 1;
            }
        };
        tokio::select! { () = sends => {} () = reads => {} }
        came
    }
}

/// Reading.
impl<S: AsyncRead + AsyncWrite + Unpin> Peer<S> {
    /// Reads the preface and writes the server's settings.
    pub(crate) async fn greet(&mut self, settings: &[(u16, u32)]) -> io::Result<()> {
        let mut preface = [0; PREFACE.len()];
        self.stream.read_exact(&mut preface).await?;
        assert_eq!(preface, PREFACE, "a client of HTTP/2");
        self.settings(settings).await
    }

    /// The next frame, whatever it is.
    pub(crate) async fn next_frame(&mut self) -> io::Result<Frame> {
        Frame::read(&mut self.stream).await
    }

    /// The next frame of this type. Settings and pings before it are acknowledged, other frames skipped.
    pub(crate) async fn next_of(&mut self, kind: u8) -> io::Result<Frame> {
        loop {
            let frame = self.next_frame().await?;
            if frame.kind == kind {
                return Ok(frame);
            }
            if matches!(frame.kind, SETTINGS | PING) && frame.flags & ACK == 0 {
                let payload = if frame.kind == PING { frame.payload } else { Vec::new() };
                self.frame(frame.kind, ACK, 0, &payload).await?;
            }
        }
    }

    /// The stream of the next call. Its messages come as DATA frames.
    pub(crate) async fn next_call(&mut self) -> io::Result<u32> {
        Ok(self.next_of(HEADERS).await?.stream)
    }

    /// Reads, and answers settings and pings alone, until the client is gone.
    pub(crate) async fn wait_for_end(&mut self) -> io::Result<()> {
        loop {
            self.next_call().await?;
        }
    }
}

/// Writing.
impl<S: AsyncRead + AsyncWrite + Unpin> Peer<S> {
    pub(crate) async fn settings(&mut self, settings: &[(u16, u32)]) -> io::Result<()> {
        let pair = |(id, value): &(u16, u32)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat();
        let payload: Vec<u8> = settings.iter().flat_map(pair).collect();
        self.frame(SETTINGS, 0, 0, &payload).await
    }

    /// Says that streams above `last` were not and will not be worked on.
    pub(crate) async fn go_away(&mut self, last: u32, code: u32, debug: &str) -> io::Result<()> {
        let payload = [&last.to_be_bytes()[..], &code.to_be_bytes(), debug.as_bytes()].concat();
        self.frame(GOAWAY, 0, 0, &payload).await
    }

    pub(crate) async fn reset(&mut self, stream: u32, code: u32) -> io::Result<()> {
        self.frame(RST_STREAM, 0, stream, &code.to_be_bytes()).await
    }

    pub(crate) async fn window_update(&mut self, stream: u32, by: u32) -> io::Result<()> {
        self.frame(WINDOW_UPDATE, 0, stream, &by.to_be_bytes()).await
    }

    /// The head of a gRPC response.
    pub(crate) async fn head(&mut self, stream: u32) -> io::Result<()> {
        let block = header_block(&[(":status", "200"), ("content-type", "application/grpc")]);
        self.frame(HEADERS, END_HEADERS, stream, &block).await
    }

    /// A greeter's message.
    pub(crate) async fn message(&mut self, stream: u32, text: &str) -> io::Result<()> {
        let message = HelloReply { message: text.to_owned() }.encode_to_vec();
        let length = u32::try_from(message.len()).expect("a short message");
        let payload = [&[0][..], &length.to_be_bytes(), &message].concat();
        self.frame(DATA, 0, stream, &payload).await
    }

    /// The end of a gRPC response.
    pub(crate) async fn status(&mut self, stream: u32, code: u32) -> io::Result<()> {
        let block = header_block(&[("grpc-status", &code.to_string())]);
        self.frame(HEADERS, END_HEADERS | END_STREAM, stream, &block).await
    }

    /// A whole unary answer.
    pub(crate) async fn answer(&mut self, stream: u32, text: &str) -> io::Result<()> {
        self.head(stream).await?;
        self.message(stream, text).await?;
        self.status(stream, 0).await
    }

    /// Answers every call, until the client is gone.
    pub(crate) async fn serve(&mut self, text: &str) -> io::Result<()> {
        loop {
            let call = self.next_call().await?;
            self.answer(call, text).await?;
        }
    }

    /// A frame, right or wrong.
    pub(crate) async fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> io::Result<()> {
        self.bytes(&frame(kind, flags, stream, payload)).await
    }

    /// Bytes that need not be a frame.
    pub(crate) async fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await?;
        self.stream.flush().await
    }
}

/// The bytes of a frame, right or wrong.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a short frame").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// Headers as literals that are not indexed, without Huffman coding (RFC 7541, 6.2.2).
pub(crate) fn header_block(headers: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in headers {
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).ok().filter(|length| *length < 127).expect("a short header"));
            block.extend_from_slice(text.as_bytes());
        }
    }
    block
}

#[cfg(test)]
mod tests {
    use mesh_examples::helloworld::HelloRequest;
    use mesh_examples::helloworld::greeter_client::GreeterClient;
    use tonic::transport::{Channel, Endpoint};
    use tonic::{Code, Status};

    use super::*;

    async fn client(server: &FrameServer) -> GreeterClient<Channel> {
        let endpoint = Endpoint::from_shared(format!("http://{}", server.address())).unwrap();
        GreeterClient::new(endpoint.connect().await.unwrap())
    }

    async fn hello(client: &mut GreeterClient<Channel>) -> Result<String, Status> {
        let reply = client.say_hello(HelloRequest { name: "me".into() }).await?;
        Ok(reply.into_inner().message)
    }

    #[tokio::test]
    async fn a_script_resets_calls_and_serves_the_others() {
        let server = FrameServer::start(|mut peer| async move {
            peer.greet(&[(MAX_CONCURRENT_STREAMS, 1)]).await?;
            for code in [REFUSED_STREAM, CANCEL, ENHANCE_YOUR_CALM] {
                let call = peer.next_call().await?;
                peer.reset(call, code).await?;
            }
            peer.window_update(0, 1 << 16).await?;
            peer.serve("ok").await
        })
        .await;
        let mut client = client(&server).await;
        for code in [Code::Unavailable, Code::Cancelled, Code::ResourceExhausted] {
            assert_eq!(hello(&mut client).await.unwrap_err().code(), code);
        }
        assert_eq!(hello(&mut client).await.unwrap(), "ok");
        assert_eq!(server.accepted(), 1);
    }

    #[tokio::test]
    async fn a_script_shrinks_the_window_and_sees_what_is_sent() {
        let server = FrameServer::start(|mut peer| async move {
            peer.greet(&[(INITIAL_WINDOW_SIZE, 3)]).await?;
            // The first call may have been sent before the client knew.
            let first = peer.next_call().await?;
            peer.answer(first, "ok").await?;
            let call = peer.next_call().await?;
            assert_eq!(peer.next_of(DATA).await?.payload.len(), 3);
            peer.window_update(call, 100).await?;
            assert_eq!(peer.next_of(DATA).await?.payload.len(), 6);
            peer.answer(call, "ok").await?;
            peer.wait_for_end().await
        })
        .await;
        let mut client = client(&server).await;
        for _ in 0..2 {
            assert_eq!(hello(&mut client).await.unwrap(), "ok");
        }
    }

    #[tokio::test]
    async fn a_script_goes_away_in_mid_flight() {
        let server = FrameServer::start(|mut peer| async move {
            peer.greet(&[]).await?;
            let call = peer.next_call().await?;
            peer.head(call).await?;
            peer.go_away(call, NO_ERROR, "max_age").await?;
            peer.message(call, "late").await?;
            peer.status(call, 0).await?;
            peer.wait_for_end().await
        })
        .await;
        assert_eq!(hello(&mut client(&server).await).await.unwrap(), "late");
        server.wait_for_accepted(1).await;
    }

    #[tokio::test]
    #[should_panic(expected = "a script of a frame server panicked")]
    async fn a_script_that_fails_fails_its_test() {
        let server = FrameServer::start(|mut peer| async move {
            peer.greet(&[]).await?;
            peer.next_call().await?;
            panic!("not what the script expects");
        })
        .await;
        hello(&mut client(&server).await).await.unwrap_err();
    }

    #[tokio::test]
    async fn a_script_breaks_the_protocol() {
        let server = FrameServer::start(|mut peer| async move {
            peer.greet(&[]).await?;
            let call = peer.next_call().await?;
            // A WINDOW_UPDATE of three bytes.
            peer.frame(WINDOW_UPDATE, 0, call, &[0, 0, 1]).await?;
            peer.bytes(b"\xff\xff").await?;
            assert_eq!(peer.next_of(GOAWAY).await?.payload[7], 6, "FRAME_SIZE_ERROR");
            Ok(())
        })
        .await;
        assert!(hello(&mut client(&server).await).await.is_err());
    }
}
