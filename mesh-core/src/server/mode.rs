//! Whether a server serves (A36), for the application to hear of.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;

use super::listener::Setup;

/// Whether a server serves.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ServingMode {
    /// It takes connections.
    Serving,
    /// It closes connections without a byte, and lets calls end that it has; why, and what to do.
    NotServing(Arc<str>),
    /// It takes no connections any more, and ends with its last call.
    ShuttingDown,
}

impl fmt::Display for ServingMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Serving => f.write_str("serving"),
            Self::NotServing(why) => write!(f, "not serving: {why}"),
            Self::ShuttingDown => f.write_str("shutting down"),
        }
    }
}

/// Hears of each change of the mode.
pub(crate) type OnServingMode = Arc<dyn Fn(&ServingMode) + Send + Sync>;

/// The mode of a server, with what connections are accepted under.
#[derive(Debug)]
pub(crate) struct Gate(ArcSwap<(ServingMode, Option<Arc<Setup>>)>);

impl Default for Gate {
    fn default() -> Self {
        Self(ArcSwap::from_pointee((ServingMode::NotServing("it does not run yet".into()), None)))
    }
}

impl Gate {
    pub(crate) fn mode(&self) -> ServingMode {
        self.0.load().0.clone()
    }

    pub(super) fn setup(&self) -> Option<Arc<Setup>> {
        self.0.load().1.clone()
    }

    pub(super) fn set(&self, mode: ServingMode, setup: Option<Arc<Setup>>) {
        self.0.store(Arc::new((mode, setup)));
    }
}
