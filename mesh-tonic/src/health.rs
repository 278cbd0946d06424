//! `grpc.health.v1.Health` of a [`MeshServer`](crate::MeshServer): what the server itself knows of its serving.

use std::collections::HashSet;
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::{Stream, stream};
use mesh_core::server::ServingMode;
use tokio::sync::watch;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::Health;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

/// Says whether a server serves: the whole of it, by the empty name, and each of its services. While it waits for its
/// Listener, does not serve, or shuts down, all are `NOT_SERVING`.
///
/// [`MeshServer::health`](crate::MeshServer::health) makes one.
#[derive(Clone)]
pub struct ServerHealth {
    state: Arc<State>,
}

struct State {
    mode: watch::Sender<Option<ServingMode>>,
    services: Mutex<HashSet<&'static str>>,
}

impl ServerHealth {
    pub(crate) fn new() -> Self {
        let state = State { mode: watch::Sender::new(None), services: Mutex::default() };
        Self { state: Arc::new(state) }
    }

    pub(crate) fn add(&self, service: &'static str) {
        self.services().insert(service);
    }

    pub(crate) fn set(&self, mode: &ServingMode) {
        self.state.mode.send_replace(Some(mode.clone()));
    }

    pub(crate) fn forget_services(&self) {
        self.services().clear();
    }

    /// Says that the server serves no more when the value is dropped, however that comes.
    pub(crate) fn until_dropped(&self) -> impl Drop + use<> {
        Serving(self.clone())
    }

    fn services(&self) -> std::sync::MutexGuard<'_, HashSet<&'static str>> {
        self.state.services.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn status(&self, service: &str, mode: &Option<ServingMode>) -> ServingStatus {
        if !service.is_empty() && !self.services().contains(service) {
            return ServingStatus::ServiceUnknown;
        }
        match mode {
            Some(ServingMode::Serving) => ServingStatus::Serving,
            _ => ServingStatus::NotServing,
        }
    }
}

/// A server that runs. Its future may be dropped, or panic, before it tells of a shutdown.
struct Serving(ServerHealth);

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.set(&ServingMode::ShuttingDown);
    }
}

/// One caller that watches.
struct Watching {
    health: ServerHealth,
    service: String,
    modes: watch::Receiver<Option<ServingMode>>,
    last: Option<ServingStatus>,
    is_over: bool,
}

impl Watching {
    /// The next status that differs from the last; at last that the server shuts down, which waits for no watch.
    async fn next(mut self) -> Option<(Result<HealthCheckResponse, Status>, Self)> {
        while !self.is_over {
            let mode = self.modes.borrow_and_update().clone();
            let status = self.health.status(&self.service, &mode);
            if self.last != Some(status) {
                self.last = Some(status);
                return Some((Ok(HealthCheckResponse { status: status as i32 }), self));
            }
            if mode == Some(ServingMode::ShuttingDown) || self.modes.changed().await.is_err() {
                self.is_over = true;
                return Some((Err(Status::unavailable("the server shuts down")), self));
            }
        }
        None
    }
}

#[tonic::async_trait]
impl Health for ServerHealth {
    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        let service = request.into_inner().service;
        match self.status(&service, &self.state.mode.borrow()) {
            ServingStatus::ServiceUnknown => {
                Err(Status::not_found(format!("`{service}` is no service of this server")))
            }
            status => Ok(Response::new(HealthCheckResponse { status: status as i32 })),
        }
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let watching = Watching {
            health: self.clone(),
            service: request.into_inner().service,
            modes: self.state.mode.subscribe(),
            last: None,
            is_over: false,
        };
        Ok(Response::new(Box::pin(stream::unfold(watching, Watching::next))))
    }
}

impl fmt::Debug for ServerHealth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerHealth").field("mode", &*self.state.mode.borrow()).finish_non_exhaustive()
    }
}
