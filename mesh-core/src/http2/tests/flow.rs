//! Flow control both ways.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, sleep_until, timeout};

use super::raw::{DATA, HEADERS, INITIAL_WINDOW_SIZE, PING, Peer, RST_STREAM, WINDOW_UPDATE};
use super::*;

const CHUNK: usize = 16 << 10;

/// A body that always has more, and counts what was taken of it.
struct Endless {
    left: usize,
    taken: Arc<AtomicUsize>,
}

impl Body for Endless {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        static ZEROS: [u8; CHUNK] = [0; CHUNK];
        if self.left == 0 {
            return Poll::Ready(None);
        }
        self.left -= 1;
        self.taken.fetch_add(CHUNK, Ordering::Relaxed);
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&ZEROS)))))
    }
}

#[tokio::test]
async fn a_big_upload_runs_in_constant_memory() {
    let received = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&received);
    let connection = connected(move |request, mut respond| {
        let count = Arc::clone(&count);
        async move {
            let mut body = request.into_body();
            while let Some(Ok(data)) = body.data().await {
                count.fetch_add(data.len(), Ordering::Relaxed);
                body.flow_control().release_capacity(data.len()).unwrap();
            }
            respond.send_response(Response::new(()), true).unwrap();
        }
    })
    .await;
    let taken = Arc::new(AtomicUsize::new(0));
    let mut call = send(&connection, request(Endless { left: 1024, taken: Arc::clone(&taken) }));
    let mut most = 0;
    while poll_once(&mut call).await.is_pending() {
        most = most.max(taken.load(Ordering::Relaxed) - received.load(Ordering::Relaxed));
        tokio::task::yield_now().await;
    }
    assert_eq!(received.load(Ordering::Relaxed), 1024 * CHUNK);
    assert!(most < 1 << 20, "{most} bytes between body and peer");
}

#[tokio::test]
async fn an_upload_stops_at_the_peers_window_and_goes_on_with_it() {
    let (connection, mut peer) = Peer::connect(&[(INITIAL_WINDOW_SIZE, 20_000)], Config::default()).await;
    let taken = Arc::new(AtomicUsize::new(0));
    let mut call = send(&connection, request(Endless { left: 5, taken: Arc::clone(&taken) }));
    let mut received = 0;
    while received < 20_000 {
        assert!(poll_once(&mut call).await.is_pending());
        received += peer.expect(&[DATA]).await.payload.len();
    }
    settle().await;
    assert!(poll_once(&mut call).await.is_pending());
    assert!(taken.load(Ordering::Relaxed) <= 3 * CHUNK, "{taken:?} taken for a window of 20,000");
    peer.send(WINDOW_UPDATE, 0, 1, &100_000_u32.to_be_bytes()).await;
    while received < 65_535 {
        settle().await;
        assert!(poll_once(&mut call).await.is_pending());
        received += peer.expect(&[DATA]).await.payload.len();
    }
    peer.send(WINDOW_UPDATE, 0, 0, &100_000_u32.to_be_bytes()).await;
    while received < 5 * CHUNK {
        settle().await;
        assert!(poll_once(&mut call).await.is_pending());
        received += peer.expect(&[DATA]).await.payload.len();
    }
    peer.answer(1).await;
    call.await.unwrap();
}

#[tokio::test]
async fn a_lowered_window_holds_for_streams_that_are_open() {
    let (connection, mut peer) = Peer::connect(&[(INITIAL_WINDOW_SIZE, 20_000)], Config::default()).await;
    let (feed, body) = fed();
    let mut call = send(&connection, request(body));
    assert!(poll_once(&mut call).await.is_pending());
    peer.expect(&[HEADERS]).await;
    peer.settings(&[(INITIAL_WINDOW_SIZE, 1_000)]).await;
    settle().await;
    feed.send(data(vec![7; 5_000])).unwrap();
    feed.send(data("end")).unwrap();
    drop(feed);
    assert!(poll_once(&mut call).await.is_pending());
    assert_eq!(peer.expect(&[DATA, RST_STREAM]).await.payload.len(), 1_000);
    peer.send(WINDOW_UPDATE, 0, 1, &9_000_u32.to_be_bytes()).await;
    let mut received = 1_000;
    while received < 5_003 {
        settle().await;
        assert!(poll_once(&mut call).await.is_pending());
        received += peer.expect(&[DATA]).await.payload.len();
    }
    peer.answer(1).await;
    call.await.unwrap();
}

