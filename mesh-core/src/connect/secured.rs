//! A connection that certificates secure, and what becomes of it as they change and end.

use std::sync::Arc;

use futures_util::future::OptionFuture;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::error::BoxError;
use crate::http2;
use crate::resource::endpoints::Address;
use crate::resource::security::Security;
use crate::tls::{ClientTls, ConnectionSecurity, Lifetime, Peer, Turn};

/// How a connection is secured, and the task that keeps to what its certificates allow. It ends with the connection, and
/// lets it go when this is dropped.
#[derive(Debug)]
pub(super) struct Secured {
    facts: ConnectionSecurity,
    /// The facts', for each call.
    peer: Arc<Peer>,
    fate: watch::Receiver<Fate>,
    /// What has taken the place of the context that it was made by.
    successor: watch::Sender<Option<Security>>,
    task: AbortHandle,
}

/// What certificates made of the connection.
#[derive(Clone, Debug)]
enum Fate {
    Good,
    /// It is to be replaced.
    Outlived(Arc<str>),
    /// It takes no new calls.
    Drained(Arc<str>),
}

impl Secured {
    /// To be called within the runtime that has the connection's own task.
    pub(super) fn new(
        facts: ConnectionSecurity,
        lifetime: Lifetime,
        connection: &http2::Connection,
        address: &Address,
        tls: ClientTls,
    ) -> Self {
        let (fate_sender, fate) = watch::channel(Fate::Good);
        let (successor, successors) = watch::channel(None);
        let kept = Kept { lifetime, connection: connection.clone(), endpoint: address.clone(), fate: fate_sender };
        let task = tokio::spawn(kept.keep(tls, successors)).abort_handle();
        Self { peer: Arc::new(facts.peer.clone()), facts, fate, successor, task }
    }

    /// This takes the place of the context that it was made by: a peer that would not be let in by it loses the connection.
    pub(super) fn reconsider(&self, security: &Security) {
        self.successor.send_if_modified(|known| {
            let is_new = known.as_ref() != Some(security);
            if is_new {
                *known = Some(security.clone());
            }
            is_new
        });
    }

    /// Whom it leads to.
    pub(super) fn peer(&self) -> Arc<Peer> {
        self.peer.clone()
    }

    /// How it is secured, and whether it is being replaced.
    pub(super) fn facts(&self) -> Arc<ConnectionSecurity> {
        let replaced = match &*self.fate.borrow() {
            Fate::Good => None,
            Fate::Outlived(why) | Fate::Drained(why) => Some(why.clone()),
        };
        Arc::new(ConnectionSecurity { replaced, ..self.facts.clone() })
    }

    /// Ends when it is to be replaced, with why.
    pub(super) async fn outlived(&self) -> Arc<str> {
        let mut fate = self.fate.clone();
        loop {
            if let Fate::Outlived(why) = &*fate.borrow_and_update() {
                return why.clone();
            }
            if fate.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Why it takes no new calls, if that is on account of certificates.
    pub(super) fn why_drained(&self) -> Option<BoxError> {
        match &*self.fate.borrow() {
            Fate::Drained(why) => Some(why.to_string().into()),
            Fate::Good | Fate::Outlived(_) => None,
        }
    }
}

impl Drop for Secured {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A connection that is kept to its certificates.
struct Kept {
    lifetime: Lifetime,
    connection: http2::Connection,
    endpoint: Address,
    fate: watch::Sender<Fate>,
}

impl Kept {
    async fn keep(mut self, tls: ClientTls, mut successors: watch::Receiver<Option<Security>>) {
        let mut state = self.connection.state();
        let mut judging = OptionFuture::default();
        loop {
            let turn = tokio::select! {
                turn = self.lifetime.next() => turn,
                _ = state.wait_for(|state| matches!(state, http2::State::Lost(_))) => return,
                Ok(()) = successors.changed() => {
                    let security = successors.borrow_and_update().clone();
                    judging = OptionFuture::from(security.map(|security| Box::pin(tls.successor(security))));
                    continue;
                }
                Some(successor) = &mut judging => {
                    judging = OptionFuture::default();
                    self.lifetime.reconsider(successor);
                    continue;
                }
            };
            if !self.take(turn) {
                return;
            }
        }
    }

    /// Whether the connection goes on.
    fn take(&self, turn: Turn) -> bool {
        let Self { connection, endpoint, fate, .. } = self;
        match turn {
            Turn::Replace(why) => {
                tracing::debug!(%endpoint, %why, "a connection is being replaced");
                fate.send_replace(Fate::Outlived(why));
            }
            Turn::Drain(why) => {
                tracing::warn!(%endpoint, %why, "a connection takes no new calls");
                fate.send_replace(Fate::Drained(why));
                connection.drain();
            }
            Turn::End(why) => {
                tracing::warn!(%endpoint, %why, "a connection is closed");
                connection.distrust(why);
                return false;
            }
        }
        true
    }
}
