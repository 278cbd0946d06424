//! Loom's atomics, and stand-ins made with loom of what it does not have.

pub(crate) use loom::sync::atomic;

use std::sync::Arc;

use loom::sync::Mutex;

/// As `arc_swap`'s, by a lock.
pub(crate) struct ArcSwapOption<T>(Mutex<Option<Arc<T>>>);

impl<T> ArcSwapOption<T> {
    pub(crate) fn empty() -> Self {
        Self(Mutex::new(None))
    }

    pub(crate) fn load_full(&self) -> Option<Arc<T>> {
        self.0.lock().expect("no model panics under it").clone()
    }

    pub(crate) fn store(&self, value: Option<Arc<T>>) {
        *self.0.lock().expect("no model panics under it") = value;
    }
}

/// As tokio's channel of the latest value, of numbers that only grow.
pub(crate) mod watch {
    use std::convert::Infallible;
    use std::future::poll_fn;
    use std::marker::PhantomData;
    use std::sync::Arc;
    use std::task::{Poll, Waker};

    use loom::sync::Mutex;

    pub(crate) struct Sender<T> {
        state: Arc<Mutex<State>>,
        value: PhantomData<T>,
    }

    #[derive(Default)]
    struct State {
        version: u64,
        waiting: Vec<Waker>,
    }

    pub(crate) struct Receiver {
        state: Arc<Mutex<State>>,
        seen: u64,
    }

    impl Sender<u64> {
        pub(crate) fn new(_: u64) -> Self {
            Self { state: Arc::default(), value: PhantomData }
        }

        pub(crate) fn subscribe(&self) -> Receiver {
            let seen = self.state.lock().expect("no model panics under it").version;
            Receiver { state: self.state.clone(), seen }
        }

        pub(crate) fn send_modify(&self, modify: impl FnOnce(&mut u64)) {
            let mut state = self.state.lock().expect("no model panics under it");
            modify(&mut state.version);
            let waiting = std::mem::take(&mut state.waiting);
            drop(state);
            waiting.into_iter().for_each(Waker::wake);
        }
    }

    impl Receiver {
        pub(crate) fn mark_unchanged(&mut self) {
            self.seen = self.state.lock().expect("no model panics under it").version;
        }

        pub(crate) async fn changed(&mut self) -> Result<(), Infallible> {
            poll_fn(|context| {
                let mut state = self.state.lock().expect("no model panics under it");
                if state.version == self.seen {
                    state.waiting.push(context.waker().clone());
                    return Poll::Pending;
                }
                self.seen = state.version;
                Poll::Ready(())
            })
            .await;
            Ok(())
        }
    }
}
