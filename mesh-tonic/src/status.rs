//! Errors of the mesh as tonic statuses (A54).

use std::error::Error as StdError;
use std::fmt;

use mesh_core::ErrorKind;
use mesh_core::filter::AnswerStatus;
use tonic::{Code, Status};

/// A failure of the mesh, as the channel hands it to a generated client.
///
/// The client's caller sees a [`Status`] with the right code and the whole report as its message: tonic finds the
/// status in [`source`](StdError::source).
pub struct Error {
    inner: Box<Inner>,
}

struct Inner {
    error: mesh_core::Error,
    status: Status,
}

impl Error {
    /// The failure as the mesh describes it.
    pub fn mesh_error(&self) -> &mesh_core::Error {
        &self.inner.error
    }

    /// The failure as a status.
    pub fn status(&self) -> &Status {
        &self.inner.status
    }
}

impl From<mesh_core::Error> for Error {
    fn from(error: mesh_core::Error) -> Self {
        let status = status_of(&error);
        Self { inner: Box::new(Inner { error, status }) }
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        error.inner.status
    }
}

fn status_of(error: &mesh_core::Error) -> Status {
    // What the application's own encoder or interceptor said about its request is not the mesh's to reword.
    if error.kind() == ErrorKind::RequestBody
        && let Some(status) = find_status(error)
    {
        return status.clone();
    }
    Status::new(code_of(error.kind()), error.report())
}

fn find_status(error: &mesh_core::Error) -> Option<&Status> {
    let mut cause = error.source();
    while let Some(error) = cause {
        if let Some(status) = error.downcast_ref::<Status>() {
            return Some(status);
        }
        cause = error.source();
    }
    None
}

/// The code of a kind: what the control plane is to blame for is UNAVAILABLE, never a code that a server could have
/// meant (A54).
pub(crate) fn code_of(kind: ErrorKind) -> Code {
    match kind {
        ErrorKind::Deadline => Code::DeadlineExceeded,
        ErrorKind::ControlPlane
        | ErrorKind::Configuration
        | ErrorKind::NoEndpoint
        | ErrorKind::Overloaded
        | ErrorKind::Connection
        | ErrorKind::Shutdown => Code::Unavailable,
        ErrorKind::PermissionDenied => Code::PermissionDenied,
        ErrorKind::RequestTooLarge => Code::ResourceExhausted,
        ErrorKind::Reset(code) => code_of_reset(code),
        ErrorKind::HttpResponse(status) => Code::from_i32(AnswerStatus::Http(status).grpc_code().into()),
        _ => Code::Internal,
    }
}

/// gRPC over HTTP/2, "HTTP2 Transport Mapping", "Errors".
fn code_of_reset(code: u32) -> Code {
    match code {
        // REFUSED_STREAM
        0x7 => Code::Unavailable,
        // CANCEL
        0x8 => Code::Cancelled,
        // ENHANCE_YOUR_CALM
        0xb => Code::ResourceExhausted,
        // INADEQUATE_SECURITY
        0xc => Code::PermissionDenied,
        _ => Code::Internal,
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.error.fmt(f)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The status that tonic makes of it has the report already, and prints this as its source.
        f.debug_struct("Error")
            .field("code", &self.inner.status.code())
            .field("kind", &self.inner.error.kind())
            .finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&self.inner.status)
    }
}
