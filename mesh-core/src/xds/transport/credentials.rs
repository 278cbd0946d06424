//! What secures a connection to the control plane (A27, A65).

use super::StreamError;
use super::connector::BoxIo;
use crate::bootstrap::ChannelCredentials;
use crate::error::Error;

/// Turns a connection into a secured one.
#[derive(Debug)]
pub(crate) enum Credentials {
    Insecure,
    #[cfg(feature = "tls")]
    Tls(Box<tls::Tls>),
}

impl Credentials {
    /// Reads what the credentials need. `server_name` is what the server's certificate must be valid for; `tls_1_3_only`: no
    /// older version of TLS will do.
    ///
    /// # Errors
    ///
    /// A file cannot be read or used: never a reason to go without.
    pub(crate) fn new(credentials: &ChannelCredentials, server_name: &str, tls_1_3_only: bool) -> Result<Self, Error> {
        #[cfg(not(feature = "tls"))]
        let _ = tls_1_3_only;
        match credentials {
            ChannelCredentials::Insecure => Ok(Self::Insecure),
            #[cfg(feature = "tls")]
            ChannelCredentials::Tls(files) => {
                Ok(Self::Tls(Box::new(tls::Tls::new(files.clone(), server_name, tls_1_3_only)?)))
            }
            #[cfg(not(feature = "tls"))]
            ChannelCredentials::Tls(_) => {
                let message = format!("TLS to `{server_name}` needs mesh-core's feature `tls`, which is off");
                Err(Error::new(crate::error::ErrorKind::Setup, message))
            }
        }
    }

    /// Whether requests go over `https`.
    pub(super) fn is_tls(&self) -> bool {
        !matches!(self, Self::Insecure)
    }

    /// For errors that may be about them: a server of TLS 1.3 refuses a client only after the client's handshake.
    pub(super) fn described(&self) -> &'static str {
        match self {
            Self::Insecure => "",
            #[cfg(feature = "tls")]
            Self::Tls(tls) if tls.has_identity() => "TLS with a client certificate: ",
            #[cfg(feature = "tls")]
            Self::Tls(_) => "TLS without a client certificate: ",
        }
    }

    /// The server refused them, or what it showed was refused: what they are made from is read anew for the next connection.
    pub(super) fn handle_refused(&self) {
        match self {
            Self::Insecure => {}
            #[cfg(feature = "tls")]
            Self::Tls(tls) => tls.handle_refused(),
        }
    }

    pub(super) async fn secure(&self, io: BoxIo) -> Result<BoxIo, StreamError> {
        match self {
            Self::Insecure => Ok(io),
            #[cfg(feature = "tls")]
            Self::Tls(tls) => tls.handshake(io).await,
        }
    }
}

#[cfg(feature = "tls")]
mod tls {
    use std::fmt;
    use std::io;
    use std::path::Path;
    use std::sync::Arc;
    use std::time::Duration;

    use parking_lot::Mutex;
    use rustls::client::Resumption;
    use rustls::crypto::CryptoProvider;
    use rustls::version::{TLS12, TLS13};
    use rustls::{ClientConfig, InvalidMessage, RootCertStore};
    use rustls_pki_types::pem::PemObject;
    use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
    use tokio::time::{Instant, timeout};
    use tokio_rustls::TlsConnector;

    use super::*;
    use crate::aside::Ongoing;
    use crate::bootstrap::TlsFiles;
    use crate::error::{BoxError, ErrorKind};
    use crate::files;
    use crate::identity::crypto;

    /// A connection goes on with the last good files when they take longer to be read anew: it has some time left to be made.
    const READING: Duration = Duration::from_secs(5);

    /// TLS with the files of the bootstrap, which are read anew for a connection when they may have changed: after their
    /// refresh interval, and after a connection that failed by them.
    pub(crate) struct Tls {
        source: Arc<Source>,
        server_name: ServerName<'static>,
        loaded: Mutex<Loaded>,
        /// Of connections that did not wait for it, too.
        loading: Ongoing<Result<Arc<ClientConfig>, BoxError>>,
    }

    struct Source {
        files: TlsFiles,
        provider: Arc<CryptoProvider>,
        tls_1_3_only: bool,
    }

    #[derive(Clone)]
    struct Loaded {
        config: Arc<ClientConfig>,
        at: Instant,
        was_refused: bool,
    }

    impl Loaded {
        fn now(config: Arc<ClientConfig>) -> Self {
            Self { config, at: Instant::now(), was_refused: false }
        }
    }

