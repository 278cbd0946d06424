//! A call whose server asks for no other attempt, made to serve one that somebody else might try again.

use http::Response;

use crate::call::{Call, Pushback, RetryProtocol};
use crate::context::Context;

/// Watches a call that is not repeated here.
#[derive(Debug)]
pub(super) struct Observer {
    context: Context,
    protocol: Option<&'static dyn RetryProtocol>,
}

impl Observer {
    pub(super) fn new(call: Option<&Call>, protocol: Option<&'static dyn RetryProtocol>) -> Self {
        Self { context: call.map(|call| call.context.clone()).unwrap_or_default(), protocol }
    }

    pub(super) fn see<R>(&self, response: &Response<R>) {
        pass_on(&self.context, self.protocol, response);
    }
}

/// Passes the server's word on to whoever made the call that is being served.
pub(super) fn pass_on<R>(context: &Context, protocol: Option<&'static dyn RetryProtocol>, response: &Response<R>) {
    if context.is_empty() {
        return;
    }
    let pushback = protocol.and_then(|protocol| protocol.pushback(response.headers()));
    if pushback == Some(Pushback::Stop) {
        context.forbid_retry();
    }
}
