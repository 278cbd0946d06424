//! What can be made to go wrong with a control plane.
//!
//! A [`Fault`] stands from [`inject`](super::ControlPlane::inject) until it is lifted, or applies a number of times.
//! Faults compose: each response passes all that concern it, in the order in which they were injected. Nothing here
//! is left to chance: garbage is the same for the same seed.

use std::time::Duration;

use bytes::Bytes;

use super::frame;
use super::sotw::Response;

/// One thing that goes wrong, for every type and for ever unless said otherwise.
///
/// ```
/// use mesh_core::testing::{Fault, type_url};
/// use std::time::Duration;
///
/// // The first two cluster responses come late.
/// let late = Fault::delay(Duration::from_millis(50)).only(type_url::CLUSTER).times(2);
/// # let _ = late;
/// ```
#[derive(Clone, Debug)]
pub struct Fault {
    action: Action,
    type_url: Option<String>,
    times: Option<u32>,
}

#[derive(Clone, Debug)]
enum Action {
    RefuseConnections,
    HalfOpen,
    CutConnection(u64),
    RefuseStreams(StreamEnd),
    WithholdHeaders,
    Silence,
    Delay(Duration),
    Lose,
    EndStream(StreamEnd),
    Duplicate,
    RepeatResources,
    Reorder,
    WrongTypeUrl(String),
    GarbageResources(u64),
    GarbageMessage(u64),
    HugeMessage,
}

/// How the server ends a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum StreamEnd {
    /// With trailers: a gRPC status code and message.
    Status(i32, String),
    /// With RST_STREAM.
    Reset,
}

/// Faults of connections. `times` counts connections, the type plays no role.
impl Fault {
    /// New connections end before a byte is exchanged: those over TCP by a reset, those in process by
    /// `ConnectionRefused`. [`ControlPlane::stop`](super::ControlPlane::stop) closes the port itself.
    pub fn refuse_connections() -> Self {
        Self::new(Action::RefuseConnections)
    }

    /// Connections, those that are open and new ones, stay open while the server neither reads nor writes: a peer
    /// behind a broken network. They go on where they stopped when the fault is lifted.
    pub fn half_open() -> Self {
        Self::new(Action::HalfOpen)
    }

    /// Connections, those that are open and new ones, end once the server has written so many more bytes: in the
    /// middle of a frame, if they fall so. 0 ends them with the next write.
    pub fn cut_connections_after(bytes: u64) -> Self {
        Self::new(Action::CutConnection(bytes))
    }
}

/// Faults of streams. `times` counts streams, the type plays no role.
impl Fault {
    /// New streams end at once, with this gRPC status code and message.
    pub fn refuse_streams(code: i32, message: impl Into<String>) -> Self {
        Self::new(Action::RefuseStreams(StreamEnd::Status(code, message.into())))
    }

    /// New streams are reset at once.
    pub fn reset_streams() -> Self {
        Self::new(Action::RefuseStreams(StreamEnd::Reset))
    }

    /// New streams are accepted and their requests read, but no response headers come until the fault is lifted.
    pub fn withhold_headers() -> Self {
        Self::new(Action::WithholdHeaders)
    }
}

/// Faults of responses. `times` counts responses.
impl Fault {
    /// No response is made until the fault is lifted; then what is due by then comes. `times` plays no role.
    pub fn silence() -> Self {
        Self::new(Action::Silence)
    }

    /// Responses come this much later. Requests are read meanwhile. Runs on tokio's clock, so paused time works.
    pub fn delay(by: Duration) -> Self {
        Self::new(Action::Delay(by))
    }

    /// Responses count as sent but never come, as from a control plane that waits for an ACK that cannot be.
    pub fn lose() -> Self {
        Self::new(Action::Lose)
    }

    /// The stream ends with this gRPC status instead of the response; code 0 is a graceful end.
    pub fn close_stream(code: i32, message: impl Into<String>) -> Self {
        Self::new(Action::EndStream(StreamEnd::Status(code, message.into())))
    }

