//! What is logged.

use std::io;
use std::sync::{Arc, LazyLock};

use parking_lot::Mutex;
use tracing::subscriber::DefaultGuard;
use tracing::{Dispatch, Level};
use tracing_subscriber::util::SubscriberInitExt as _;

/// What is logged on this thread while it lives.
pub(crate) struct Log {
    text: Text,
    _logging: DefaultGuard,
}

#[derive(Clone, Default)]
struct Text(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// Warnings and errors.
    pub(crate) fn of_warnings() -> Self {
        Self::from(Level::WARN)
    }

    /// Whatever anybody logs, libraries too.
    pub(crate) fn of_everything() -> Self {
        Self::from(Level::TRACE)
    }

    fn from(level: Level) -> Self {
        // With one subscriber in the process, an event that a thread without one comes upon first is off for all of them.
        static ANOTHER: LazyLock<Dispatch> = LazyLock::new(|| Dispatch::new(tracing_subscriber::registry()));
        LazyLock::force(&ANOTHER);
        let text = Text::default();
        let writer = text.clone();
        let logging = tracing_subscriber::fmt().with_max_level(level).with_ansi(false);
        let logging = logging.with_writer(move || writer.clone()).finish();
        // Records of the crate `log`, by which rustls writes, are part of it.
        Self { text, _logging: logging.set_default() }
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.text.0.lock()).into_owned()
    }

    pub(crate) fn lines_with(&self, part: &str) -> usize {
        self.text().lines().filter(|line| line.contains(part)).count()
    }
}

impl io::Write for Text {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
