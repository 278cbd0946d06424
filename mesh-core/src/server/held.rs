//! A call that a filter holds back before it is served. Its future is boxed: only such calls pay for it.

use std::pin::Pin;

use bytes::Bytes;
use http::request::Parts;
use http::{Request, Response};
use tokio::time::{Instant, sleep, timeout_at};
use tower::ServiceExt as _;
use tower_service::Service;

use super::passage::{Hold, Next, Passage, Pause};
use super::request::{Refusals, RequestBody, enter};
use crate::context::Context;
use crate::error::BoxError;
use crate::filter::ResponseBody;

pub(super) type Outcome<R> = Result<Response<ResponseBody<R>>, BoxError>;

/// The future of a call that is held.
pub(super) type Held<R> = Pin<Box<dyn Future<Output = Outcome<R>> + Send>>;

/// A call that is held, and all that it takes to serve it then.
pub(super) struct HeldCall<S> {
    pub(super) passage: Box<Passage>,
    pub(super) head: Parts,
    pub(super) body: RequestBody,
    pub(super) service: S,
    pub(super) refusals: Refusals,
}

impl<S> HeldCall<S> {
    /// Waits, and serves the call. Its deadline counts from its arrival.
    pub(super) async fn serve<R>(self, mut hold: Hold) -> Outcome<R>
    where
        S: Service<Request<RequestBody>, Response = Response<R>>,
        S::Error: Into<BoxError>,
    {
        let Self { mut passage, mut head, body, service, refusals } = self;
        let deadline = refusals.deadline(&head.headers);
        loop {
            let Some(next) = after(hold, &mut passage, &mut head, deadline).await else {
                return Ok(refusals.expired().map(|()| ResponseBody::own(Bytes::new())));
            };
            match next {
                Next::Hold(another) => hold = another,
                Next::Refuse(error) => return Ok(refusals.answer(&error).map(|()| ResponseBody::own(Bytes::new()))),
                Next::Deny(answer, why) => {
                    refusals.server.refuse_call(&why);
                    return Ok(passage.changed(answer.map(ResponseBody::own)));
                }
                Next::Answer(answer) => return Ok(passage.changed(answer.map(ResponseBody::own))),
                Next::Serve => break,
            }
        }
        let request = Request::from_parts(head, body);
        if let Err(error) = enter(&request) {
            return Ok(refusals.answer(&error).map(|()| ResponseBody::own(Bytes::new())));
        }
        let call = service.oneshot(request);
        let response = Context::serving(deadline).scope(call).await.map_err(Into::into)?;
        Ok(passage.served(response.map(ResponseBody::passed)))
    }
}

/// What becomes of the call then; `None`: its time is over before.
async fn after(hold: Hold, passage: &mut Passage, head: &mut Parts, deadline: Option<Instant>) -> Option<Next> {
    match hold {
        Hold::Pause(pause) => wait(&pause, deadline).await.then(|| passage.resume(pause, head)),
        Hold::Check(check) => {
            let verdict = check.verdict(deadline).await?;
            Some(passage.checked(&check, verdict, head))
        }
        #[cfg(feature = "jwt")]
        Hold::Keys(mut keys) => {
            keys.ended(deadline).await?;
            Some(passage.with_keys(keys, head))
        }
    }
}

/// Whether there is time left behind the pause.
async fn wait(pause: &Pause, deadline: Option<Instant>) -> bool {
    let pause = sleep(pause.delay);
    match deadline {
        Some(deadline) => timeout_at(deadline, pause).await.is_ok(),
        None => {
            pause.await;
            true
        }
    }
}
