//! A connection that certificates secure, and what becomes of it as they change and end.

use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::error::BoxError;
use crate::http2;
use crate::resource::endpoints::Address;
use crate::tls::{ConnectionSecurity, Lifetime, Peer, Turn};

/// How a connection is secured, and the task that keeps to what its certificates allow. It ends with the connection, and
/// lets it go when this is dropped.
#[derive(Debug)]
pub(super) struct Secured {
    facts: ConnectionSecurity,
    /// The facts', for each call.
    peer: Arc<Peer>,
    fate: watch::Receiver<Fate>,
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
    ) -> Self {
        let (sender, fate) = watch::channel(Fate::Good);
        let task = tokio::spawn(keep_to(lifetime, connection.clone(), address.clone(), sender)).abort_handle();
        Self { peer: Arc::new(facts.peer.clone()), facts, fate, task }
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

async fn keep_to(mut lifetime: Lifetime, connection: http2::Connection, endpoint: Address, fate: watch::Sender<Fate>) {
    let mut state = connection.state();
    loop {
        let turn = tokio::select! {
            turn = lifetime.next() => turn,
            _ = state.wait_for(|state| matches!(state, http2::State::Lost(_))) => return,
        };
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
                return connection.distrust(why);
            }
        }
    }
}
