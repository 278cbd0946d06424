//! What a connection goes through before HTTP/2: a TLS handshake, or none where none is asked for.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpStream;
#[cfg(feature = "tls")]
use tokio::sync::watch;
#[cfg(feature = "tls")]
use tokio::time::{Instant, sleep_until};

use super::io::Stream;
#[cfg(feature = "tls")]
use super::listener::Setup;
use super::state::Connected;
#[cfg(feature = "tls")]
use super::state::{ConnectionState, ServerState};
use crate::error::Error;
use crate::resource::security::DownstreamTls;
#[cfg(feature = "tls")]
pub(crate) use crate::tls::AcceptedSecurity;
#[cfg(feature = "tls")]
use crate::tls::{Acceptor, Lifetime, Outlook, REFUSED_FOR, Shortcomings};

/// Without the feature `tls` no connection is secured, and no listener that asks for it is accepted.
#[cfg(not(feature = "tls"))]
pub(crate) type AcceptedSecurity = std::convert::Infallible;

/// The first byte of every TLS connection: a record of the kind "handshake" (RFC 8446, 5.1). HTTP/2 begins with a `P`.
#[cfg(feature = "tls")]
const HANDSHAKE: u8 = 0x16;

/// How a server secures its connections.
#[derive(Clone, Debug)]
pub(crate) struct Securing {
    #[cfg(feature = "tls")]
    pub(crate) acceptor: Acceptor,
    /// Of connections whose filter chain asks for nothing, or that have none.
    pub(crate) by_code: Option<Arc<DownstreamTls>>,
    /// Who does not begin with TLS is served all the same.
    pub(crate) is_permissive: bool,
}

/// A connection that is ready for HTTP/2.
pub(super) struct Ready {
    pub(super) stream: Stream,
    /// How it is secured; `None`: not at all.
    pub(super) security: Option<Arc<AcceptedSecurity>>,
    pub(super) certificates: Certificates,
}

/// What certificates make of a connection while it is open.
#[derive(Default)]
pub(super) struct Certificates {
    /// `None`: it has none, and is in plaintext.
    #[cfg(feature = "tls")]
    lifetime: Option<Box<Lifetime>>,
    #[cfg(feature = "tls")]
    asked: Option<Asked>,
    /// Of a connection in plaintext, which is asked for certificates by now.
    #[cfg(feature = "tls")]
    end: Option<Instant>,
}

/// What is asked of the caller of a connection over TLS, by the configuration that holds now: a connection that drains because
/// that changed does not go on with a caller whom it does not let in any more, nor in plaintext where TLS is asked for.
#[cfg(feature = "tls")]
struct Asked {
    securing: Arc<Securing>,
    server: Arc<ServerState>,
    connection: Arc<ConnectionState>,
    news: watch::Receiver<()>,
    /// By what it was judged last, if it is over TLS.
    context: Option<Arc<DownstreamTls>>,
}

/// What a connection is to do on account of certificates.
#[derive(Debug)]
pub(super) enum Turn {
    /// It takes no new calls, as soon as its client heard of that; those that it has go on.
    Drain,
    /// It takes no new calls from now on.
    Refuse,
    /// It ends now.
    End,
}

impl Certificates {
    /// Of a connection that was accepted by `context`: from now on also by what takes its place.
    #[cfg(feature = "tls")]
    pub(super) fn follow(
        self,
        securing: &Arc<Securing>,
        connected: &Connected,
        context: Option<Arc<DownstreamTls>>,
    ) -> Self {
        let Connected { server, state } = connected;
        let (securing, server, connection, news) =
            (securing.clone(), server.clone(), state.clone(), server.gate.news());
        Self { asked: Some(Asked { securing, server, connection, news, context }), ..self }
    }

    #[cfg(not(feature = "tls"))]
    pub(super) fn follow(self, _: &Arc<Securing>, _: &Connected, _: Option<Arc<DownstreamTls>>) -> Self {
        self
    }