    /// The stream is reset instead of the response.
    pub fn reset_stream() -> Self {
        Self::new(Action::EndStream(StreamEnd::Reset))
    }

    /// Each response comes twice, nonce and all.
    pub fn duplicate() -> Self {
        Self::new(Action::Duplicate)
    }

    /// Each response holds every resource twice, which clients must reject.
    pub fn repeat_resources() -> Self {
        Self::new(Action::RepeatResources)
    }

    /// Responses that are due together come in the reverse order of types (endpoints before clusters), and the
    /// resources in each are in reverse order.
    pub fn reorder() -> Self {
        Self::new(Action::Reorder)
    }

    /// Responses say that they are of this type.
    pub fn wrong_type_url(type_url: impl Into<String>) -> Self {
        Self::new(Action::WrongTypeUrl(type_url.into()))
    }

    /// Every resource is an `Any` of the right type with bytes in it that decode as no message.
    pub fn garbage_resources(seed: u64) -> Self {
        Self::new(Action::GarbageResources(seed))
    }

    /// The message is bytes that decode as no message.
    pub fn garbage_message(seed: u64) -> Self {
        Self::new(Action::GarbageMessage(seed))
    }

    /// The message announces a length of 4 GiB, and a few bytes of it come.
    pub fn huge_message() -> Self {
        Self::new(Action::HugeMessage)
    }
}

/// When it applies.
impl Fault {
    /// Only to responses of this type.
    pub fn only(mut self, type_url: impl Into<String>) -> Self {
        self.type_url = Some(type_url.into());
        self
    }

    /// Only so many times.
    pub fn times(mut self, times: u32) -> Self {
        self.times = Some(times);
        self
    }

    /// Only the first time.
    pub fn once(self) -> Self {
        self.times(1)
    }

    fn new(action: Action) -> Self {
        Self { action, type_url: None, times: None }
    }
}

/// A fault that was injected, by which it can be lifted and waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FaultId(u64);

#[derive(Debug)]
struct Standing {
    id: FaultId,
    fault: Fault,
    applied: u32,
}

impl Standing {
    fn is_left(&self) -> bool {
        self.fault.times.is_none_or(|times| self.applied < times)
    }

    fn concerns(&self, type_url: &str) -> bool {
        self.is_left() && self.fault.type_url.as_deref().is_none_or(|only| only == type_url)
    }
}

/// The faults that stand.
#[derive(Debug, Default)]
pub(super) struct Faults {
    last_id: u64,
    standing: Vec<Standing>,
}

/// What becomes of a new connection.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ConnectionPlan {
    pub(super) refused: bool,
    /// It stands still until this fault is lifted.
    pub(super) half_open: Option<FaultId>,
    /// It ends after so many more bytes, unless this fault is lifted before.
    pub(super) cut: Option<(FaultId, u64)>,
}

/// What becomes of a new stream.
#[derive(Debug, Default)]
pub(super) struct StreamPlan {
    pub(super) end: Option<StreamEnd>,
    /// Headers wait until this fault is lifted.
    pub(super) withheld: Option<FaultId>,
}

/// What becomes of a response.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ResponsePlan {
    pub(super) delay: Duration,
    pub(super) frames: Vec<Bytes>,
    pub(super) end: Option<StreamEnd>,
}

impl Faults {
    pub(super) fn add(&mut self, fault: Fault) -> FaultId {
        self.last_id += 1;
        let id = FaultId(self.last_id);
        self.standing.push(Standing { id, fault, applied: 0 });
        id
    }

    pub(super) fn lift(&mut self, id: FaultId) {
        self.standing.retain(|standing| standing.id != id);
    }

    pub(super) fn clear(&mut self) {
        self.standing.clear();
    }

    pub(super) fn stands(&self, id: FaultId) -> bool {
        self.standing.iter().any(|standing| standing.id == id)
    }

    pub(super) fn applied(&self, id: FaultId) -> u32 {
        self.standing.iter().find(|standing| standing.id == id).map_or(0, |standing| standing.applied)
    }

