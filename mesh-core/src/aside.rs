//! Work that may block, such as reading files and writing to a pipe, in a thread of its own.

use std::io::Write;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock, mpsc};
use std::time::Duration;
use std::{fmt, io, thread};

use parking_lot::Mutex;
use tokio::sync::oneshot::error::TryRecvError;
use tokio::sync::{Notify, oneshot};
use tokio::time::timeout;

/// The most bytes of lines that wait to be written.
const MOST_WAITING: usize = 1024 * 1024;

/// Work that takes so long is told of: a file system that does not answer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// Does work in a thread whose end nobody waits for. A runtime that is dropped waits for the blocking tasks it has begun,
/// and a file on a server that is gone may never be read: the process could not end.
///
/// # Errors
///
/// There can be no other thread, or the work panicked.
pub(crate) async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    ended(&mut begin(work)?).await
}

/// As [`aside`], for those who wait for no longer than [`PATIENCE`].
///
/// # Errors
///
/// Those of [`aside`], and that it takes longer.
pub(crate) async fn aside_in_time<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    let in_time = timeout(PATIENCE, aside(work)).await;
    in_time.unwrap_or_else(|_| Err(io::Error::new(io::ErrorKind::TimedOut, format!("not within {PATIENCE:?}"))))
}

/// What work comes to; `tell` is called whenever another [`PATIENCE`] of it is over.
pub(crate) async fn patiently<T>(work: impl Future<Output = T>, mut tell: impl FnMut()) -> T {
    let mut work = pin!(work);
    loop {
        match timeout(PATIENCE, &mut work).await {
            Ok(outcome) => return outcome,
            Err(_) => tell(),
        }
    }
}

/// Work that is done [`aside`] again and again, for those who do not wait for ever: what they gave up waiting for stays under way,
/// the one thing of its kind, and whoever comes next waits for that. A thread that hangs is not joined by another at each try.
pub(crate) struct Ongoing<T>(tokio::sync::Mutex<Option<oneshot::Receiver<T>>>);

impl<T: Send + 'static> Ongoing<T> {
    /// What the work that is under way comes to; `work` is begun if none is. May be dropped while it waits.
    ///
    /// # Errors
    ///
    /// Those of [`aside`].
    pub(crate) async fn run(&self, work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
        let mut under_way = self.0.lock().await;
        // What ended while nobody waited is of that time, and not of now.
        if under_way.as_mut().is_some_and(|told| !matches!(told.try_recv(), Err(TryRecvError::Empty))) {
            *under_way = None;
        }
        let told = match &mut *under_way {
            Some(told) => told,
            none => none.insert(begin(work)?),
        };
        let outcome = ended(told).await;
        *under_way = None;
        outcome
    }
}

fn begin<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<oneshot::Receiver<T>> {
    let (tell, told) = oneshot::channel();
    thread::Builder::new().name("mesh-aside".to_owned()).spawn(move || _ = tell.send(work()))?;
    Ok(told)
}

async fn ended<T>(told: &mut oneshot::Receiver<T>) -> io::Result<T> {
    told.await.map_err(|_| io::Error::other("the thread that should have done it panicked"))
}

impl<T> Default for Ongoing<T> {
    fn default() -> Self {
        Self(tokio::sync::Mutex::default())
    }
}

impl<T> fmt::Debug for Ongoing<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ongoing").finish_non_exhaustive()
    }
}

/// Lines for an output that may block, as a pipe that nobody reads does: a thread that nobody waits for writes them in their
/// order, and whoever has one never waits. What does not fit beside the 1 MiB that waits is lost, and counted.
pub(crate) struct Lines<W> {
    /// Until the thread has it.
    output: Mutex<Option<W>>,
    queue: OnceLock<mpsc::Sender<String>>,
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    /// Bytes that are not written yet.
    waiting: AtomicUsize,
    lost: AtomicU64,
    /// Told whenever nothing waits any more.
    written: Notify,
}

