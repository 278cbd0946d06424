//! Work that may block, such as reading files, in a thread of its own.

use std::{io, thread};

use tokio::sync::oneshot;

/// Does work in a thread whose end nobody waits for. A runtime that is dropped waits for the blocking tasks it has begun,
/// and a file on a server that is gone may never be read: the process could not end.
///
/// # Errors
///
/// There can be no other thread, or the work panicked.
pub(crate) async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
    let (tell, told) = oneshot::channel();
    thread::Builder::new().name("mesh-aside".to_owned()).spawn(move || _ = tell.send(work()))?;
    told.await.map_err(|_| io::Error::other("the thread that should have done it panicked"))
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use tokio::runtime::Builder;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

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
}
