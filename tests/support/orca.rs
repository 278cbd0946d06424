//! How backends report their load (ORCA): in the trailers of each response, and on streams of
//! `xds.service.orca.v3.OpenRcaService`.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::{Stream, StreamExt, stream};
use http::{HeaderName, HeaderValue};
use http_body_util::BodyExt;
use mesh_xds_proto::xds::data::orca::v3::OrcaLoadReport;
use mesh_xds_proto::xds::service::orca::v3::OrcaLoadReportRequest;
use parking_lot::Mutex;
use prost::Message;
use tokio::sync::watch;
use tonic::body::Body;
use tonic::metadata::{BinaryMetadataValue, MetadataMap};
use tonic::server::{Grpc, NamedService, ServerStreamingService};
use tonic::{Request, Response, Status};
use tower::Service;

use super::{Counted, Counter};

const HEADER: HeaderName = HeaderName::from_static("endpoint-load-metrics-bin");

/// What one backend says of its load; clones share it.
#[derive(Clone)]
pub(crate) struct Reporting {
    report: watch::Sender<Option<OrcaLoadReport>>,
    trailer: Arc<Mutex<Option<HeaderValue>>>,
    pub(crate) streams: Counter,
    /// The intervals that streams asked for.
    pub(crate) asked: Arc<Mutex<Vec<prost_types::Duration>>>,
}

impl Reporting {
    pub(crate) fn new() -> Self {
        Self {
            report: watch::Sender::new(None),
            trailer: Arc::default(),
            streams: Counter::new(),
            asked: Arc::default(),
        }
    }

    /// Reports this in the trailers of each response from now on.
    pub(crate) fn with_calls(&self, report: &OrcaLoadReport) {
        let value = BinaryMetadataValue::from_bytes(&report.encode_to_vec());
        let mut metadata = MetadataMap::new();
        metadata.insert_bin("endpoint-load-metrics-bin", value);
        self.trailer(metadata.into_headers()[&HEADER].clone());
    }

    /// Has this as the trailer, whatever it is.
    pub(crate) fn trailer(&self, value: HeaderValue) {
        *self.trailer.lock() = Some(value);
    }

    /// Reports this on every stream, now and when a stream begins.
    pub(crate) fn on_streams(&self, report: OrcaLoadReport) {
        self.report.send_replace(Some(report));
    }

    /// Adds the trailer to a response.
    pub(crate) fn add_to(&self, response: http::Response<Body>) -> http::Response<Body> {
        let Some(value) = self.trailer.lock().clone() else { return response };
        response.map(|body| {
            Body::new(body.map_frame(move |mut frame| {
                if let Some(trailers) = frame.trailers_mut() {
                    trailers.insert(HEADER, value.clone());
                }
                frame
            }))
        })
    }
}

/// The service of the streams.
#[derive(Clone)]
pub(crate) struct OpenRca(pub(crate) Reporting);

impl NamedService for OpenRca {
    const NAME: &'static str = "xds.service.orca.v3.OpenRcaService";
}

type Answer<T> = Pin<Box<dyn Future<Output = T> + Send>>;
type Reports = Pin<Box<dyn Stream<Item = Result<OrcaLoadReport, Status>> + Send>>;

impl Service<http::Request<Body>> for OpenRca {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Answer<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let me = self.clone();
        Box::pin(async move {
            assert!(request.uri().path().ends_with("/StreamCoreMetrics"), "{}", request.uri());
            let mut grpc = Grpc::new(tonic_prost::ProstCodec::default());
            Ok(grpc.server_streaming(me, request).await)
        })
    }
}

impl ServerStreamingService<OrcaLoadReportRequest> for OpenRca {
    type Response = OrcaLoadReport;
    type ResponseStream = Reports;
    type Future = Answer<Result<Response<Reports>, Status>>;

    fn call(&mut self, request: Request<OrcaLoadReportRequest>) -> Self::Future {
        let Reporting { report, streams, asked, .. } = &self.0;
        asked.lock().extend(request.into_inner().report_interval);
        let open = Counted::by(streams);
        let mut changes = report.subscribe();
        changes.mark_changed();
        let reports = stream::unfold((changes, open), |(mut changes, open)| async {
            changes.changed().await.ok()?;
            let report = changes.borrow_and_update().clone();
            Some((report, (changes, open)))
        });
        let reports = reports.filter_map(async |report| report.map(Ok));
        Box::pin(async { Ok(Response::new(Box::pin(reports) as Reports)) })
    }
}
