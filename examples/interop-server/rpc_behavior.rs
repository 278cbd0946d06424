//! The `rpc-behavior` request header: what the caller wants to see go wrong.
//!
//! Its values are lists, separated by commas, of `sleep-SECONDS`, `keep-open`, `error-code-CODE` and
//! `succeed-on-retry-attempt-N`, taken in order. `hostname=NAME ` before one makes only that server heed it.

use std::convert::Infallible;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::{HeaderMap, Request, Response};
use tonic::body::Body;
use tonic::{Code, Status};
use tower::{Layer, Service};

/// Does what the header says before the service sees the call.
#[derive(Clone, Debug)]
pub(crate) struct RpcBehaviorLayer {
    host_name: String,
}

impl RpcBehaviorLayer {
    pub(crate) fn new(host_name: &str) -> Self {
        Self { host_name: host_name.to_owned() }
    }
}

impl<S> Layer<S> for RpcBehaviorLayer {
    type Service = RpcBehavior<S>;

    fn layer(&self, inner: S) -> RpcBehavior<S> {
        RpcBehavior { inner, host_name: self.host_name.clone() }
    }
}

/// Made by [`RpcBehaviorLayer`].
#[derive(Clone, Debug)]
pub(crate) struct RpcBehavior<S> {
    inner: S,
    host_name: String,
}

impl<S, B> Service<Request<B>> for RpcBehavior<S>
where
    S: Service<Request<B>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
    B: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let steps = steps(request.headers(), &self.host_name);
        // The clone takes the next call; this one belongs to the service that was polled ready.
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        Box::pin(async move {
            match behave(steps).await {
                Ok(()) => inner.call(request).await,
                Err(status) => Ok(status.into_http()),
            }
        })
    }
}

async fn behave(steps: Result<Vec<Step>, Status>) -> Result<(), Status> {
    for step in steps? {
        match step {
            Step::Sleep(duration) => tokio::time::sleep(duration).await,
            Step::KeepOpen => std::future::pending().await,
            Step::Fail(code) => return Err(Status::new(code, "the header rpc-behavior asked for this status")),
        }
    }
    Ok(())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Sleep(Duration),
    KeepOpen,
    Fail(Code),
}

/// What the server named `host_name` has to do before it serves a call with these headers.
fn steps(headers: &HeaderMap, host_name: &str) -> Result<Vec<Step>, Status> {
    let attempt = match headers.get("grpc-previous-rpc-attempts") {
        Some(value) => number("grpc-previous-rpc-attempts", value.to_str().unwrap_or_default())?,
        None => 0,
    };
    let values = headers.get_all("rpc-behavior").iter().map(|value| value.to_str().unwrap_or_default());
    let mut steps = Vec::new();
    for value in values.flat_map(|list| list.split(',')).map(str::trim).filter(|value| !value.is_empty()) {
        let Some(behavior) = for_host(value, host_name)? else { continue };
        if let Some(seconds) = behavior.strip_prefix("sleep-") {
            steps.push(Step::Sleep(Duration::from_secs(number(value, seconds)?)));
        } else if behavior == "keep-open" {
            steps.push(Step::KeepOpen);
        } else if let Some(code) = behavior.strip_prefix("error-code-") {
            steps.push(Step::Fail(Code::from(number::<i32>(value, code)?)));
        } else if let Some(succeed) = behavior.strip_prefix("succeed-on-retry-attempt-")
            && number::<u32>(value, succeed)? == attempt
        {
            break;
        }
    }
    Ok(steps)
}

/// Takes `hostname=NAME ` off; `None` when another server is meant.
fn for_host<'a>(value: &'a str, host_name: &str) -> Result<Option<&'a str>, Status> {
    let Some(rest) = value.strip_prefix("hostname=") else { return Ok(Some(value)) };
    let (name, behavior) = rest.split_once(' ').ok_or_else(|| malformed(value))?;
    Ok((name == host_name).then_some(behavior))
}

fn number<N: std::str::FromStr>(value: &str, digits: &str) -> Result<N, Status> {
    digits.parse().map_err(|_| malformed(value))
}

fn malformed(value: &str) -> Status {
    Status::invalid_argument(format!("cannot read `{value}` in the header rpc-behavior"))
}
