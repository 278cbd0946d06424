//! A subchannel keeps one endpoint connected, from its start until it is closed, whether calls come or not.

mod state;
#[cfg(test)]
mod tests;

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use smallvec::SmallVec;
use tokio::runtime::Handle;
use tokio::time::Instant;

use super::connectivity::{ConnectivityState, Phase};
use super::first::{advice, connect, connect_first};
use super::leaving::Leaving;
use super::outcomes::{Criteria, Ended, Streak};
use super::readiness::{Readiness, Withheld};
use super::stats::{EndpointStats, SlotQueue};
use super::{Connect, Connection, Security, load_reports};
use crate::backoff::{Backoff, BackoffConfig};
use crate::error::{BoxError, with_causes};
use crate::resource::endpoints::Address;
#[cfg(feature = "tls")]
use crate::tls::ConnectionSecurity;
use state::{Expansion, Kept, Standing, State};

/// Who is told when the state of a subchannel changed.
pub(crate) trait Observer: Send + Sync {
    /// Called with no lock held, and with the state that the subchannel has `now`.
    fn subchannel_changed(&self, now: ConnectivityState);

    /// Something failed too often in a row. Called with no lock held.
    fn endpoint_failed(&self, endpoint: &Address, streak: Streak);

    /// Outcomes are counted again, and somebody should look at them. Called with no lock held.
    fn outcomes_arrive(&self);
}

/// What the subchannels of one cluster have in common.
pub(crate) struct Environment<C: Connect> {
    pub(crate) connector: Arc<C>,
    pub(crate) leaving: Arc<Leaving<C::Connection>>,
    pub(crate) cluster: Arc<str>,
    pub(crate) backoff: BackoffConfig,
    /// The cluster's configuration may change them.
    pub(crate) limits: Mutex<Limits>,
    pub(crate) handle: Handle,
    pub(crate) queue: Arc<SlotQueue>,
    pub(crate) observer: Weak<dyn Observer>,
    pub(crate) criteria: Arc<Criteria>,
}

/// What bounds the connections of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// How long one attempt to connect may take.
    pub(crate) connect_timeout: Duration,
    /// Connections to one endpoint, at least 1 (A105).
    pub(crate) per_endpoint: usize,
    /// Connections to all endpoints together; one to each there may be all the same.
    pub(crate) in_all: usize,
}

/// The open connections of one endpoint: one, unless its slots ran out and more are allowed (A105).
pub(crate) type Connections<N> = SmallVec<[N; 1]>;

/// One endpoint of one cluster that is in use.
pub(crate) struct Subchannel<C: Connect> {
    pub(crate) stats: Arc<EndpointStats>,
    /// For the owner to mark which subchannels it still uses.
    pub(crate) stamp: AtomicU64,
    /// What its connections are made with, from first to last: another makes another subchannel.
    pub(crate) security: Option<Security>,
    environment: Arc<Environment<C>>,
    state: Mutex<State<C::Connection>>,
}

/// Who makes up for a connection that is lost or doubted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// It is the driver's: there is always to be one.
    Driven,
    /// It was made beside that one for its slots; nobody does.
    Extra,
}

/// How a connection ended.
struct End {
    why: BoxError,
    standing: Standing,
}

/// What people may know of a subchannel.
#[derive(Clone, Debug)]
pub(crate) struct SubchannelStatus {
    pub(crate) state: ConnectivityState,
    pub(crate) last_error: Option<Arc<str>>,
    /// What to do about it, if the attempt that failed knew.
    pub(crate) advice: Option<Arc<str>>,
    /// When the next attempt is due, while there is none.
    pub(crate) next_attempt: Option<Instant>,
    /// Of each of its connections that is secured.
    #[cfg(feature = "tls")]
    pub(crate) security: Vec<Arc<ConnectionSecurity>>,
}

