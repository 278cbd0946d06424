//! Counts what became of the calls, and prints it.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use bytes::Bytes;
use hdrhistogram::Histogram;
use http::HeaderName;
use mesh_core::{IgnoredField, Setting};
use serde::Serialize;
use tonic::Code;

use crate::args::Args;
use crate::load::Ended;

/// The longest latency told apart from longer ones, in nanoseconds.
const HOUR: u64 = 3_600_000_000_000;

/// What became of the calls. It is also the JSON object.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    calls: u64,
    /// By name of the gRPC status.
    codes: BTreeMap<&'static str, u64>,
    /// By address.
    endpoints: BTreeMap<String, u64>,
    /// Of the first call that failed.
    message: Option<String>,
    p50_ms: Option<f64>,
    p99_ms: Option<f64>,
    max_ms: Option<f64>,
    /// In hexadecimal, if there was one call.
    reply: Option<String>,
    /// Fields that the control plane set and nothing acts on, by resource type.
    ignored: Option<BTreeMap<&'static str, Vec<String>>>,
    /// What is in force for the calls, and who set it.
    in_force: Option<Vec<String>>,
    #[serde(skip)]
    each: bool,
    /// Headers of answers that are shown.
    #[serde(skip)]
    show: Vec<HeaderName>,
    #[serde(skip)]
    last_reply: Option<Bytes>,
    /// Of all calls, in nanoseconds.
    #[serde(skip)]
    latencies: Histogram<u64>,
}

/// The line of a call.
#[derive(Serialize)]
struct Line<'a> {
    n: u64,
    t_ms: f64,
    code: &'static str,
    ms: f64,
    endpoint: Option<&'a str>,
    message: Option<&'a str>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    headers: BTreeMap<&'a str, Vec<&'a str>>,
}

impl Report {
    pub(crate) fn new(args: &Args) -> Self {
        Self {
            calls: 0,
            codes: BTreeMap::new(),
            endpoints: BTreeMap::new(),
            message: None,
            p50_ms: None,
            p99_ms: None,
            max_ms: None,
            reply: None,
            ignored: None,
            in_force: None,
            each: args.each,
            show: args.show.clone(),
            last_reply: None,
            latencies: Histogram::new_with_bounds(1, HOUR, 3).expect("these bounds and this precision are possible"),
        }
    }

    /// Counts a call.
    pub(crate) fn add(&mut self, ended: Ended) {
        let Ended { number, at, took, result, headers, endpoint } = ended;
        let (code, message) = match &result {
            Ok(_) => (Code::Ok, None),
            Err(status) => (status.code(), Some(status.message())),
        };
        if self.each {
            let endpoint = endpoint.as_deref();
            let values = |name| headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).collect();
            let headers = self.show.iter().map(|name| (name.as_str(), values(name.as_str()))).collect();
            let line = Line { n: number, t_ms: ms(at), code: name(code), ms: ms(took), endpoint, message, headers };
            println!("{}", serde_json::to_string(&line).expect("numbers and strings are JSON"));
        }
        self.calls += 1;
        *self.codes.entry(name(code)).or_default() += 1;
        if let Some(endpoint) = endpoint {
            *self.endpoints.entry(endpoint).or_default() += 1;
        }
        if let Some(message) = message {
            self.message.get_or_insert_with(|| message.to_owned());
        }
        self.latencies.saturating_record(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
        self.last_reply = result.ok();
    }

    /// Nothing could be called.
    pub(crate) fn no_call(&mut self, message: String) {
        self.message = Some(message);
    }

    /// What the control plane set in vain.
    pub(crate) fn ignored(&mut self, fields: &[IgnoredField]) {
        let by_type = self.ignored.insert(BTreeMap::new());
        for field in fields {
            by_type.entry(field.resource_type).or_default().push(field.path.clone());
        }
    }

    /// What holds for the calls.
    pub(crate) fn in_force(&mut self, settings: &[Setting]) {
        self.in_force = Some(settings.iter().map(ToString::to_string).collect());
    }

    /// Whether there were calls, and all succeeded.
    pub(crate) fn is_success(&self) -> bool {
        self.calls > 0 && self.message.is_none()
    }

    /// Prints the summary.
    pub(crate) fn print(&mut self, json: bool) {
        if self.calls > 0 {
            let latencies = &self.latencies;
            let ms = |nanos| ms(Duration::from_nanos(nanos));
            self.p50_ms = Some(ms(latencies.value_at_quantile(0.5).min(latencies.max())));
            self.p99_ms = Some(ms(latencies.value_at_quantile(0.99).min(latencies.max())));
            self.max_ms = Some(ms(latencies.max()));
        }
        if self.calls == 1 {
            self.reply = self.last_reply.take().map(|reply| hex(&reply));
        }
        if json {
            println!("{}", serde_json::to_string(self).expect("numbers, strings and maps by string are JSON"));
        } else if self.calls > 0 {
            print!("{}", self.text());
        }
    }

    fn text(&self) -> String {
        let codes: Vec<String> = self.codes.iter().map(|(code, count)| format!("{count} {code}")).collect();
        let mut text = format!("{}: {}\n", calls(self.calls), codes.join(", "));
        if let (Some(p50), Some(p99), Some(max)) = (self.p50_ms, self.p99_ms, self.max_ms) {
            text += &format!("latency: p50 {p50} ms, p99 {p99} ms, max {max} ms\n");
        }
        for (endpoint, count) in &self.endpoints {
            text += &format!("{endpoint}: {}\n", calls(*count));
        }
        if let Some(message) = &self.message {
            let message = if message.is_empty() { "it came without a message" } else { message };
            text += &format!("first failure: {message}\n");
        }
        if let Some(reply) = &self.reply {
            text += &format!("reply: {reply}\n");
        }
        for (resource_type, paths) in self.ignored.iter().flatten() {
            text += &format!("ignored in {resource_type}: {}\n", paths.join(", "));
        }
        for setting in self.in_force.iter().flatten() {
            text += &format!("in force: {setting}\n");
        }
        text
    }
}

fn calls(number: u64) -> String {
    format!("{number} call{}", if number == 1 { "" } else { "s" })
}

/// In milliseconds, to the microsecond.
fn ms(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes what is written");
        text
    })
}

/// The name of a status code, as in gRPC's documents.
fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}