/// `h2`'s server ends a connection with too many small frames that nobody has read yet.
#[tokio::test]
async fn many_small_messages_do_not_cost_the_connection() {
    let connection = connected(|request, mut respond| async move {
        let mut body = request.into_body();
        let mut length = 0;
        while let Some(data) = body.data().await {
            let data = data.unwrap();
            length += data.len();
            body.flow_control().release_capacity(data.len()).unwrap();
            tokio::task::yield_now().await;
        }
        let response = Response::builder().header("length", length).body(()).unwrap();
        respond.send_response(response, true).unwrap();
    })
    .await;
    for separate in [false, true] {
        let (feed, body) = fed();
        tokio::spawn(async move {
            for _ in 0..3_000 {
                feed.send(data(&[7; 16][..])).unwrap();
                if separate {
                    tokio::task::yield_now().await;
                }
            }
        });
        let response = send(&connection, request(body)).await.unwrap();
        assert_eq!(response.headers()["length"], "48000");
    }
}

#[tokio::test]
async fn a_small_message_waits_for_no_other() {
    let (connection, mut peer) = Peer::connect(&[], Config::default()).await;
    let (feed, body) = fed();
    let call = tokio::spawn(send(&connection, request(body)));
    for message in ["one", "two", "three"] {
        feed.send(data(message)).unwrap();
        assert_eq!(peer.expect(&[DATA]).await.payload, message.as_bytes());
    }
    // Those that are there at once go out together.
    for message in ["1", "2", "3"] {
        feed.send(data(message)).unwrap();
    }
    assert_eq!(peer.expect(&[DATA]).await.payload, b"123");
    call.abort();
}

