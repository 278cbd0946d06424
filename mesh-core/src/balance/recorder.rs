//! One attempt at an endpoint: in flight until its end, and recorded by how it ended.
//!
//! It is the only place that knows: outlier detection counts what it records, balancing by load learns from it how long
//! the endpoint took, and reports that came with the response are taken out here. Who wants nothing of it pays a branch.

use http::{HeaderMap, Response, StatusCode};
use http_body::Body;
use tokio::time::Instant;

use crate::call::Classify;
use crate::connect::{Ended, EndpointStats, InFlight, SendErrorKind};

/// Records the end of an attempt once. What is dropped before does not count as failed, unless the deadline passed.
#[derive(Debug)]
pub(crate) struct Recorder {
    in_flight: InFlight,
    classify: &'static dyn Classify,
    deadline: Option<Instant>,
    status: StatusCode,
    /// The end is not recorded yet, and somebody wants it.
    open: bool,
    timing: Option<Timing>,
}

/// How long the endpoint takes, for a policy that asks.
#[derive(Clone, Copy, Debug)]
struct Timing {
    since: Instant,
    /// When the response's head came.
    head: Option<Instant>,
}

impl Recorder {
    /// An attempt that is timed from a moment, if it is.
    pub(crate) fn new(
        in_flight: InFlight,
        timed_from: Option<Instant>,
        classify: &'static dyn Classify,
        deadline: Option<Instant>,
    ) -> Self {
        let open = timed_from.is_some() || in_flight.endpoint().counts_outcomes();
        let timing = timed_from.map(|since| Timing { since, head: None });
        Self { in_flight, classify, deadline, status: StatusCode::OK, open, timing }
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
        if let Some(timing) = &mut self.timing {
            timing.head = Some(Instant::now());
        }
        match response.body().is_end_stream() {
            true => self.handle_end(Some(response.headers())),
            false => {
                self.endpoint().handle_headers(response.headers());
                if self.timing.is_some() {
                    self.in_flight.handle_head();
                }
            }
        }
    }

    /// The response came to its end.
    pub(crate) fn handle_end(&mut self, trailers: Option<&HeaderMap>) {
        if let Some(trailers) = trailers {
            self.endpoint().handle_headers(trailers);
        }
        if self.open {
            self.record(Some(Ended::Answered(self.classify.outcome(self.status, trailers))));
        }
    }

    /// It did not. What never reached the endpoint, or what this side spoiled, says nothing of it.
    pub(crate) fn handle_error(&mut self, kind: SendErrorKind) {
        match kind {
            SendErrorKind::Reset(_) | SendErrorKind::BadResponse => self.record(Some(Ended::Reset)),
            SendErrorKind::ConnectionLost => self.record(Some(Ended::ConnectionLost)),
            SendErrorKind::Refused => self.record(Some(Ended::Refused)),
            SendErrorKind::Unsent
            | SendErrorKind::Closed
            | SendErrorKind::Untrusted
            | SendErrorKind::BadRequest
            | SendErrorKind::TooLarge
            | SendErrorKind::RequestBody => self.open = false,
        }
    }

    /// `None`: it was given up.
    fn record(&mut self, ended: Option<Ended>) {
        if !std::mem::take(&mut self.open) {
            return;
        }
        let endpoint = self.in_flight.endpoint();
        if let Some(Timing { since, head }) = self.timing {
            let at = head.unwrap_or_else(Instant::now);
            endpoint.load.handle_end(ended, head.is_some(), at.saturating_duration_since(since), at);
        }
        if let Some(ended) = ended {
            endpoint.record(ended);
        }
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        if self.open {
            let late = self.deadline.is_some_and(|deadline| deadline <= Instant::now());
            self.record(late.then_some(Ended::TimedOut));
        }
    }
}
