//! One copy of a call: its head, and how it is sent.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;

use http::{Request, Response};
use http_body::Body;
use tokio::time::Instant;
use tower_service::Service;

use super::tee::CopyBody;
use crate::call::Call;
use crate::resource::filter::template::{Facts, Message};
use crate::resource::matcher::RequestHead;
use crate::resource::mirror::MirrorPolicy;
use crate::snapshot::ClusterEntry;

/// The cluster that the policy names for the request, if the target knows it.
pub(super) fn cluster<'a, B>(policy: &MirrorPolicy, request: &'a Request<B>) -> Option<&'a Arc<ClusterEntry>> {
    let snapshot = request.extensions().get::<Call>()?.snapshot.as_ref()?;
    let table = snapshot.routing.as_ref().ok()?;
    let place = table.clusters().get_index_of(policy.cluster.name(request.headers())?)?;
    snapshot.clusters.get(place)
}

/// The head of a copy; with a cluster, of a call that goes there.
pub(super) fn head<B>(policy: &MirrorPolicy, request: &Request<B>, cluster: Option<&Arc<ClusterEntry>>) -> Request<()> {
    let call = request.extensions().get::<Call>();
    let mut copy = changed(policy, request, call);
    if let (Some(call), Some(cluster)) = (call, cluster) {
        let Call { deadline, hash, channel, .. } = *call;
        let cluster = Some(cluster.clone());
        copy.extensions_mut().insert(Call {
            deadline,
            hash,
            channel,
            cluster,
            // A copy tells as much as the call does.
            #[cfg(feature = "tls")]
            expected: call.expected.clone(),
            ..Call::default()
        });
    }
    copy
}

fn changed<B>(policy: &MirrorPolicy, request: &Request<B>, call: Option<&Call>) -> Request<()> {
    let mut copy = Request::new(());
    *copy.method_mut() = request.method().clone();
    *copy.version_mut() = request.version();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();
    policy.address(copy.uri_mut(), call.is_none_or(may_rewrite));
    let route = call.and_then(Call::route_name);
    let cluster = call.and_then(|call| Some(&*call.cluster.as_ref()?.key.name));
    for change in &policy.headers {
        let facts = Facts { cluster, route: route.as_deref(), message: Message::Request(RequestHead::of(&copy)) };
        let value = change.value(&facts);
        change.apply(value, copy.headers_mut());
    }
    copy
}

/// Whether the control plane has a say in the authority of the call's copies (A81).
fn may_rewrite(call: &Call) -> bool {
    let table = call.snapshot.as_ref().and_then(|snapshot| snapshot.routing.as_ref().ok());
    table.is_some_and(|table| table.trusted) && !call.has_own_authority
}

/// Sends the copy and reads its response to the end, for nobody: whether there was one.
pub(super) async fn exchange<M, R>(mut mirror: M, copy: Request<CopyBody>, deadline: Instant) -> bool
where
    M: Service<Request<CopyBody>, Response = Response<R>>,
    R: Body,
{
    let exchange = async {
        // The call's own bytes leave first.
        tokio::task::yield_now().await;
        poll_fn(|cx| mirror.poll_ready(cx)).await.ok()?;
        let mut body = pin!(mirror.call(copy).await.ok()?.into_body());
        while let Some(Ok(_)) = poll_fn(|cx| body.as_mut().poll_frame(cx)).await {}
        Some(())
    };
    tokio::time::timeout_at(deadline, exchange).await.is_ok_and(|answered| answered.is_some())
}