impl<C: Connect> Subchannel<C> {
    /// A subchannel for `address` that connects at once, to `reached_at` if that is said.
    pub(crate) fn start(
        address: Address,
        reached_at: Option<Arc<[Address]>>,
        security: Option<Security>,
        environment: &Arc<Environment<C>>,
    ) -> Arc<Self> {
        let Environment { cluster, queue, criteria, .. } = &**environment;
        let stats = EndpointStats::new(address, cluster.clone(), queue.clone(), criteria.clone());
        let subchannel = Arc::new(Self {
            stats: Arc::new(stats),
            stamp: AtomicU64::new(0),
            security,
            environment: environment.clone(),
            state: Mutex::new(State::new(environment.backoff, reached_at)),
        });
        // Locked until the handle is in, lest the driver's end be missed by a close in between.
        let mut state = subchannel.state.lock();
        state.driver = Some(environment.handle.spawn(drive(subchannel.clone())).abort_handle());
        drop(state);
        subchannel
    }

    pub(crate) fn address(&self) -> &Address {
        &self.stats.address
    }

    /// The endpoint is reached at these addresses from now on. A connection to one of them stays; one to another goes as
    /// after a GOAWAY, and is replaced at once. What was learned of others is no reason to wait.
    pub(crate) fn move_to(self: &Arc<Self>, reached_at: Option<&Arc<[Address]>>) {
        let mut state = self.state.lock();
        if state.reached_at.as_ref() == reached_at {
            return;
        }
        state.reached_at = reached_at.cloned();
        if matches!(state.connectivity.phase(), Phase::Backoff { .. })
            && let Some(driver) = state.driver.take()
        {
            driver.abort();
            state.connectivity.handle_attempt();
            state.driver = Some(self.environment.handle.spawn(drive(self.clone())).abort_handle());
        }
        if state.is_left_behind(self.address()) && !state.connections.is_empty() {
            state.moved = true;
            let connections = state.connections.clone();
            drop(state);
            connections.iter().for_each(|kept| kept.connection.drain());
        }
    }

    /// As those see it who choose among endpoints: one that is ejected is to them as one that cannot be reached (A50).
    pub(crate) fn state(&self) -> ConnectivityState {
        match self.stats.is_ejected() {
            true => ConnectivityState::TransientFailure,
            false => self.state.lock().connectivity_state(),
        }
    }

    /// The connections that take calls; none unless the state is READY.
    pub(crate) fn connections(&self) -> Connections<C::Connection> {
        if self.stats.is_ejected() {
            return Connections::new();
        }
        self.state.lock().serving().cloned().collect()
    }

    pub(crate) fn status(&self) -> SubchannelStatus {
        let state = self.state.lock();
        let next_attempt = match state.connectivity.phase() {
            Phase::Backoff { until } => Some(until),
            _ => None,
        };
        SubchannelStatus {
            state: state.connectivity_state(),
            last_error: state.connectivity.last_error().cloned(),
            advice: state.advice.clone(),
            next_attempt,
            #[cfg(feature = "tls")]
            security: state.connections.iter().filter_map(|kept| kept.connection.security()).collect(),
        }
    }

    /// Its connections, and the one that is being made beside them.
    pub(crate) fn open(&self) -> usize {
        let state = self.state.lock();
        state.connections.len() + usize::from(matches!(state.expansion, Expansion::UnderWay))
    }

    /// Opens one more connection, if all are full and more are allowed.
    pub(crate) fn expand(self: &Arc<Self>) {
        let mut state = self.state.lock();
        let allowed = match state.expansion {
            Expansion::Allowed => true,
            Expansion::UnderWay => false,
            Expansion::Failed(then, delay) => then.elapsed() >= delay,
        };
        let room = (1..self.environment.limits.lock().per_endpoint).contains(&state.connections.len());
        if allowed && room && !state.closed {
            state.expansion = Expansion::UnderWay;
            self.environment.handle.spawn(expand(self.clone()));
        }
    }

