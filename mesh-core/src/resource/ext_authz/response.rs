//! What becomes of a call by the answer of an authorization service, or by the lack of one.

use std::sync::atomic::Ordering;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode};
use mesh_xds_proto::envoy::config::core::v3::HeaderValueOption;
use mesh_xds_proto::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use mesh_xds_proto::envoy::service::auth::v3::check_response::HttpResponse;
use mesh_xds_proto::envoy::service::auth::v3::{CheckResponse, DeniedHttpResponse, OkHttpResponse};
use mesh_xds_proto::envoy::r#type::v3::HttpStatus;
use prost::Message;

use super::ExtAuthz;
use super::rules::is_beyond_reach;
use crate::resource::filter::header_mutation::{AppendAction, Change};

/// The longest name and the longest value of a header (A92).
const MAX_LENGTH: usize = 16_384;
/// How much of a service's text a caller is told: it may travel in a header.
const MAX_BODY: usize = 4_096;
/// Tells the next service that nobody has authorized the call.
const FAILURE_ALLOWED: HeaderName = HeaderName::from_static("x-envoy-auth-failure-mode-allowed");

/// What becomes of a call.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// It passes, and its headers and those of its response are changed so.
    Allow {
        request: Vec<Change>,
        response: Vec<Change>,
    },
    Deny(Denial),
}

/// How a call is denied.
#[derive(Debug)]
pub(crate) struct Denial {
    pub(crate) status: StatusCode,
    /// For the caller.
    pub(crate) body: String,
    pub(crate) headers: Vec<Change>,
    /// For the server's own log.
    pub(crate) why: String,
}

impl ExtAuthz {
    /// What becomes of a call whose check came to this: the bytes of a `CheckResponse`, or why there are none.
    pub(crate) fn verdict(&self, answer: Result<Bytes, String>) -> Verdict {
        self.decided(answer.and_then(|response| {
            CheckResponse::decode(response).map_err(|error| format!("the answer cannot be read: {error}"))
        }))
    }

    pub(super) fn decided(&self, answer: Result<CheckResponse, String>) -> Verdict {
        match answer {
            Ok(response) => self.answered(response).unwrap_or_else(Verdict::Deny),
            Err(why) => self.failed(why, None),
        }
    }

    /// That a call which is not checked is denied.
    pub(crate) fn denial_at_disable(&self) -> Denial {
        self.denial(self.status_on_error, "it is not checked, and `deny_at_disable` denies such calls".to_owned())
    }

    fn answered(&self, response: CheckResponse) -> Result<Verdict, Denial> {
        let status = response.status.unwrap_or_default();
        let is_allowed = status.code == 0;
        let has_failed = !is_allowed && matches!(response.http_response, Some(HttpResponse::ErrorResponse(_)));
        if !has_failed && self.is_open.load(Ordering::Relaxed) {
            self.is_open.store(false, Ordering::Relaxed);
        }
        match response.http_response {
            Some(HttpResponse::OkResponse(ok)) if is_allowed => self.allowed(&ok),
            _ if is_allowed => Ok(Verdict::Allow { request: Vec::new(), response: Vec::new() }),
            Some(HttpResponse::ErrorResponse(error)) => {
                Ok(self.failed("the authorization service says that it failed".to_owned(), Some(error)))
            }
            Some(HttpResponse::DeniedResponse(denied)) => self.denied(denied, StatusCode::FORBIDDEN, status.code),
            _ => self.denied(DeniedHttpResponse::default(), StatusCode::FORBIDDEN, status.code),
        }
        .map_err(|invalid: Invalid| self.denial(StatusCode::INTERNAL_SERVER_ERROR, invalid.0))
    }

    fn allowed(&self, ok: &OkHttpResponse) -> Result<Verdict, Invalid> {
        let mut request = self.changes(&ok.headers)?;
        // Behind the others, as in Envoy.
        for name in &ok.headers_to_remove {
            request.extend(self.name(name)?.map(Change::Remove));
        }
        Ok(Verdict::Allow { request, response: self.changes(&ok.response_headers_to_add)? })
    }

    fn denied(&self, denied: DeniedHttpResponse, default: StatusCode, code: i32) -> Result<Verdict, Invalid> {
        let headers = self.changes(&denied.headers)?;
        let status = http_status(denied.status.as_ref()).unwrap_or(default);
        let why = format!("the authorization service denies it, with status code {code} and {}", status.as_u16());
        Ok(Verdict::Deny(Denial { headers, body: cut(denied.body), ..self.denial(status, why) }))
    }

