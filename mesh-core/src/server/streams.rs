//! The tasks that hyper runs the streams of calls in. One whose call is denied ends, also if its caller takes nothing of the
//! answer: hyper asks an answer for no more while there is no window to send it in, and so would never hear that it is over.

use std::cell::Cell;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::rt::Executor;
use tokio::time::timeout;

use super::open::OpenCall;

/// How long a caller may take to read what comes before the end. Then its stream is reset (CANCEL).
const FAREWELL: Duration = Duration::from_secs(1);

thread_local! {
    /// The call that hyper hears of: it has a task made of it right behind that, in this thread.
    static BEGUN: Cell<Option<Arc<OpenCall>>> = const { Cell::new(None) };
}

/// Says whose stream hyper runs next.
pub(super) fn begin(call: Option<&Arc<OpenCall>>) {
    BEGUN.set(call.cloned());
}

/// Runs streams.
#[derive(Clone, Debug)]
pub(super) struct Streams {
    pub(super) end_when_denied: bool,
}

impl<F> Executor<F> for Streams
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, stream: F) {
        match self.end_when_denied.then(|| BEGUN.take()).flatten() {
            Some(call) => drop(tokio::spawn(run(stream, call))),
            None => drop(tokio::spawn(stream)),
        }
    }
}

/// A stream that is dropped before its end is reset by h2, which forgets what it has yet to write of it.
async fn run(stream: impl Future<Output = ()>, call: Arc<OpenCall>) {
    let mut stream = pin!(stream);
    tokio::select! {
        biased;
        () = stream.as_mut() => return,
        () = call.denied() => {}
    }
    // Not in time, or by itself: it is over.
    let _ = timeout(FAREWELL, stream).await;
}
