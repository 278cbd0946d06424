//! Load reports out of band (A51): a stream on which the endpoint says how loaded it is, whether calls come or not.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use http::uri::Scheme;
use tokio::time::Instant;

use super::Connection;
use super::stats::EndpointStats;
use crate::backoff::{Backoff, BackoffConfig};
use crate::http2;
use crate::resource::weighted_round_robin::report_request;
use crate::xds::transport::grpc::GrpcStream;
use crate::xds::transport::{Stream, StreamError};

const METHOD: &str = "/xds.service.orca.v3.OpenRcaService/StreamCoreMetrics";
/// A longer report ends the stream.
const MAX_REPORT: usize = 64 << 10;

/// Takes one report: an `xds.data.orca.v3.OrcaLoadReport` as it was received, which may be anything.
pub type ReportSink = Arc<dyn Fn(&[u8]) + Send + Sync>;

/// Why no more reports come on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReportsEnd {
    /// The endpoint makes none; there is no use in asking again.
    Unsupported,
    /// There may be more if it is asked again later.
    Failed,
}

/// Asks again and again, until the endpoint says that it makes no reports.
pub(super) async fn watch<N: Connection>(connection: N, period: Duration, stats: Arc<EndpointStats>) {
    let mut backoff = Backoff::new(BackoffConfig::default());
    loop {
        let began = Instant::now();
        let endpoint = stats.clone();
        let sink: ReportSink = Arc::new(move |report| endpoint.handle_report(report, Instant::now()));
        if connection.load_reports(period, sink).await == ReportsEnd::Unsupported {
            return;
        }
        // A stream that went well for some time is not the same failure again.
        if began.elapsed() > period {
            backoff.reset();
        }
        tokio::time::sleep(backoff.next_delay(fastrand::f64())).await;
    }
}

/// One stream on an HTTP/2 connection.
pub(super) async fn stream(
    connection: http2::Connection,
    scheme: Scheme,
    authority: String,
    period: Duration,
    sink: ReportSink,
) -> ReportsEnd {
    let Ok(slot) = connection.try_acquire() else { return ReportsEnd::Failed };
    let uri = Uri::builder().scheme(scheme).authority(authority).path_and_query(METHOD).build();
    let Ok(uri) = uri else { return ReportsEnd::Unsupported };
    let mut stream = GrpcStream::new(slot, uri, MAX_REPORT);
    poll_fn(|cx| stream.poll_ready(cx)).await;
    stream.send(report_request(period));
    stream.finish();
    loop {
        match poll_fn(|cx| stream.poll_recv(cx)).await {
            Ok(report) => sink(&report),
            Err(error) => return end(&error),
        }
    }
}

fn end(error: &StreamError) -> ReportsEnd {
    match error.to_string().starts_with("UNIMPLEMENTED") {
        true => ReportsEnd::Unsupported,
        false => ReportsEnd::Failed,
    }
}
