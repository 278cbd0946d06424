//! What a subchannel knows of its endpoint and its connections; nothing here waits.

use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::backoff::BackoffConfig;
use crate::connect::connectivity::{Connectivity, ConnectivityState};
use crate::connect::first::advice;
use crate::error::{BoxError, with_causes};
use crate::resource::endpoints::Address;

pub(super) struct State<N> {
    pub(super) connectivity: Connectivity,
    pub(super) connections: SmallVec<[Kept<N>; 1]>,
    /// What to connect to, if that is not the endpoint's address alone (A61).
    pub(super) reached_at: Option<Arc<[Address]>>,
    /// Which of them the driver's connection is to.
    pub(super) connected_to: Option<Address>,
    /// The driver's connection was given up, as its address is no longer one of them.
    pub(super) moved: bool,
    /// Connections that were made so far.
    pub(super) made: u64,
    pub(super) driver: Option<AbortHandle>,
    pub(super) expansion: Expansion,
    /// What to do about the last attempt, which failed.
    pub(super) advice: Option<Arc<str>>,
    pub(super) reports: LoadReports,
    pub(super) closed: bool,
}

/// A connection that has not ended.
#[derive(Clone)]
pub(super) struct Kept<N> {
    /// Tells it from the others.
    pub(super) number: u64,
    pub(super) connection: N,
    pub(super) standing: Standing,
}

/// What is known of a connection's peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It takes calls.
    Serves,
    /// It may hang: another connection is being made.
    Doubted,
    /// And that failed.
    Unreachable,
}

/// The reports that the endpoint is asked for beside the calls.
#[derive(Debug, Default)]
pub(super) struct LoadReports {
    pub(super) period: Option<Duration>,
    /// The number of the connection on which they come, and the task that takes them.
    pub(super) stream: Option<(u64, AbortHandle)>,
}

/// Where the making of one more connection stands.
#[derive(Clone, Copy, Debug)]
pub(super) enum Expansion {
    Allowed,
    UnderWay,
    /// The last one failed then; not again before this delay.
    Failed(Instant, Duration),
}

impl LoadReports {
    pub(super) fn stop(&mut self) {
        if let Some((_, stream)) = self.stream.take() {
            stream.abort();
        }
    }
}

impl<N> State<N> {
    /// Without a connection, before the first attempt.
    pub(super) fn new(backoff: BackoffConfig, reached_at: Option<Arc<[Address]>>) -> Self {
        Self {
            connectivity: Connectivity::new(backoff),
            connections: SmallVec::new(),
            reached_at,
            connected_to: None,
            moved: false,
            made: 0,
            driver: None,
            expansion: Expansion::Allowed,
            advice: None,
            reports: LoadReports::default(),
            closed: false,
        }
    }

    /// An attempt beside a connection that serves failed.
    pub(super) fn note(&mut self, error: &BoxError) {
        self.advice = advice(error);
        self.connectivity.note(with_causes(&**error).into());
    }

    pub(super) fn set_standing(&mut self, number: u64, standing: Standing) {
        if let Some(kept) = self.kept(number) {
            kept.standing = standing;
        }
    }

    pub(super) fn kept(&mut self, number: u64) -> Option<&mut Kept<N>> {
        self.connections.iter_mut().find(|kept| kept.number == number)
    }

    /// The connections that take calls.
    pub(super) fn serving(&self) -> impl Iterator<Item = &N> {
        let serving = self.connections.iter().filter(|kept| kept.standing == Standing::Serves);
        serving.map(|kept| &kept.connection)
    }

    /// Whether the driver's connection is to an address that the endpoint, whose own is `alone`, is not reached at any more.
    pub(super) fn is_left_behind(&self, alone: &Address) -> bool {
        self.connected_to.as_ref().is_some_and(|at| match &self.reached_at {
            Some(addresses) => !addresses.contains(at),
            None => at != alone,
        })
    }

    /// READY as long as any connection takes calls, even while the one that the driver looks after is replaced. A peer that
    /// may hang is as one whose connection was lost.
    pub(super) fn connectivity_state(&self) -> ConnectivityState {
        let stands = |standing| self.connections.iter().any(|kept| kept.standing == standing);
        if stands(Standing::Serves) {
            return ConnectivityState::Ready;
        }
        if stands(Standing::Unreachable) {
            return ConnectivityState::TransientFailure;
        }
        match self.connectivity.state() {
            ConnectivityState::Ready => ConnectivityState::Connecting,
            state => state,
        }
    }
}