    /// Waits until there is something to do. Not to be asked again after the end.
    #[cfg(feature = "tls")]
    pub(super) async fn next(&mut self, peer: SocketAddr) -> Turn {
        let Self { lifetime: Some(lifetime), asked, .. } = self else {
            let turn = exposed(&mut self.asked, &mut self.end).await;
            tracing::warn!(%peer, ?turn, "a connection in plaintext is not to go on, as TLS is required by now");
            return turn;
        };
        let turn = loop {
            tokio::select! {
                turn = lifetime.next() => break turn,
                (asked, context) = asked_anew(asked) => {
                    if asked.securing.acceptor.reconsider(lifetime, &context) {
                        asked.context = Some(context);
                    }
                }
            }
        };
        match turn {
            crate::tls::Turn::Replace(why) => {
                tracing::debug!(%peer, %why, "a connection is drained");
                Turn::Drain
            }
            crate::tls::Turn::Drain(why) => {
                tracing::warn!(%peer, %why, "a connection takes no new calls");
                Turn::Refuse
            }
            crate::tls::Turn::End(why) => {
                tracing::warn!(%peer, %why, "a connection is closed");
                Turn::End
            }
        }
    }

    #[cfg(not(feature = "tls"))]
    pub(super) async fn next(&mut self, _: SocketAddr) -> Turn {
        std::future::pending().await
    }
}

/// What is asked from now on.
#[cfg(feature = "tls")]
async fn asked_anew(asked: &mut Option<Asked>) -> (&mut Asked, Arc<DownstreamTls>) {
    let Some(asked) = asked else { return std::future::pending().await };
    loop {
        if asked.news.changed().await.is_err() {
            return std::future::pending().await;
        }
        let context = asked.now();
        if let Some(context) = context.filter(|context| asked.context.as_ref() != Some(context)) {
            return (asked, context);
        }
    }
}

/// What a connection in plaintext is to do when TLS is asked for: as one over TLS whose caller is not let in any more.
#[cfg(feature = "tls")]
async fn exposed(asked: &mut Option<Asked>, end: &mut Option<Instant>) -> Turn {
    if let Some(end) = *end {
        sleep_until(end).await;
        return Turn::End;
    }
    let Some(asked) = asked.as_mut().filter(|asked| !asked.securing.is_permissive) else {
        return std::future::pending().await;
    };
    while asked.news.changed().await.is_ok() {
        if asked.context_by(asked.server.gate.asked()).is_some() {
            *end = Some(Instant::now() + REFUSED_FOR);
            return Turn::Refuse;
        }
    }
    std::future::pending().await
}

#[cfg(feature = "tls")]
impl Asked {
    /// What would secure the connection if it came now; `None`: nothing, or it would not be taken.
    fn now(&self) -> Option<Arc<DownstreamTls>> {
        self.context_by(self.server.gate.setup())
    }

    fn context_by(&self, setup: Option<Arc<Setup>>) -> Option<Arc<DownstreamTls>> {
        let ConnectionState { local_address, peer_address, .. } = *self.connection;
        let chain = setup?.admit(local_address, peer_address)?.chain;
        self.securing.context(chain.and_then(|chain| chain.security()).as_ref())
    }
}

impl Ready {
    fn plain(stream: TcpStream) -> Self {
        Self { stream: Stream::Plain(stream), security: None, certificates: Certificates::default() }
    }
}

/// Why a connection is closed before HTTP/2.
#[cfg_attr(not(feature = "tls"), expect(dead_code, reason = "nothing is secured"))]
pub(super) enum Unsecured {
    /// There is nothing to secure it with; nothing was sent.
    Unable(Error),
    /// The handshake failed.
    Failed(Error),
}

impl Securing {
    /// What secures the connections of a filter chain.
    pub(super) fn context(&self, chain: Option<&Arc<DownstreamTls>>) -> Option<Arc<DownstreamTls>> {
        chain.or(self.by_code.as_ref()).cloned()
    }

    /// Whether a filter chain of this name may have its connections secured so.
    ///
    /// # Errors
    ///
    /// What the floor demands.
    #[cfg(feature = "tls")]
    pub(super) fn check(&self, name: &str, chain: Option<&Arc<DownstreamTls>>) -> Result<(), Error> {
        self.acceptor.check_chain(name, self.context(chain).as_deref())
    }