/// The connection's task runs for what it reads too: a message that waits for a write must outlast that.
#[tokio::test(start_paused = true)]
async fn a_small_message_leaves_when_a_full_socket_takes_more() {
    let (near, far) = duplex(4096);
    let mut peer = Peer(far);
    peer.settings(&[(INITIAL_WINDOW_SIZE, 1_000_000)]).await;
    let connection = handshake(near, &Config::default(), &Handle::current()).await.unwrap();
    peer.0.read_exact(&mut [0; 24]).await.unwrap();
    let filling = tokio::spawn(send(&connection, full(vec![1; 5_000])));
    settle().await;
    let (feed, body) = fed();
    feed.send(data("a")).unwrap();
    feed.send(data("b")).unwrap();
    let small = tokio::spawn(send(&connection, request(body)));
    settle().await;
    for _ in 0..3 {
        peer.send(PING, 0, 0, &[0; 8]).await;
        settle().await;
    }
    let mut got = Vec::new();
    while let Ok(Some(frame)) = timeout(Duration::from_secs(1), peer.next()).await {
        if frame.kind == DATA && frame.stream == 3 {
            got.extend_from_slice(&frame.payload);
        }
    }
    assert_eq!(got, b"ab");
    drop((filling, small, feed));
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_ends_while_it_waits_for_the_socket_leaves_nothing_behind() {
    let (near, far) = duplex(4096);
    let mut peer = Peer(far);
    peer.settings(&[(INITIAL_WINDOW_SIZE, 1_000_000)]).await;
    let connection = handshake(near, &Config::default(), &Handle::current()).await.unwrap();
    peer.0.read_exact(&mut [0; 24]).await.unwrap();
    let filling = tokio::spawn(send(&connection, full(vec![1; 5_000])));
    settle().await;
    let (feed, body) = fed();
    feed.send(data("a")).unwrap();
    feed.send(data("b")).unwrap();
    let slot = connection.try_acquire().unwrap();
    let shared = Arc::clone(&slot.connection().shared);
    let small = tokio::spawn(slot.send(request(body)));
    settle().await;
    assert_eq!(shared.waiting_uploads(), 1);
    small.abort();
    settle().await;
    assert_eq!(shared.waiting_uploads(), 0);
    drop((filling, feed));
}

/// Sends as much as the path's number says, as the windows allow.
async fn download(request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
    let mut left: usize = request.uri().path().trim_start_matches('/').parse().unwrap();
    let mut out = respond.send_response(Response::new(()), false).unwrap();
    while left > 0 {
        out.reserve_capacity(left);
        let Some(Ok(room)) = poll_fn(|cx| out.poll_capacity(cx)).await else { return };
        let size = room.min(left);
        left -= size;
        out.send_data(vec![0; size].into(), left == 0).unwrap();
    }
}

fn get(length: usize) -> Outgoing<Full<Bytes>> {
    Outgoing::from(Request::get(format!("http://files/{length}")).body(Full::default()).unwrap())
}

#[tokio::test]
async fn a_download_larger_than_all_windows_arrives() {
    let config = Config { stream_window: 64 << 10, ..Config::default() };
    let connection = connected_to(&server::Builder::new(), config, download).await;
    let body = collect(send(&connection, get(8 << 20)).await.unwrap()).await.unwrap();
    assert_eq!(body.to_bytes().len(), 8 << 20);
}

#[tokio::test]
async fn stalled_readers_do_not_delay_the_calls_beside_them() {
    let connection = connected(download).await;
    let mut stalled = Vec::new();
    for _ in 0..20 {
        stalled.push(send(&connection, get(8 << 20)).await.unwrap());
    }
    settle().await;
    let beside = collect(send(&connection, get(100_000)).await.unwrap()).await.unwrap();
    assert_eq!(beside.to_bytes().len(), 100_000);
    let late = collect(stalled.pop().unwrap()).await.unwrap();
    assert_eq!(late.to_bytes().len(), 8 << 20);
}

/// Carries bytes to and fro, each on its way for 50 ms.
fn distant(near: DuplexStream) -> DuplexStream {
    let (far, end) = duplex(64 << 20);
    let (near_read, near_write) = tokio::io::split(near);
    let (far_read, far_write) = tokio::io::split(far);
    tokio::spawn(carry(near_read, far_write));
    tokio::spawn(carry(far_read, near_write));
    end
}

async fn carry(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin + std::marker::Send + 'static) {
    let (sender, mut under_way) = mpsc::unbounded_channel::<(Instant, Vec<u8>)>();
    tokio::spawn(async move {
        while let Some((due, bytes)) = under_way.recv().await {
            sleep_until(due).await;
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
    });
    let mut buffer = vec![0; 1 << 20];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        sender.send((Instant::now() + Duration::from_millis(50), buffer[..length].to_vec())).unwrap();
    }
}

async fn download_time(config: Config) -> Duration {
    let (near, far) = duplex(64 << 20);
    tokio::spawn(serve(server::Builder::new(), distant(far), download));
    let connection = handshake(near, &config, &Handle::current()).await.unwrap();
    let before = Instant::now();
    let mut body = send(&connection, get(16 << 20)).await.unwrap().into_body();
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        length += frame.unwrap().into_data().unwrap().len();
    }
    assert_eq!(length, 16 << 20);
    before.elapsed()
}

#[tokio::test(start_paused = true)]
async fn the_window_grows_to_what_a_distant_peer_can_send() {
    let fixed = download_time(Config { max_stream_window: 0, ..Config::default() }).await;
    let adaptive = download_time(Config { max_stream_window: 8 << 20, ..Config::default() }).await;
    assert!(fixed > Duration::from_secs(6), "{fixed:?}");
    assert!(adaptive < Duration::from_millis(1_500), "{adaptive:?}");
}
