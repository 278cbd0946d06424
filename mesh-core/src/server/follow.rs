//! Follows what decides whether a server serves: its listener at the control plane, and its certificates.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::ServerState;
use super::listener::{News, Setup, Watcher};
use super::mode::{OnServingMode, ServingMode};
use super::secure::{Readiness, Securing};
use crate::xds::Subscriber;

/// Sets the gate of a server.
pub(super) struct Follower {
    source: Source,
    securing: Arc<Securing>,
    server: Arc<ServerState>,
    on_serving_mode: Option<OnServingMode>,
    readiness: Readiness,
    /// What the readiness is of.
    setup: Option<Arc<Setup>>,
    told: Option<ServingMode>,
}

/// What a server's setup comes from.
pub(super) enum Source {
    ControlPlane(Subscriber, Watcher),
    Code(Arc<Setup>),
}

impl Source {
    fn take(&mut self) -> News {
        match self {
            Self::ControlPlane(resources, watcher) => watcher.take(resources),
            Self::Code(setup) => News::Mode(ServingMode::Serving, Some(setup.clone())),
        }
    }

    async fn changed(&mut self) {
        match self {
            Self::ControlPlane(resources, watcher) => {
                let open = watcher.open();
                tokio::select! {
                    _ = resources.changed() => {}
                    () = watcher.changed() => {}
                    // What is in force does not wait for it.
                    () = open.judge_all() => {}
                }
            }
            Self::Code(_) => std::future::pending().await,
        }
    }
}

impl Follower {
    pub(super) fn new(
        source: Source,
        securing: Arc<Securing>,
        server: Arc<ServerState>,
        on_serving_mode: Option<OnServingMode>,
    ) -> Self {
        Self { source, securing, server, on_serving_mode, readiness: Readiness::default(), setup: None, told: None }
    }

    /// Follows until it is dropped.
    pub(super) async fn follow(mut self) {
        loop {
            tokio::select! {
                () = self.source.changed() => {}
                () = self.readiness.changed() => {}
            }
            self.look();
        }
    }

    /// Sets the gate to what holds now.
    pub(super) fn look(&mut self) {
        match self.source.take() {
            News::Awaiting { what, is_stuck } => self.wait_for(what, is_stuck),
            News::Mode(mode, setup) => {
                self.server.wait_for(None);
                match setup.filter(|_| mode == ServingMode::Serving) {
                    Some(setup) => self.serve(setup),
                    None => {
                        (self.setup, self.readiness) = (None, Readiness::default());
                        self.set(mode, None);
                    }
                }
            }
        }
    }

    /// What is in force stays, if it can still be secured. Where there is nothing, the mode says what is waited for.
    fn wait_for(&mut self, what: String, is_stuck: bool) {
        if let Some(setup) = self.setup.clone() {
            self.server.wait_for(Some(what));
            return self.serve(setup);
        }
        let mode = ServingMode::NotServing(format!("waiting for {what}").into());
        self.server.gate.set(mode.clone(), None);
        if is_stuck && self.told.is_none() {
            self.tell(mode);
        }
    }

    /// A server that can secure none of its connections, or only less than the floor demands, does not serve; those that are
    /// open go on.
    fn serve(&mut self, setup: Arc<Setup>) {
        if !self.setup.as_ref().is_some_and(|before| Arc::ptr_eq(before, &setup)) {
            self.readiness = self.securing.readiness(setup.contexts(&self.securing));
            self.setup = Some(setup.clone());
        }
        match setup.check(&self.securing).and_then(|()| self.readiness.look()) {
            Ok(shortcoming) => {
                self.server.cannot_secure(shortcoming.map(|error| error.report()));
                self.set(ServingMode::Serving, Some(setup));
            }
            Err(error) => {
                let mode = ServingMode::NotServing(error.report().into());
                self.server.gate.refuse(mode.clone(), setup);
                self.tell_change(mode);
            }
        }
    }

    fn set(&mut self, mode: ServingMode, setup: Option<Arc<Setup>>) {
        self.server.gate.set(mode.clone(), setup);
        self.tell_change(mode);
    }

    /// Tells of a mode, if it is another than that told last.
    fn tell_change(&mut self, mode: ServingMode) {
        if self.told.as_ref() != Some(&mode) {
            self.tell(mode);
        }
    }

    fn tell(&mut self, mode: ServingMode) {
        tell(&self.server, &mode, &self.on_serving_mode);
        self.told = Some(mode);
    }
}

/// Logs a mode, and tells the application.
pub(super) fn tell(server: &ServerState, mode: &ServingMode, on_serving_mode: &Option<OnServingMode>) {
    match mode {
        ServingMode::Serving => tracing::info!(address = %server.address, "serving"),
        ServingMode::ShuttingDown => tracing::info!(address = %server.address, "shutting down"),
        ServingMode::NotServing(why) => tracing::warn!(address = %server.address, %why, "not serving"),
    }
    let Some(hears) = on_serving_mode else { return };
    // A panic must not end what follows the listener: the server would serve for ever what it served last.
    if catch_unwind(AssertUnwindSafe(|| hears(mode))).is_err() {
        tracing::error!(address = %server.address, %mode, "`on_serving_mode` panicked");
    }
}