    #[cfg(not(feature = "tls"))]
    pub(super) fn check(&self, _: &str, _: Option<&Arc<DownstreamTls>>) -> Result<(), Error> {
        Ok(())
    }

    /// Secures a connection as `context` says. The caller bounds the time.
    #[cfg(feature = "tls")]
    pub(super) async fn secure(
        &self,
        context: Option<&Arc<DownstreamTls>>,
        stream: TcpStream,
    ) -> Result<Ready, Unsecured> {
        let Some(context) = context else { return Ok(Ready::plain(stream)) };
        if self.is_permissive && !begins_with_tls(&stream).await.map_err(Unsecured::Failed)? {
            return Ok(Ready::plain(stream));
        }
        let accepting = self.acceptor.prepare(context).map_err(Unsecured::Unable)?;
        let (stream, security, lifetime) = accepting.run(stream).await.map_err(Unsecured::Failed)?;
        let certificates = Certificates { lifetime: Some(Box::new(lifetime)), ..Certificates::default() };
        Ok(Ready { stream: Stream::Tls(Box::new(stream)), security: Some(Arc::new(security)), certificates })
    }

    #[cfg(not(feature = "tls"))]
    pub(super) async fn secure(&self, _: Option<&Arc<DownstreamTls>>, stream: TcpStream) -> Result<Ready, Unsecured> {
        Ok(Ready::plain(stream))
    }

    /// Whether connections can be secured, for a server that is to say so. `contexts` is what secures each of its filter
    /// chains.
    pub(super) fn readiness(&self, contexts: Vec<Option<Arc<DownstreamTls>>>) -> Readiness {
        let serves_plaintext = self.is_permissive || contexts.iter().any(Option::is_none);
        let contexts: Vec<_> = contexts.into_iter().flatten().collect();
        #[cfg(feature = "tls")]
        let outlook = (!contexts.is_empty()).then(|| Outlook::new(self.acceptor.clone(), contexts));
        #[cfg(not(feature = "tls"))]
        drop((serves_plaintext, contexts));
        Readiness {
            #[cfg(feature = "tls")]
            outlook,
            #[cfg(feature = "tls")]
            serves_plaintext,
        }
    }
}

#[cfg(feature = "tls")]
async fn begins_with_tls(stream: &TcpStream) -> Result<bool, Error> {
    use crate::error::ErrorKind;

    let mut first = [0];
    match stream.peek(&mut first).await {
        Ok(0) => Err(Error::new(ErrorKind::Connection, "the client closed the connection before it said anything")),
        Ok(_) => Ok(first == [HANDSHAKE]),
        Err(error) => Err(Error::new(ErrorKind::Connection, "read the first byte of a connection").with_source(error)),
    }
}

/// Whether the connections of a server can be secured.
#[derive(Default)]
pub(super) struct Readiness {
    /// `None`: there is nothing to secure.
    #[cfg(feature = "tls")]
    outlook: Option<Outlook>,
    #[cfg(feature = "tls")]
    serves_plaintext: bool,
}

impl Readiness {
    /// Why some of them cannot at this moment, while others are served; `None`: all can.
    ///
    /// # Errors
    ///
    /// Why none can.
    #[cfg(feature = "tls")]
    pub(super) fn look(&mut self) -> Result<Option<Error>, Error> {
        let Shortcomings { first, all } = self.outlook.as_mut().map(Outlook::look).unwrap_or_default();
        match first {
            Some(error) if all && !self.serves_plaintext => Err(error),
            first => Ok(first),
        }
    }

    #[cfg(not(feature = "tls"))]
    pub(super) fn look(&mut self) -> Result<Option<Error>, Error> {
        Ok(None)
    }

    /// Waits until [`look`](Self::look) may find something else. Cancel safe.
    pub(super) async fn changed(&mut self) {
        #[cfg(feature = "tls")]
        if let Some(outlook) = &mut self.outlook {
            return outlook.changed().await;
        }
        std::future::pending().await
    }
}