impl<W: Write + Send + 'static> Lines<W> {
    /// The thread begins with the first line, and ends after the last, when the value is dropped.
    pub(crate) fn to(output: W) -> Self {
        Self { output: Mutex::new(Some(output)), queue: OnceLock::new(), counts: Arc::default() }
    }

    /// Has the line written, which ends with its line feed, or counts it as lost.
    pub(crate) fn push(&self, line: String) {
        let (counts, bytes) = (&self.counts, line.len());
        let fits = counts.waiting.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes) <= MOST_WAITING;
        if !fits || self.queue().send(line).is_err() {
            counts.lost.fetch_add(1, Ordering::Relaxed);
            counts.done(bytes);
        }
    }

    /// Lines that were not written: there was no room for them, or the output is closed.
    pub(crate) fn lost(&self) -> u64 {
        self.counts.lost.load(Ordering::Relaxed)
    }

    /// Resolves when everything is written. The caller bounds the time.
    pub(crate) async fn written(&self) {
        loop {
            let written = self.counts.written.notified();
            if self.counts.waiting.load(Ordering::Acquire) == 0 {
                return;
            }
            written.await;
        }
    }

    fn queue(&self) -> &mpsc::Sender<String> {
        self.queue.get_or_init(|| {
            let (queue, lines) = mpsc::channel();
            if let Some(mut output) = self.output.lock().take() {
                let counts = self.counts.clone();
                let say = |lost| {
                    tracing::warn!(lost, "lines were lost: their output is closed, or was not read fast enough");
                };
                let writer = move || write(&mut output, &lines, &counts, say);
                // Without a thread nothing receives, and what is sent counts as lost.
                let _ = thread::Builder::new().name("mesh-lines".to_owned()).spawn(writer);
            }
            queue
        })
    }
}

fn write(output: &mut impl Write, lines: &mpsc::Receiver<String>, counts: &Counts, say: impl Fn(u64)) {
    let mut next_told = 1;
    for line in lines {
        if output.write_all(line.as_bytes()).and_then(|()| output.flush()).is_err() {
            counts.lost.fetch_add(1, Ordering::Relaxed);
        }
        counts.done(line.len());
        // Here, as whoever has a line must not wait for what writes logs either; and not for each line, of which there may be
        // one a call.
        let lost = counts.lost.load(Ordering::Relaxed);
        if lost >= next_told {
            say(lost);
            next_told = lost.saturating_mul(2);
        }
    }
}

impl Counts {
    fn done(&self, bytes: usize) {
        if self.waiting.fetch_sub(bytes, Ordering::Release) == bytes {
            self.written.notify_waiters();
        }
    }
}