    /// A check that came to nothing: the call is denied, unless configured otherwise.
    fn failed(&self, why: String, error: Option<DeniedHttpResponse>) -> Verdict {
        if self.failure_mode_allow {
            // Once, and not for each call that passes until a check succeeds again.
            match self.is_open.swap(true, Ordering::Relaxed) {
                false => tracing::warn!(why, "calls pass that cannot be authorized, as `failure_mode_allow` has it"),
                true => tracing::debug!(why, "a call passes that cannot be authorized"),
            }
            let told = self.failure_mode_allow_header_add;
            let told = told.then(|| {
                Change::literal(FAILURE_ALLOWED, HeaderValue::from_static("true"), AppendAction::OverwriteOrAdd)
            });
            return Verdict::Allow { request: told.into_iter().collect(), response: Vec::new() };
        }
        let error = error.unwrap_or_default();
        let status = http_status(error.status.as_ref()).unwrap_or(self.status_on_error);
        let headers = self.changes(&error.headers).unwrap_or_default();
        Verdict::Deny(Denial { headers, body: cut(error.body), ..self.denial(status, why) })
    }

    fn denial(&self, status: StatusCode, why: String) -> Denial {
        Denial { status, body: String::new(), headers: Vec::new(), why }
    }

    fn changes(&self, options: &[HeaderValueOption]) -> Result<Vec<Change>, Invalid> {
        options.iter().filter_map(|option| self.change(option).transpose()).collect()
    }

    /// `None`: it is not made.
    fn change(&self, option: &HeaderValueOption) -> Result<Option<Change>, Invalid> {
        let header = option.header.as_ref().ok_or_else(|| Invalid::of("a header without `header`"))?;
        let Some(name) = self.name(&header.key)? else { return Ok(None) };
        let action = action(option)?;
        let value = match (name.as_str().ends_with("-bin"), &header.raw_value[..]) {
            (_, []) => header.value.as_bytes().to_vec(),
            (true, raw) => STANDARD_NO_PAD.encode(raw).into_bytes(),
            (false, raw) => raw.to_vec(),
        };
        if value.len() > MAX_LENGTH {
            return Err(Invalid(format!("a value of `{name}` that is longer than {MAX_LENGTH} bytes")));
        }
        // A header that would be empty is none (A92).
        if value.is_empty() && !option.keep_empty_value {
            let replaces = matches!(action, AppendAction::OverwriteOrAdd | AppendAction::OverwriteIfExists);
            return Ok(replaces.then(|| Change::Remove(name)));
        }
        let mut value =
            HeaderValue::try_from(value).map_err(|_| Invalid(format!("a value of `{name}` that is none")))?;
        // Of a user, more often than not.
        value.set_sensitive(true);
        Ok(Some(Change::literal(name, value, action)))
    }

    /// The name of a header that the service changes; `None`: it may not, and that is no error.
    fn name(&self, text: &str) -> Result<Option<HeaderName>, Invalid> {
        if text.starts_with(':') || text == "host" {
            return Ok(None);
        }
        let is_lower = !text.bytes().any(|byte| byte.is_ascii_uppercase());
        let name = HeaderName::from_bytes(text.as_bytes()).ok().filter(|_| is_lower && text.len() <= MAX_LENGTH);
        let name = name.ok_or_else(|| Invalid::of("the name of a header that is none in lower case"))?;
        match () {
            () if is_beyond_reach(&name) => Ok(None),
            () if self.rules.allow(&name) => Ok(Some(name)),
            () if self.rules.disallow_is_error => {
                Err(Invalid(format!("`{name}`, which `decoder_header_mutation_rules` does not let it change")))
            }
            () => Ok(None),
        }
    }
}

/// What a service has in its answer that it must not have: the call fails, whatever else is in it (A92).
struct Invalid(String);

impl Invalid {
    fn of(what: &str) -> Self {
        Self(what.to_owned())
    }
}

fn action(option: &HeaderValueOption) -> Result<AppendAction, Invalid> {
    match (option.append, HeaderAppendAction::try_from(option.append_action)) {
        (Some(true), _) | (None, Ok(HeaderAppendAction::AppendIfExistsOrAdd)) => Ok(AppendAction::AppendOrAdd),
        (Some(false), _) | (None, Ok(HeaderAppendAction::OverwriteIfExistsOrAdd)) => Ok(AppendAction::OverwriteOrAdd),
        (None, Ok(HeaderAppendAction::AddIfAbsent)) => Ok(AppendAction::AddIfAbsent),
        (None, Ok(HeaderAppendAction::OverwriteIfExists)) => Ok(AppendAction::OverwriteIfExists),
        (None, Err(_)) => Err(Invalid(format!("`append_action` {}, which is none", option.append_action))),
    }
}

/// One that says no error would be no denial.
fn http_status(status: Option<&HttpStatus>) -> Option<StatusCode> {
    let code = u16::try_from(status?.code).ok()?;
    StatusCode::from_u16(code).ok().filter(|status| (300..600).contains(&status.as_u16()))
}

fn cut(mut body: String) -> String {
    if body.len() > MAX_BODY {
        let end = (0..=MAX_BODY).rev().find(|end| body.is_char_boundary(*end)).unwrap_or(0);
        body.truncate(end);
    }
    body
}