    /// The endpoint is asked for reports of its load about so often, beside the calls; `None`: it is not.
    pub(crate) fn report_every(&self, period: Option<Duration>) {
        let mut state = self.state.lock();
        if state.reports.period != period {
            state.reports.stop();
            state.reports.period = period;
            self.ask_for_reports(&mut state);
        }
    }

    /// Has the reports come on the first connection that serves, if there are to be any.
    fn ask_for_reports(&self, state: &mut State<C::Connection>) {
        let State { connections, reports, closed: false, .. } = state else { return };
        let first = connections.iter().find(|kept| kept.standing == Standing::Serves);
        if let (Some(period), None, Some(kept)) = (reports.period, &reports.stream, first) {
            let watch = load_reports::watch(kept.connection.clone(), period, self.stats.clone());
            reports.stream = Some((kept.number, self.environment.handle.spawn(watch).abort_handle()));
        }
    }

    /// Takes no new calls; those in flight end in their own time, then the connections close.
    pub(crate) fn drain(&self) {
        self.end().into_iter().for_each(|kept| self.leave(kept.connection));
    }

    /// The same, because the endpoint is secured by another context from now on: calls to a peer that it does not let in do
    /// not go on.
    pub(crate) fn drain_for(&self, successor: &Security) {
        for Kept { connection, .. } in self.end() {
            connection.reconsider(successor);
            self.leave(connection);
        }
    }

    /// A connection takes no new calls, and has its own time for those it has.
    fn leave(&self, connection: C::Connection) {
        self.environment.leaving.add(&self.environment.criteria, self.address(), connection);
    }

    /// Closes the connections now.
    pub(crate) fn close(&self) {
        self.end().iter().for_each(|kept| kept.connection.close());
    }

    fn end(&self) -> SmallVec<[Kept<C::Connection>; 1]> {
        let mut state = self.state.lock();
        state.closed = true;
        if let Some(driver) = state.driver.take() {
            driver.abort();
        }
        state.reports.stop();
        std::mem::take(&mut state.connections)
    }

    fn readiness(&self) -> Readiness {
        self.security.as_ref().map(|security| self.environment.connector.readiness(security)).unwrap_or_default()
    }

    /// One bounded attempt. Boxed, so that a connected endpoint does not keep the memory of its handshake.
    async fn connect(&self) -> Result<(C::Connection, Address), BoxError> {
        let limit = self.environment.limits.lock().connect_timeout;
        let reached_at = self.state.lock().reached_at.clone();
        let connector = &*self.environment.connector;
        let attempt = Box::pin(async {
            match &reached_at {
                Some(addresses) => connect_first(connector, addresses, self.security.as_ref()).await,
                None => {
                    let connection = connect(connector, self.address(), self.security.as_ref()).await?;
                    Ok((connection, self.address().clone()))
                }
            }
        });
        match tokio::time::timeout(limit, attempt).await {
            Ok(result) => result,
            Err(_) => Err(format!("no connection within {limit:?}").into()),
        }
    }

    /// Takes a new connection in and answers its number; `None` if the subchannel was closed meanwhile.
    fn add(&self, connection: &C::Connection, event: impl FnOnce(&mut State<C::Connection>)) -> Option<u64> {
        let mut state = self.state.lock();
        if state.closed {
            drop(state);
            connection.drain();
            return None;
        }
        if state.serving().next().is_none() {
            self.stats.load.handle_reconnect();
            self.stats.load.handle_ready(Instant::now());
        }
        state.advice = None;
        state.made += 1;
        let number = state.made;
        state.connections.push(Kept { number, connection: connection.clone(), standing: Standing::Serves });
        event(&mut state);
        self.ask_for_reports(&mut state);
        drop(state);
        self.stats.connected();
        self.changed();
        Some(number)
    }

