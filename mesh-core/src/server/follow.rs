//! Follows a server's listener at the control plane.

use std::sync::Arc;

use super::ServerState;
use super::listener::{News, Watcher};
use super::mode::{OnServingMode, ServingMode};
use crate::xds::Subscriber;

/// Sets the gate of the server to what the control plane says, until it is dropped.
pub(super) async fn follow(
    mut resources: Subscriber,
    mut watcher: Watcher,
    server: Arc<ServerState>,
    on_serving_mode: Option<OnServingMode>,
) {
    let mut told = None;
    loop {
        match watcher.take(&mut resources) {
            News::Awaiting(what) if told.is_none() => {
                server.gate.set(ServingMode::NotServing(format!("waiting for {what}").into()), None);
            }
            News::Awaiting(what) => tracing::debug!(%what, "waiting"),
            News::Mode(mode, setup) => {
                server.gate.set(mode.clone(), setup);
                if told.as_ref() != Some(&mode) {
                    tell(&server, &mode, &on_serving_mode);
                    told = Some(mode);
                }
            }
        }
        resources.changed().await;
    }
}

/// Logs a mode, and tells the application.
pub(super) fn tell(server: &ServerState, mode: &ServingMode, on_serving_mode: &Option<OnServingMode>) {
    match mode {
        ServingMode::Serving => tracing::info!(address = %server.address, "serving"),
        ServingMode::ShuttingDown => tracing::info!(address = %server.address, "shutting down"),
        ServingMode::NotServing(why) => tracing::warn!(address = %server.address, %why, "not serving"),
    }
    if let Some(hears) = on_serving_mode {
        hears(mode);
    }
}
