//! Keys of issuers of tokens: fixed, or from a file that is read again and again.

use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};

use crate::aside::{PATIENCE, aside, patiently};
use crate::error::{BoxError, Error};
use crate::files;
use crate::resource::jwt::keys::{Keys, KeysInForce};

const REFRESH_INTERVAL: Duration = Duration::from_secs(10);
const LEAST_INTERVAL: Duration = Duration::from_millis(1);
const UNUSABLE: &str = "a file of keys cannot be used: those that were in it are used on";

/// The public keys of an issuer of tokens, as a JSON Web Key Set (RFC 7517). Clones share them.
///
/// RSA of 2048 to 8192 bits, P-256, P-384, P-521 (with `aws-lc`) and Ed25519; keys of other kinds, or for something else than
/// signatures, are passed over.
#[derive(Clone, Debug)]
pub struct JwkSet {
    keys: KeysInForce,
    file: Option<Arc<KeyFile>>,
}

impl JwkSet {
    /// The keys of this text.
    ///
    /// # Errors
    ///
    /// When it is no set, or has no key that is supported.
    pub fn parse(set: impl AsRef<[u8]>) -> Result<Self, Error> {
        let keys =
            usable(Keys::read(set.as_ref())).map_err(|why| Error::setup("use a JSON Web Key Set").with_source(why))?;
        Ok(Self { keys: keys.into(), file: None })
    }

    /// The keys in this file: read now, which blocks for a moment, and every 10 s from then on, so that who is not in it any
    /// more is not believed any more: of a set without keys, nobody. A file that is bad, or gone, is told of in the log, and leaves the
    /// keys before it in use.
    ///
    /// # Errors
    ///
    /// When it cannot be read, or is bad.
    pub fn file(path: impl Into<PathBuf>) -> Result<Self, Error> {
        let path = path.into();
        let content = files::read(&path).and_then(|content| usable(Keys::read(&content)));
        let what = || format!("read the JSON Web Key Set {}", path.display());
        let keys = KeysInForce::from(content.map_err(|why| Error::setup(what()).with_source(why))?);
        let state = State { interval: REFRESH_INTERVAL, read_at: Instant::now(), problem: None, reader: None };
        let file = KeyFile { path, keys: keys.clone(), state: Mutex::new(state) };
        Ok(Self { keys, file: Some(Arc::new(file)) })
    }

    /// How often the file is read. Default: 10 s.
    pub fn refresh_interval(self, interval: Duration) -> Self {
        if let Some(file) = &self.file {
            file.state.lock().interval = interval.max(LEAST_INTERVAL);
        }
        self
    }

    pub(super) fn in_force(&self) -> &KeysInForce {
        &self.keys
    }

    /// Has the file read from now on, if nothing does so: there may have been no runtime for it before, or it has ended.
    pub(super) fn keep_fresh(&self) {
        let Some(file) = &self.file else { return };
        let mut state = file.state.lock();
        if state.reader.as_ref().is_none_or(AbortHandle::is_finished)
            && let Ok(runtime) = Handle::try_current()
        {
            state.reader = Some(runtime.spawn(follow(Arc::downgrade(file))).abort_handle());
        }
    }
}

/// A file of keys.
#[derive(Debug)]
struct KeyFile {
    path: PathBuf,
    keys: KeysInForce,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    interval: Duration,
    read_at: Instant,
    /// What was wrong with the file when it was last read.
    problem: Option<String>,
    /// Reads the file while anybody uses its keys.
    reader: Option<AbortHandle>,
}

async fn follow(file: Weak<KeyFile>) {
    while let Some((due, path)) = file.upgrade().map(|file| (file.due(), file.path.clone())) {
        sleep_until(due).await;
        let shown = path.display().to_string();
        let slow = || {
            // Nobody uses its keys any more.
            if file.strong_count() == 0 {
                return;
            }
            let why = format!("it could not be read within {PATIENCE:?}, and is waited for");
            tracing::warn!(path = shown, why, "{UNUSABLE}");
        };
        let reading = aside(move || files::read(&path).and_then(|content| usable(Keys::read_again(&content))));
        let content = patiently(reading, slow).await;
        let Some(file) = file.upgrade() else { return };
        file.take(content.unwrap_or_else(|error| Err(error.into())));
    }
}

impl KeyFile {
    fn due(&self) -> Instant {
        let state = self.state.lock();
        state
            .read_at
            .checked_add(state.interval)
            .unwrap_or_else(|| state.read_at + Duration::from_secs(u32::MAX.into()))
    }

    fn take(&self, keys: Result<Keys, BoxError>) {
        let mut state = self.state.lock();
        state.read_at = Instant::now();
        let problem = keys.map(|keys| self.keys.replace(keys)).err().map(|problem| problem.to_string());
        let news = problem.clone().filter(|_| state.problem != problem);
        state.problem = problem;
        // Every call needs the state, and whoever writes logs may block.
        drop(state);
        if let Some(why) = news {
            let path = self.path.display();
            tracing::warn!(%path, why, "{UNUSABLE}");
        }
    }
}

fn usable(read: Result<(Keys, usize), String>) -> Result<Keys, BoxError> {
    let (keys, others) = read.map_err(|problem| format!("it {problem}"))?;
    if others > 0 {
        tracing::debug!(others, "some keys of a set are not supported, or not for signatures");
    }
    Ok(keys)
}