    /// Hands out `connection`, and those that replace it in their time, until one ends; after a GOAWAY, its calls go on to
    /// their end. `connected` notes of each where it leads.
    async fn keep(
        &self,
        mut connection: C::Connection,
        mut number: u64,
        role: Role,
        connected: impl Fn(&mut State<C::Connection>, Address),
    ) -> Option<End> {
        let mut backoff = Backoff::new(self.environment.backoff);
        loop {
            // The addresses changed while it was being made.
            if self.is_left_behind() {
                connection.drain();
            }
            let next = tokio::select! {
                why = connection.ended() => {
                    let standing = self.remove(&mut self.state.lock(), number);
                    self.leave(connection);
                    return Some(End { why, standing });
                }
                next = self.successor(&connection, number, role, &mut backoff) => next,
            };
            (connection, number) = self.replace(connection, number, next, &connected)?;
        }
    }

    fn is_left_behind(&self) -> bool {
        let mut state = self.state.lock();
        let is_left = state.is_left_behind(self.address());
        state.moved |= is_left;
        is_left
    }

    /// The connection that is to take the place of another, which is near its end or whose peer may hang.
    async fn successor(
        &self,
        connection: &C::Connection,
        number: u64,
        role: Role,
        backoff: &mut Backoff,
    ) -> (C::Connection, Address) {
        loop {
            tokio::select! {
                _ = connection.outlived() => {
                    backoff.reset();
                    return self.connect_beside(number, backoff).await;
                }
                why = connection.doubted() => self.handle_doubted(number, why),
            }
            if self.stats.take_answered() {
                backoff.reset();
            }
            tokio::select! {
                next = self.connect_apart(number, backoff), if role == Role::Driven => return next,
                () = connection.heard() => self.handle_heard(number),
            }
        }
    }

    /// As [`connect_beside`](Self::connect_beside), not in the same moment as all other clients of a peer that pauses, and
    /// ever later while none of the connections is of use.
    async fn connect_apart(&self, number: u64, backoff: &mut Backoff) -> (C::Connection, Address) {
        let longest = backoff.next_delay(fastrand::f64());
        tokio::time::sleep(longest.mul_f64(fastrand::f64())).await;
        self.connect_beside(number, backoff).await
    }

    /// One more connection, beside the one with this number: it is tried again until it is there.
    async fn connect_beside(&self, number: u64, backoff: &mut Backoff) -> (C::Connection, Address) {
        loop {
            match self.connect().await {
                Ok(made) => return made,
                Err(error) => self.handle_failed_beside(number, &error),
            }
            tokio::time::sleep(backoff.next_delay(fastrand::f64())).await;
        }
    }

    fn handle_failed_beside(&self, number: u64, error: &BoxError) {
        let mut state = self.state.lock();
        state.note(error);
        let doubted = state.kept(number).filter(|kept| kept.standing == Standing::Doubted);
        let is_news = doubted.map(|kept| kept.standing = Standing::Unreachable).is_some();
        drop(state);
        if is_news {
            self.changed();
        }
    }

    fn handle_doubted(&self, number: u64, why: Arc<str>) {
        self.event(|state, _| {
            state.set_standing(number, Standing::Doubted);
            state.connectivity.note(why);
            self.withdraw_reports(state, number);
        });
    }

    fn handle_heard(&self, number: u64) {
        self.event(|state, _| {
            state.set_standing(number, Standing::Serves);
            state.advice = None;
            self.ask_for_reports(state);
        });
    }

    /// Puts a connection in the place of another, whose calls go on to their end: no moment is without one. `None`: the
    /// subchannel was closed meanwhile.
    fn replace(
        &self,
        old: C::Connection,
        number: u64,
        (new, address): (C::Connection, Address),
        connected: impl Fn(&mut State<C::Connection>, Address),
    ) -> Option<(C::Connection, u64)> {
        let replaced = self.add(&new, |state| {
            self.remove(state, number);
            connected(state, address);
        });
        self.leave(old);
        replaced.map(|number| (new, number))
    }