    impl fmt::Debug for Tls {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.debug_struct("Tls").field("server_name", &self.server_name).finish_non_exhaustive()
        }
    }

    impl Tls {
        pub(super) fn new(files: TlsFiles, server_name: &str, tls_1_3_only: bool) -> Result<Self, Error> {
            let setup = |what: String| Error::new(ErrorKind::Setup, what);
            let server_name = ServerName::try_from(server_name.to_owned())
                .map_err(|error| setup(format!("no certificate can be for `{server_name}`")).with_source(error))?;
            let source = Source { files, provider: crypto()?, tls_1_3_only };
            let config = source.load().map_err(|error| {
                setup(
                    "the `tls` credentials of the control plane (`channel_creds` in the bootstrap) cannot be used"
                        .to_owned(),
                )
                .with_source(error)
            })?;
            let (loaded, loading) = (Mutex::new(Loaded::now(config)), Ongoing::default());
            Ok(Self { source: Arc::new(source), server_name, loaded, loading })
        }

        pub(super) fn has_identity(&self) -> bool {
            self.source.files.identity.is_some()
        }

        pub(super) fn handle_refused(&self) {
            self.loaded.lock().was_refused = true;
        }

        pub(super) async fn handshake(&self, io: BoxIo) -> Result<BoxIo, StreamError> {
            let connector = TlsConnector::from(self.config().await);
            let connecting = connector.connect(self.server_name.clone(), io).await;
            let stream = connecting.map_err(|error| {
                self.handle_refused();
                StreamError::new(format!("UNAVAILABLE: TLS: {}", refused(&error)))
            })?;
            if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
                return Err(StreamError::new("UNAVAILABLE: TLS: the server did not choose HTTP/2 (ALPN `h2`)"));
            }
            Ok(Box::new(stream))
        }

        /// The last good configuration, read anew if it is old or was of no use.
        async fn config(&self) -> Arc<ClientConfig> {
            let loaded = self.loaded.lock().clone();
            if !loaded.was_refused && loaded.at.elapsed() < self.source.files.refresh_interval {
                return loaded.config;
            }
            let source = self.source.clone();
            let Ok(loading) = timeout(READING, self.loading.run(move || source.load())).await else {
                tracing::warn!(
                    "credentials of the control plane could not be read anew within {READING:?}, and are waited for; the last \
                     stay in use"
                );
                return loaded.config;
            };
            let config = match loading.map_err(BoxError::from).and_then(|loaded| loaded) {
                Ok(config) => config,
                Err(error) => {
                    tracing::warn!(error, "credentials of the control plane cannot be read anew; the last stay in use");
                    loaded.config
                }
            };
            *self.loaded.lock() = Loaded::now(config.clone());
            config
        }
    }

    /// Why there is no TLS, in words.
    fn refused(error: &io::Error) -> String {
        let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
        match cause {
            Some(rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType)) => {
                "the server does not speak TLS; if it is to be reached without, give it `insecure` channel credentials"
                    .to_owned()
            }
            _ => error.to_string(),
        }
    }

    impl Source {
        /// All files in one go; roots, chain and key are used together or not at all.
        fn load(&self) -> Result<Arc<ClientConfig>, BoxError> {
            let versions: &[_] = if self.tls_1_3_only { &[&TLS13] } else { &[&TLS13, &TLS12] };
            let builder = ClientConfig::builder_with_provider(self.provider.clone())
                .with_protocol_versions(versions)?
                .with_root_certificates(self.roots()?);
            let mut config = match &self.files.identity {
                None => builder.with_no_client_auth(),
                Some((certificate, key)) => {
                    let chain = certificates(certificate)?;
                    let pem = files::read(key).map_err(|error| in_file(key, error))?;
                    let own = PrivateKeyDer::from_pem_slice(&pem).map_err(|error| in_file(key, error))?;
                    builder.with_client_auth_cert(chain, own).map_err(|error| in_file(certificate, error))?
                }
            };
            config.alpn_protocols = vec![b"h2".to_vec()];
            config.require_ems = true;
            config.resumption = Resumption::disabled();
            Ok(Arc::new(config))
        }

        fn roots(&self) -> Result<RootCertStore, BoxError> {
            let mut roots = RootCertStore::empty();
            match &self.files.ca_certificate {
                Some(path) => {
                    for certificate in certificates(path)? {
                        roots.add(certificate).map_err(|error| in_file(path, error))?;
                    }
                }
                None => {
                    let native = rustls_native_certs::load_native_certs();
                    // Systems ship roots that nobody can read; what counts is that there are some.
                    roots.add_parsable_certificates(native.certs);
                    if roots.is_empty() {
                        let errors: Vec<String> = native.errors.iter().map(ToString::to_string).collect();
                        return Err(format!("the system has no root certificates: {}", errors.join("; ")).into());
                    }
                }
            }
            Ok(roots)
        }
    }

    fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, BoxError> {
        let pem = files::read(path).map_err(|error| in_file(path, error))?;
        match CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>() {
            Ok(certificates) if certificates.is_empty() => {
                Err(in_file(path, io::Error::new(io::ErrorKind::InvalidData, "no certificate in PEM")))
            }
            Ok(certificates) => Ok(certificates),
            Err(error) => Err(in_file(path, error)),
        }
    }

    fn in_file(path: &Path, error: impl fmt::Display) -> BoxError {
        format!("{}: {error}", path.display()).into()
    }
}
