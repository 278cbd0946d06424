//! What is logged.

use std::io;
use std::sync::Arc;

use parking_lot::Mutex;
use tracing::subscriber::DefaultGuard;

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
        let text = Text::default();
        let writer = text.clone();
        let logging =
            tracing_subscriber::fmt().with_max_level(tracing::Level::WARN).with_writer(move || writer.clone());
        Self { text, _logging: tracing::subscriber::set_default(logging.finish()) }
    }

    pub(crate) fn lines_with(&self, part: &str) -> usize {
        String::from_utf8_lossy(&self.text.0.lock()).lines().filter(|line| line.contains(part)).count()
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