    /// Hands out a connection no more, and answers how it stood.
    fn remove(&self, state: &mut State<C::Connection>, number: u64) -> Standing {
        let standing = state.kept(number).map_or(Standing::Serves, |kept| kept.standing);
        state.connections.retain(|kept| kept.number != number);
        // Else the stream would keep the connection open whose calls have ended.
        self.withdraw_reports(state, number);
        standing
    }

    /// Reports do not come on this connection any more, but on another if one serves.
    fn withdraw_reports(&self, state: &mut State<C::Connection>, number: u64) {
        if state.reports.stream.as_ref().is_some_and(|(other, _)| *other == number) {
            state.reports.stop();
            self.ask_for_reports(state);
        }
    }

    /// Connections cannot be secured. That is no failure of the endpoint, and nothing is counted.
    fn withheld(&self, Withheld { why, is_awaited }: Withheld) {
        self.event(|state, _| state.connectivity.handle_withheld(why, is_awaited));
    }

    fn event<R>(&self, event: impl FnOnce(&mut State<C::Connection>, Instant) -> R) -> R {
        let answer = event(&mut self.state.lock(), Instant::now());
        self.changed();
        answer
    }

    fn changed(&self) {
        if let Some(observer) = self.environment.observer.upgrade() {
            observer.subchannel_changed(self.state());
        }
    }
}

/// Connects, waits until the connection ends, and connects again; is aborted when the subchannel is closed.
async fn drive<C: Connect>(subchannel: Arc<Subchannel<C>>) {
    let mut readiness = subchannel.readiness();
    loop {
        readiness.usable(|withheld| subchannel.withheld(withheld)).await;
        let due = match subchannel.connect().await {
            Ok((connection, address)) => {
                let connected = |state: &mut State<_>, address| {
                    state.connected_to = Some(address);
                    state.connectivity.handle_connected(Instant::now());
                };
                let Some(number) = subchannel.add(&connection, |state| connected(state, address)) else { return };
                let Some(end) = subchannel.keep(connection, number, Role::Driven, connected).await else { return };
                let why = with_causes(&*end.why).into();
                let answered = subchannel.stats.take_answered();
                subchannel.event(|state, now| {
                    let moved = std::mem::take(&mut state.moved);
                    // The attempt that follows the loss of a connection has been made, unless it leads elsewhere now.
                    if end.standing == Standing::Unreachable && !moved {
                        return state.connectivity.handle_failed(why, now, fastrand::f64());
                    }
                    state.connectivity.handle_ended(why, answered | moved, now, fastrand::f64())
                })
            }
            Err(error) => {
                let why = with_causes(&*error).into();
                subchannel.stats.record(Ended::NotConnected);
                subchannel.event(|state, now| {
                    state.advice = advice(&error);
                    state.connectivity.handle_failed(why, now, fastrand::f64())
                })
            }
        };
        tokio::select! {
            () = tokio::time::sleep_until(due) => {}
            () = readiness.renewed() => {}
        }
        subchannel.state.lock().connectivity.handle_attempt();
    }
}

/// Makes one connection beside those that are full, and keeps it until it ends; the driver alone makes up for losses.
async fn expand<C: Connect>(subchannel: Arc<Subchannel<C>>) {
    match subchannel.connect().await {
        Ok((connection, _)) => {
            let Some(number) = subchannel.add(&connection, |state| state.expansion = Expansion::Allowed) else {
                return;
            };
            subchannel.keep(connection, number, Role::Extra, |_, _| {}).await;
            subchannel.changed();
        }
        Err(error) => {
            let delay = Backoff::new(subchannel.environment.backoff).next_delay(fastrand::f64());
            let mut state = subchannel.state.lock();
            state.expansion = Expansion::Failed(Instant::now(), delay);
            state.note(&error);
        }
    }
}