    /// The part of a fault injected just now that concerns a connection which is open already.
    pub(super) fn on_open_connection(&mut self, id: FaultId) -> ConnectionPlan {
        let mut plan = ConnectionPlan::default();
        let is_new = |standing: &&mut Standing| standing.id == id && standing.is_left();
        self.standing.iter_mut().filter(is_new).for_each(|standing| standing.apply_to_connection(&mut plan, true));
        plan
    }

    pub(super) fn on_new_connection(&mut self) -> ConnectionPlan {
        let mut plan = ConnectionPlan::default();
        let left = self.standing.iter_mut().filter(|standing| standing.is_left());
        left.for_each(|standing| standing.apply_to_connection(&mut plan, false));
        plan
    }

    pub(super) fn on_new_stream(&mut self) -> StreamPlan {
        let mut plan = StreamPlan::default();
        for standing in self.standing.iter_mut().filter(|standing| standing.is_left()) {
            match &standing.fault.action {
                Action::RefuseStreams(end) => plan.end = Some(end.clone()),
                Action::WithholdHeaders => plan.withheld = Some(standing.id),
                _ => continue,
            }
            standing.applied += 1;
        }
        plan
    }

    /// Whether responses of this type wait.
    pub(super) fn silences(&self, type_url: &str) -> bool {
        let silences = |standing: &Standing| matches!(standing.fault.action, Action::Silence);
        self.standing.iter().any(|standing| silences(standing) && standing.concerns(type_url))
    }

    /// Whether responses that are due together come in reverse order.
    pub(super) fn reorders(&self) -> bool {
        let reorders = |standing: &Standing| matches!(standing.fault.action, Action::Reorder);
        self.standing.iter().any(|standing| reorders(standing) && standing.is_left())
    }

    pub(super) fn on_response(&mut self, response: Response) -> ResponsePlan {
        let type_url = response.type_url.clone();
        let mut work = InWork { response, message: None, delay: Duration::ZERO, copies: 1, end: None };
        for standing in self.standing.iter_mut().filter(|standing| standing.concerns(&type_url)) {
            if standing.fault.action.apply(&mut work) {
                standing.applied += 1;
            }
        }
        work.finish()
    }
}

impl Standing {
    fn apply_to_connection(&mut self, plan: &mut ConnectionPlan, open: bool) {
        match self.fault.action {
            Action::RefuseConnections if !open => plan.refused = true,
            Action::HalfOpen => plan.half_open = Some(self.id),
            Action::CutConnection(bytes) => plan.cut = Some((self.id, bytes)),
            _ => return,
        }
        self.applied += 1;
    }
}

/// A response on its way through the faults.
struct InWork {
    response: Response,
    /// Bytes that replace the response's frame.
    message: Option<Bytes>,
    delay: Duration,
    copies: usize,
    end: Option<StreamEnd>,
}

impl InWork {
    fn finish(self) -> ResponsePlan {
        let frame = self.message.unwrap_or_else(|| frame::of_message(&self.response));
        let copies = if self.end.is_some() { 0 } else { self.copies };
        ResponsePlan { delay: self.delay, frames: vec![frame; copies], end: self.end }
    }
}

impl Action {
    /// Whether this is a fault of responses; it is applied then.
    fn apply(&self, work: &mut InWork) -> bool {
        match self {
            Self::Delay(by) => work.delay += *by,
            Self::Lose => work.copies = 0,
            Self::EndStream(end) => work.end = Some(end.clone()),
            Self::Duplicate => work.copies *= 2,
            Self::RepeatResources => work.response.resources.extend_from_within(..),
            Self::Reorder => work.response.resources.reverse(),
            Self::WrongTypeUrl(type_url) => work.response.type_url.clone_from(type_url),
            Self::GarbageResources(seed) => garble(&mut work.response, *seed),
            Self::GarbageMessage(seed) => work.message = Some(frame::of_bytes(&garbage(*seed))),
            Self::HugeMessage => work.message = Some(frame::huge()),
            Self::RefuseConnections
            | Self::HalfOpen
            | Self::CutConnection(_)
            | Self::RefuseStreams(_)
            | Self::WithholdHeaders
            | Self::Silence => return false,
        }
        true
    }
}

