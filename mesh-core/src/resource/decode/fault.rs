//! `HTTPFault` (A33).

use mesh_xds_proto::envoy::extensions::filters::common::fault::v3::FaultDelay;
use mesh_xds_proto::envoy::extensions::filters::common::fault::v3::fault_delay::FaultDelaySecifier;
use mesh_xds_proto::envoy::extensions::filters::http::fault::v3::fault_abort::ErrorType;
use mesh_xds_proto::envoy::extensions::filters::http::fault::v3::{FaultAbort, HttpFault};
use mesh_xds_proto::envoy::r#type::v3::FractionalPercent;

use super::place::At;
use super::route_match::header_match;
use super::value::{duration, share};
use crate::resource::answer::AnswerStatus;
use crate::resource::filter::fault::{self, Fault, Scope, Share};
use crate::resource::verdict::Fields;

pub(super) fn fault(message: &HttpFault, at: &At<'_>) -> Fault {
    message.judge(at);
    let headers = message.headers.iter().enumerate();
    let headers = headers.filter_map(|(index, header)| header_match(header, &at.item("headers", index))).collect();
    let cluster = Some(&*message.upstream_cluster).filter(|name| !name.is_empty()).map(Into::into);
    let fault = Fault::new().within(Scope { cluster, headers });
    let fault = message.delay.iter().fold(fault, |fault, message| delay(fault, message, &at.field("delay")));
    let fault = message.abort.iter().fold(fault, |fault, message| abort(fault, message, &at.field("abort")));
    message.max_active_faults.into_iter().fold(fault, Fault::max_active)
}

fn delay(fault: Fault, message: &FaultDelay, at: &At<'_>) -> Fault {
    message.judge(at);
    let share = percentage(message.percentage.as_ref(), at);
    match message.fault_delay_secifier {
        Some(FaultDelaySecifier::FixedDelay(fixed)) => {
            fault.with_delay(duration(Some(fixed), &at.field("fixed_delay")), share)
        }
        Some(FaultDelaySecifier::HeaderDelay(_)) => fault.with_delay(None, share),
        None => fault,
    }
}

fn abort(fault: Fault, message: &FaultAbort, at: &At<'_>) -> Fault {
    message.judge(at);
    let share = percentage(message.percentage.as_ref(), at);
    match message.error_type {
        Some(ErrorType::HttpStatus(status)) => {
            let known = fault::http_status(status.into());
            fault.with_abort(valid(known, status, "a status of HTTP from 200 to 599", &at.field("http_status")), share)
        }
        Some(ErrorType::GrpcStatus(code)) => {
            let known = fault::grpc_status(code.into());
            fault.with_abort(valid(known, code, "a code of gRPC, 0 to 16", &at.field("grpc_status")), share)
        }
        Some(ErrorType::HeaderAbort(_)) => fault.with_abort(None, share),
        None => fault,
    }
}

fn valid(status: Option<AnswerStatus>, number: u32, wanted: &str, at: &At<'_>) -> Option<AnswerStatus> {
    if status.is_none() {
        at.error(format!("{number} is not {wanted}"));
    }
    status
}

/// No percentage is 0 %.
fn percentage(message: Option<&FractionalPercent>, at: &At<'_>) -> Share {
    let share = message.and_then(|percent| share(percent, &at.field("percentage")));
    share.unwrap_or(Share { numerator: 0, denominator: 100 })
}
