//! Whether a server serves (A36), for the application to hear of.

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
#[cfg(feature = "tls")]
use arc_swap::ArcSwapOption;
use tokio::sync::watch;

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
pub(crate) struct Gate {
    now: ArcSwap<(ServingMode, Option<Arc<Setup>>)>,
    /// What is asked for, though no connection may be taken by it yet.
    #[cfg(feature = "tls")]
    asked: ArcSwapOption<Setup>,
    news: watch::Sender<()>,
}

impl Default for Gate {
    fn default() -> Self {
        let mode = ServingMode::NotServing("it does not run yet".into());
        Self {
            now: ArcSwap::from_pointee((mode, None)),
            #[cfg(feature = "tls")]
            asked: ArcSwapOption::empty(),
            news: watch::Sender::new(()),
        }
    }
}

impl Gate {
    pub(crate) fn mode(&self) -> ServingMode {
        self.now.load().0.clone()
    }

    pub(super) fn setup(&self) -> Option<Arc<Setup>> {
        self.now.load().1.clone()
    }

    /// What is asked for, also while nothing can be served by it.
    #[cfg(feature = "tls")]
    pub(super) fn asked(&self) -> Option<Arc<Setup>> {
        self.asked.load_full()
    }

    /// Hears whenever it is set, even if to the same, and once at first.
    #[cfg(feature = "tls")]
    pub(super) fn news(&self) -> watch::Receiver<()> {
        let mut news = self.news.subscribe();
        news.mark_changed();
        news
    }

    pub(super) fn set(&self, mode: ServingMode, setup: Option<Arc<Setup>>) {
        #[cfg(feature = "tls")]
        self.asked.store(setup.clone());
        self.now.store(Arc::new((mode, setup)));
        self.news.send_replace(());
    }

    /// Takes no connection, as what is asked for cannot be done.
    pub(super) fn refuse(&self, mode: ServingMode, asked: Arc<Setup>) {
        #[cfg(feature = "tls")]
        self.asked.store(Some(asked));
        #[cfg(not(feature = "tls"))]
        drop(asked);
        self.now.store(Arc::new((mode, None)));
        self.news.send_replace(());
    }
}
