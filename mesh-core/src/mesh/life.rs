//! What the background tasks of a mesh run on, and what ends them.

#[cfg(feature = "dns")]
use std::time::Duration;

use tokio::runtime::Handle;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

#[cfg(feature = "dns")]
use crate::discover::Names;
use crate::error::{Error, ErrorKind};

/// How long a mesh lasts: whatever runs for it is over soon after this is dropped.
pub(super) struct Life {
    pub(super) runtime: Handle,
    pub(super) tasks: TaskTracker,
    /// No target takes a call any more.
    pub(super) closed: CancellationToken,
    /// Every task and connection ends.
    pub(super) cancel: CancellationToken,
    _close_on_drop: DropGuard,
    _cancel_on_drop: DropGuard,
}

impl Life {
    /// Begins on the runtime of the caller.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub(super) fn begin() -> Result<Self, Error> {
        let runtime = Handle::try_current()
            .map_err(|error| Error::new(ErrorKind::Setup, "build a mesh outside a tokio runtime").with_source(error))?;
        let (closed, cancel) = (CancellationToken::new(), CancellationToken::new());
        let (_close_on_drop, _cancel_on_drop) = (closed.clone().drop_guard(), cancel.clone().drop_guard());
        Ok(Self { runtime, tasks: TaskTracker::new(), closed, cancel, _close_on_drop, _cancel_on_drop })
    }

    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.spawn_on(task, &self.runtime);
    }

    /// Runs a task that does not end by itself.
    pub(super) fn spawn_endless(&self, task: impl Future<Output = ()> + Send + 'static) {
        let task = self.cancel.clone().run_until_cancelled_owned(task);
        self.tasks.spawn_on(task, &self.runtime);
    }

    /// Names whose addresses are looked up again at least this often.
    #[cfg(feature = "dns")]
    pub(super) fn names(&self, interval: Duration) -> Names {
        Names::new(self.runtime.clone(), self.tasks.clone(), self.cancel.clone(), interval)
    }
}
