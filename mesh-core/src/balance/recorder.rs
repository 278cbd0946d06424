//! One attempt at an endpoint: in flight until its end, and counted by how it ended.

use http::{HeaderMap, Response, StatusCode};
use http_body::Body;
use tokio::time::Instant;

use crate::call::Classify;
use crate::connect::{Ended, EndpointStats, InFlight, SendErrorKind};

/// Records the end of an attempt once. What is dropped before says nothing of the endpoint, unless the deadline passed.
#[derive(Debug)]
pub(crate) struct Recorder {
    in_flight: InFlight,
    classify: &'static dyn Classify,
    deadline: Option<Instant>,
    status: StatusCode,
    /// The end is not recorded yet, and somebody wants it.
    open: bool,
}

impl Recorder {
    pub(crate) fn new(in_flight: InFlight, classify: &'static dyn Classify, deadline: Option<Instant>) -> Self {
        let open = in_flight.endpoint().counts_outcomes();
        Self { in_flight, classify, deadline, status: StatusCode::OK, open }
    }

    pub(crate) fn in_flight(&self) -> &InFlight {
        &self.in_flight
    }

    pub(crate) fn endpoint(&self) -> &EndpointStats {
        self.in_flight.endpoint()
    }

    /// The head came, and perhaps nothing comes after it.
    pub(crate) fn handle_head<D: Body>(&mut self, response: &Response<D>) {
        self.status = response.status();
        if self.open && response.body().is_end_stream() {
            self.handle_end(Some(response.headers()));
        }
    }

    /// The response came to its end.
    pub(crate) fn handle_end(&mut self, trailers: Option<&HeaderMap>) {
        if self.open {
            self.record(Ended::Answered(self.classify.outcome(self.status, trailers)));
        }
    }

    /// It did not. A request that the endpoint did nothing with, as one that shuts down, does not speak against it, and
    /// neither does one that this side spoiled.
    pub(crate) fn handle_error(&mut self, kind: SendErrorKind) {
        match kind {
            SendErrorKind::Reset(_) | SendErrorKind::BadResponse => self.record(Ended::Reset),
            SendErrorKind::ConnectionLost => self.record(Ended::ConnectionLost),
            SendErrorKind::Unsent | SendErrorKind::Refused | SendErrorKind::BadRequest | SendErrorKind::RequestBody => {
                self.open = false
            }
        }
    }

    fn record(&mut self, ended: Ended) {
        if std::mem::take(&mut self.open) {
            self.in_flight.endpoint().record(ended);
        }
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        if self.open && self.deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            self.record(Ended::TimedOut);
        }
    }
}