impl<W> fmt::Debug for Lines<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lines").field("counts", &self.counts).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use tokio::runtime::Builder;

    use super::*;

    #[test]
    fn a_runtime_ends_while_the_work_still_blocks() {
        let (begin, begun) = mpsc::channel();
        let (release, released) = mpsc::channel::<()>();
        let (end, ended) = mpsc::channel();
        let runtime = Builder::new_current_thread().build().unwrap();
        runtime.spawn(aside(move || {
            begin.send(()).unwrap();
            released.recv()
        }));
        runtime.block_on(tokio::task::yield_now());
        begun.recv_timeout(PATIENCE).unwrap();
        thread::spawn(move || {
            drop(runtime);
            end.send(()).unwrap();
        });
        ended.recv_timeout(PATIENCE).expect("the runtime does not wait for the work");
        release.send(()).expect("the work is still under way");
    }

    #[tokio::test]
    async fn what_the_work_comes_to_is_returned() {
        assert_eq!(aside(|| 7).await.unwrap(), 7);
    }

    #[tokio::test(start_paused = true)]
    async fn work_that_hangs_is_not_waited_for_any_longer() {
        let (release, released) = mpsc::channel::<()>();
        let begun = tokio::time::Instant::now();
        let error = aside_in_time(move || released.recv()).await.unwrap_err();
        assert_eq!((error.kind(), begun.elapsed()), (io::ErrorKind::TimedOut, PATIENCE));
        release.send(()).expect("the work is still under way");
    }

    #[tokio::test]
    async fn work_that_is_given_up_is_not_begun_again_while_it_is_under_way() {
        let (begin, begun) = mpsc::channel();
        let (release, released) = mpsc::channel::<u64>();
        let released = Arc::new(Mutex::new(released));
        let work = |number: u64| {
            let (begin, released) = (begin.clone(), released.clone());
            move || {
                begin.send(number).unwrap();
                released.lock().recv().unwrap()
            }
        };
        let ongoing = Ongoing::default();
        for number in 0..10 {
            let given_up = timeout(Duration::from_millis(1), ongoing.run(work(number))).await;
            assert!(given_up.is_err(), "it hangs");
        }
        let mut last = pin!(ongoing.run(work(10)));
        // It asks before the end of what was begun, whose outcome is thus of now.
        assert!(timeout(Duration::from_millis(1), &mut last).await.is_err(), "it hangs");
        release.send(7).unwrap();
        let ended = timeout(PATIENCE, last).await.expect("what was begun ends");
        assert_eq!(ended.unwrap(), 7);
        assert_eq!(begun.try_iter().collect::<Vec<_>>(), [0], "one thread for eleven who asked");

        // Of what ended in the meantime nothing is taken for news.
        assert!(timeout(Duration::from_millis(1), ongoing.run(work(11))).await.is_err());
        release.send(8).unwrap();
        let has_ended = async {
            while ongoing.0.lock().await.as_mut().is_none_or(|told| told.is_empty()) {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, has_ended).await.expect("it ends");
        release.send(9).unwrap();
        let ended = timeout(PATIENCE, ongoing.run(work(12))).await.expect("it is begun anew");
        assert_eq!(ended.unwrap(), 9);
        assert_eq!(begun.try_iter().collect::<Vec<_>>(), [11, 12]);
    }

    #[tokio::test]
    async fn who_asks_for_work_that_panics_hears_of_it_and_the_next_begins_anew() {
        let ongoing = Ongoing::default();
        assert!(ongoing.run(|| panic!("on purpose")).await.is_err());
        assert_eq!(ongoing.run(|| 7).await.unwrap(), 7);
    }

    #[tokio::test(start_paused = true)]
    async fn work_that_takes_long_is_told_of_again_and_again() {
        let mut told = 0;
        let work = tokio::time::sleep(3 * PATIENCE + Duration::from_secs(1));
        patiently(work, || told += 1).await;
        assert_eq!(told, 3);
        patiently(tokio::time::sleep(PATIENCE / 2), || told += 1).await;
        assert_eq!(told, 3);
    }

    /// An output that takes a line for each turn it is given, and hands on what it took.
    struct Gate {
        turns: mpsc::Receiver<()>,
        taken: mpsc::Sender<Vec<u8>>,
    }

    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.turns.recv().map_err(io::Error::other)?;
            self.taken.send(bytes.to_vec()).map_err(io::Error::other)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn gate() -> (Gate, mpsc::Sender<()>, mpsc::Receiver<Vec<u8>>) {
        let ((turn, turns), (taken, took)) = (mpsc::channel(), mpsc::channel());
        (Gate { turns, taken }, turn, took)
    }

    #[tokio::test]
    async fn lines_are_written_in_order_and_who_has_them_never_waits_for_an_output_that_blocks() {
        let (gate, turn, took) = gate();
        let lines = Lines::to(gate);
        let line = |number: usize| format!("{number:<9}{}\n", " ".repeat(MOST_WAITING / 10 - 10));
        // Of which nothing is written yet.
        (0..25).for_each(|number| lines.push(line(number)));
        assert_eq!(lines.lost(), 15, "all but the 1 MiB that waits");
        (0..10).for_each(|_| turn.send(()).unwrap());
        tokio::time::timeout(PATIENCE, lines.written()).await.expect("the output takes what waits");
        lines.push(line(25));
        turn.send(()).unwrap();
        tokio::time::timeout(PATIENCE, lines.written()).await.expect("there is room again");
        let numbers: Vec<usize> =
            took.try_iter().map(|line| String::from_utf8(line).unwrap().trim().parse().unwrap()).collect();
        assert_eq!(numbers, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 25]);
        // What is left is written though nobody has the value any more.
        lines.push("last\n".to_owned());
        drop(lines);
        turn.send(()).unwrap();
        assert_eq!(took.recv_timeout(PATIENCE).unwrap(), b"last\n");
        assert!(took.recv_timeout(PATIENCE).is_err(), "and then the thread ends");
    }

    #[tokio::test]
    async fn lines_that_a_closed_output_does_not_take_are_counted() {
        let (gate, turn, _took) = gate();
        drop(turn);
        let lines = Lines::to(gate);
        (0..3).for_each(|_| lines.push("line\n".to_owned()));
        tokio::time::timeout(PATIENCE, lines.written()).await.expect("nothing waits for what is closed");
        assert_eq!(lines.lost(), 3);
    }

    #[test]
    fn lost_lines_are_told_of_again_when_they_are_twice_as_many() {
        let (mut gate, turn, _took) = gate();
        drop(turn);
        let (queue, lines) = mpsc::channel();
        (0..100).for_each(|_| queue.send("line\n".to_owned()).unwrap());
        drop(queue);
        let told = std::cell::RefCell::new(Vec::new());
        write(&mut gate, &lines, &Counts::default(), |lost| told.borrow_mut().push(lost));
        assert_eq!(*told.borrow(), [1, 2, 4, 8, 16, 32, 64]);
    }
}
