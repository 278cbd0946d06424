//! The way to issuers of tokens: their key sets (`remote_jwks`) are fetched by HTTP/2 through the clusters that are named for
//! it, which are followed as long as somebody needs the sets.

use std::fmt::Display;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::{Arc, Weak};

use bytes::{Bytes, BytesMut};
use http::header::ACCEPT;
use http::{Request, StatusCode};
use http_body::Body;
use tokio::time::Instant;
use tower::ServiceExt as _;
#[cfg(feature = "cluster")]
use tower_layer::Layer as _;

use super::{Inner, Mesh};
use crate::call::{Call, CallInfo};
use crate::discover::{self, Facts, Target};
use crate::resource::jwt::keys::MAX_LENGTH;
use crate::resource::jwt::remote::{Fetch, Issuers, RemoteSource};
use crate::snapshot::PrepareClusters;
use crate::snapshot::demand::{Demand, Limits};
use crate::snapshot::dependencies::Dependencies;
use crate::stack::client::Attempt;

/// Where a redirect would lead, the configuration does not say.
const NOT_FOLLOWED: &str = ", and no redirect is followed";

/// Those that a mesh leads to, while it lasts.
pub(super) struct KeyIssuers(Weak<Inner>);

impl KeyIssuers {
    pub(super) fn of(mesh: &Mesh) -> Self {
        Self(Arc::downgrade(&mesh.inner))
    }
}

impl Issuers for KeyIssuers {
    fn open(&self, source: &RemoteSource) -> Option<Fetch> {
        let mesh = Mesh { inner: self.0.upgrade()? };
        let issuer = Arc::new(mesh.issuer(source)?);
        Some(Box::new(move || {
            let issuer = issuer.clone();
            Box::pin(async move { issuer.fetch().await })
        }))
    }

    fn spawn(&self, task: Pin<Box<dyn Future<Output = ()> + Send>>) {
        if let Some(mesh) = self.0.upgrade() {
            let task = mesh.life.closed.clone().run_until_cancelled_owned(task);
            mesh.life.spawn(async move {
                let _ = task.await;
            });
        }
    }
}

/// One issuer.
struct Issuer {
    source: RemoteSource,
    attempt: Attempt,
    demand: Arc<Demand>,
    /// Its cluster is followed until this is dropped.
    _target: Target,
}

impl Mesh {
    /// `None`: there is no control plane that has clusters.
    fn issuer(&self, source: &RemoteSource) -> Option<Issuer> {
        let (inner, xds) = (&self.inner, self.inner.xds.as_ref()?);
        let limits = Limits { max_wait: source.timeout, max_pending: inner.max_pending };
        let demand = Demand::new(limits, inner.life.closed.clone());
        let clusters: Arc<dyn PrepareClusters> = Arc::new(inner.clusters.clone());
        let facts = Facts {
            target: format!("the issuer at cluster `{}`", source.cluster).into(),
            authority: source.uri.authority()?.clone(),
            control_plane: None,
            expected: None,
            clusters: clusters.clone(),
            max_wait: inner.max_wait,
            max_pending: inner.max_pending,
            runtime: inner.life.runtime.clone(),
        };
        let (target, of_target) = Target::new(facts, &inner.life.closed);
        let dependencies = Dependencies::of_demand(xds.control_plane(), demand.clone());
        let subscriptions = self.subscriptions(xds, &clusters);
        self.spawn(discover::follow_xds(of_target, subscriptions, dependencies, clusters));
        let attempt = self.balance();
        #[cfg(feature = "cluster")]
        let attempt = inner.cluster.layer(attempt);
        Some(Issuer { source: source.clone(), attempt, demand, _target: target })
    }
}

impl Issuer {
    /// The set as it is now.
    ///
    /// # Errors
    ///
    /// Why it cannot be had, or must not be taken.
    async fn fetch(&self) -> Result<Bytes, String> {
        let RemoteSource { uri, cluster, timeout, .. } = &self.source;
        let mut call = Call::new(Some(*timeout));
        let entry = match self.demand.find(cluster) {
            Some(entry) => entry,
            None => {
                let known = self.demand.clone().wait(cluster.clone(), Instant::now(), call.deadline).await;
                known.map_err(|error| error.report())?
            }
        };
        call.cluster = Some(entry);
        let request = Request::get(uri.clone()).header(ACCEPT, "application/json").body(String::new());
        let mut request = request.map_err(|error| error.to_string())?;
        request.extensions_mut().insert(call);
        let response = self.attempt.clone().oneshot(request).await.map_err(|error| error.report())?;
        let is_secured = response.extensions().get::<CallInfo>().is_some_and(|info| info.peer().is_some());
        if !is_secured {
            return Err(format!("it came in plaintext: cluster `{cluster}` has no TLS context"));
        }
        match response.status() {
            StatusCode::OK => read(response.into_body()).await,
            status => {
                let more = if status.is_redirection() { NOT_FOLLOWED } else { "" };
                Err(format!("it was answered with {status}{more}"))
            }
        }
    }
}

/// What is longer than a set may be is not read to its end.
async fn read<B>(body: B) -> Result<Bytes, String>
where
    B: Body<Data = Bytes, Error: Display>,
{
    let too_long = || format!("the set is longer than {MAX_LENGTH} bytes");
    if body.size_hint().lower() > MAX_LENGTH as u64 {
        return Err(too_long());
    }
    let (mut body, mut set) = (pin!(body), BytesMut::new());
    while let Some(frame) = poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
        let frame = frame.map_err(|error| error.to_string())?;
        let Ok(data) = frame.into_data() else { continue };
        if set.len() + data.len() > MAX_LENGTH {
            return Err(too_long());
        }
        set.extend_from_slice(&data);
    }
    Ok(set.freeze())
}