fn garble(response: &mut Response, seed: u64) {
    use prost::Message;
    for (seed, resource) in (seed..=u64::MAX).zip(&mut response.resources) {
        let any = prost_types::Any { type_url: response.type_url.clone(), value: garbage(seed) };
        *resource = any.encode_to_vec().into();
    }
}

/// Bytes that are no message: the first one has a wire type that does not exist.
fn garbage(seed: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    let tail = std::iter::repeat_with(|| random.u8(..)).take(63);
    std::iter::once(0x0f).chain(tail).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::type_url::{CLUSTER, ENDPOINTS};
    use prost::Message;

    fn response(type_url: &str) -> Response {
        let resources = vec![Bytes::from_static(b"\x0a\x01a"), Bytes::from_static(b"\x0a\x01b")];
        Response { type_url: type_url.to_owned(), resources, ..Default::default() }
    }

    fn decoded(frame: &Bytes) -> Result<Response, prost::DecodeError> {
        Response::decode(&frame[5..])
    }

    #[test]
    fn faults_compose_and_run_out() {
        let mut faults = Faults::default();
        let delay = faults.add(Fault::delay(Duration::from_secs(1)).only(CLUSTER));
        faults.add(Fault::duplicate().once());
        let first = faults.on_response(response(CLUSTER));
        assert_eq!((first.delay, first.frames.len()), (Duration::from_secs(1), 2));
        let second = faults.on_response(response(CLUSTER));
        assert_eq!((second.delay, second.frames.len()), (Duration::from_secs(1), 1));
        assert_eq!(faults.on_response(response(ENDPOINTS)).delay, Duration::ZERO);
        assert_eq!(faults.applied(delay), 2);
        faults.lift(delay);
        assert_eq!(faults.on_response(response(CLUSTER)).delay, Duration::ZERO);
    }

    #[test]
    fn garbage_decodes_as_nothing_and_is_the_same_again() {
        let mut faults = Faults::default();
        let id = faults.add(Fault::garbage_message(7));
        let plan = faults.on_response(response(CLUSTER));
        assert!(decoded(&plan.frames[0]).is_err());
        assert_eq!(plan, faults.on_response(response(CLUSTER)));
        faults.lift(id);
        faults.add(Fault::garbage_resources(7));
        let plan = faults.on_response(response(CLUSTER));
        let inner = prost_types::Any::decode(&decoded(&plan.frames[0]).unwrap().resources[0][..]).unwrap();
        assert_eq!(inner.type_url, CLUSTER);
        assert!(prost_types::Any::decode(&inner.value[..]).is_err());
    }

    #[test]
    fn resources_are_repeated_and_reversed() {
        let mut faults = Faults::default();
        faults.add(Fault::repeat_resources());
        faults.add(Fault::reorder());
        let plan = faults.on_response(response(CLUSTER));
        let names: Vec<u8> = decoded(&plan.frames[0]).unwrap().resources.iter().map(|bytes| bytes[2]).collect();
        assert_eq!(names, b"baba");
    }

    #[test]
    fn the_end_of_a_stream_takes_the_place_of_the_response() {
        let mut faults = Faults::default();
        faults.add(Fault::close_stream(14, "gone"));
        let plan = faults.on_response(response(CLUSTER));
        assert_eq!((plan.frames.len(), plan.end), (0, Some(StreamEnd::Status(14, "gone".into()))));
    }

    #[test]
    fn connections_are_counted_too() {
        let mut faults = Faults::default();
        faults.add(Fault::refuse_connections().once());
        let cut = faults.add(Fault::cut_connections_after(33));
        assert!(faults.on_new_connection().refused);
        let plan = ConnectionPlan { cut: Some((cut, 33)), ..Default::default() };
        assert_eq!(faults.on_new_connection(), plan);
        assert_eq!(faults.on_open_connection(cut), plan);
    }
}
