//! Events in, effects out: each rule of the protocol by itself.

mod control_planes;
mod data_errors;
mod responses;
mod subscriptions;
mod timers;
mod whatever;

use std::cell::Cell;

use super::*;
use crate::xds::message::Response;
use crate::xds::resource_type::{Decoded, FieldError};

/// Responses of this type are complete, as those of LDS and CDS are.
pub(crate) static THING: ResourceType =
    ResourceType { type_url: "type.googleapis.com/test.Thing", name: "Thing", absence_deletes: true, decode };
/// Responses of this type hold what changed, as those of RDS and EDS may.
pub(crate) static PART: ResourceType =
    ResourceType { type_url: "type.googleapis.com/test.Part", name: "Part", absence_deletes: false, decode };

thread_local! {
    static DECODED: Cell<u32> = const { Cell::new(0) };
}

/// The name is field 1 and the value field 2; the value `bad` is invalid.
fn decode(bytes: &[u8], _: &Extensions) -> Decoded {
    DECODED.set(DECODED.get() + 1);
    let resource = TestResource::decode_from(bytes);
    let value: Result<Arc<dyn Any + Send + Sync>, _> = match resource.value.as_str() {
        "bad" => Err(vec![FieldError { path: "value".into(), problem: "is bad".into() }]),
        value => Ok(Arc::new(value.to_owned())),
    };
    Decoded { value, ignored: Vec::new() }
}

#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct TestResource {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(string, tag = "2")]
    pub(crate) value: String,
}

impl TestResource {
    fn decode_from(bytes: &[u8]) -> Self {
        prost::Message::decode(bytes).unwrap_or_default()
    }
}

/// The bytes of a response; the types of prost, but not those of xDS, write it.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct TestResponse {
    #[prost(string, tag = "1")]
    pub(crate) version: String,
    #[prost(message, repeated, tag = "2")]
    pub(crate) resources: Vec<prost_types::Any>,
    #[prost(string, tag = "4")]
    pub(crate) type_url: String,
    #[prost(string, tag = "5")]
    pub(crate) nonce: String,
    #[prost(bytes = "vec", repeated, tag = "7")]
    pub(crate) errors: Vec<Vec<u8>>,
}

pub(crate) fn packed(ty: &ResourceType, name: &str, value: &str) -> prost_types::Any {
    let resource = TestResource { name: name.into(), value: value.into() };
    prost_types::Any { type_url: ty.type_url.into(), value: prost::Message::encode_to_vec(&resource) }
}

pub(crate) fn response(ty: &ResourceType, version: &str, nonce: &str, resources: &[(&str, &str)]) -> TestResponse {
    TestResponse {
        version: version.into(),
        resources: resources.iter().map(|(name, value)| packed(ty, name, value)).collect(),
        type_url: ty.type_url.into(),
        nonce: nonce.into(),
        errors: Vec::new(),
    }
}

fn resource_error(name: &str, code: i32, message: &str) -> Vec<u8> {
    use mesh_xds_proto::envoy::service::discovery::v3::{ResourceError, ResourceName};
    let error = ResourceError {
        resource_name: Some(ResourceName { name: name.into(), dynamic_parameter_constraints: None }),
        error_detail: Some(mesh_xds_proto::google::rpc::Status { code, message: message.into(), details: Vec::new() }),
    };
    prost::Message::encode_to_vec(&error)
}

fn options() -> AdsOptions {
    AdsOptions {
        does_not_exist_timeout: Duration::from_secs(15),
        timeout_is_transient: false,
        fail_on_data_errors: false,
        backoff: BackoffConfig::default(),
        extensions: Extensions::default(),
    }
}

/// The machine and the time.
struct Bench {
    ads: Ads,
    start: Instant,
    now: Instant,
}

impl Bench {
    fn new() -> Self {
        Self::with(options())
    }

    fn with(options: AdsOptions) -> Self {
        let now = Instant::now();
        Self { ads: Ads::new(options, now), start: now, now }
    }

    /// With an open stream and these names asked for.
    fn asked(ty: &'static ResourceType, names: &[&str]) -> Self {
        Self::asked_with(options(), ty, names)
    }

    fn asked_with(options: AdsOptions, ty: &'static ResourceType, names: &[&str]) -> Self {
        let mut bench = Self::with(options);
        bench.subscribe(ty, names);
        bench.open();
        bench.requests();
        bench
    }

    fn subscribe(&mut self, ty: &'static ResourceType, names: &[&str]) {
        names.iter().for_each(|name| self.ads.handle_subscribe(ty, (*name).into()));
    }

    fn unsubscribe(&mut self, ty: &'static ResourceType, names: &[&str]) {
        names.iter().for_each(|name| self.ads.handle_unsubscribe(ty, name));
    }

    fn open(&mut self) {
        self.ads.handle_connecting(self.now);
        self.ads.handle_opened(self.now);
    }

    fn close(&mut self, error: &str) {
        self.ads.handle_closed(self.now, error, 0.5);
    }

    /// Time goes by, with a wake wherever one is due.
    fn wait(&mut self, seconds: f64) {
        let end = self.now + Duration::from_secs_f64(seconds);
        while let Some(wake) = self.ads.poll_wake().filter(|wake| *wake <= end) {
            self.now = self.now.max(wake);
            self.ads.handle_wake(self.now);
            if self.ads.poll_wake().is_some_and(|wake| wake <= self.now) {
                return;
            }
        }
        self.now = end;
    }

    fn respond(&mut self, ty: &ResourceType, version: &str, nonce: &str, resources: &[(&str, &str)]) {
        self.take(&response(ty, version, nonce, resources));
    }

    fn take(&mut self, response: &TestResponse) {
        let bytes = prost::Message::encode_to_vec(response);
        self.ads.handle_response(self.now, Response::parse(&bytes).unwrap());
    }

    /// What is sent now, one line per request.
    fn requests(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.ads.poll_request(self.now)).map(|request| show(&request)).collect()
    }

    /// What the store is told, one line per update.
    fn updates(&mut self) -> Vec<String> {
        let updates = self.ads.take_updates();
        let connectivity = updates.connectivity.map(|error| format!("connectivity: {error:?}"));
        updates.resources.iter().map(show_update).chain(connectivity).collect()
    }
}

fn show(request: &Request) -> String {
    let Request { resource_type, version, nonce, names, error, first } = request;
    let node = if *first { " node" } else { "" };
    let error = error.as_ref().map(|error| format!(" error={error}")).unwrap_or_default();
    format!("{}{node} version={version} nonce={nonce} {}{error}", resource_type.name, names.join(","))
}

fn show_update(update: &Update) -> String {
    let what = match &update.kind {
        UpdateKind::Value { value, version, .. } => {
            format!("= {} @{version}", value.downcast_ref::<String>().unwrap())
        }
        UpdateKind::Confirmed { version } => format!("confirmed @{version}"),
        UpdateKind::Error { kind, text, keep } => {
            format!("{kind:?}{}: {text}", if *keep { " (kept)" } else { "" })
        }
        UpdateKind::Removed => "removed".into(),
    };
    format!("{} {} {what}", update.resource_type.name, update.name)
}

const NONE: [&str; 0] = [];
