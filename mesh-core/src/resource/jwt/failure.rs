//! Why a call's tokens are not what is required.

use http::StatusCode;

/// Why a token is not believed, or a requirement is not met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    Missing,
    /// A place has two tokens.
    Ambiguous,
    Malformed,
    UnknownIssuer,
    Expired,
    NotYetValid,
    /// It says no end, and has to.
    Endless,
    LivesTooLong,
    Audience,
    Subject,
    /// The keys of its issuer could not be fetched.
    NoKeys,
    UnknownKey,
    BadSignature,
    /// It does not say which of many keys signed it, and none of those that were tried did.
    ManyKeys,
    /// The route asks for a requirement that the filter does not know.
    UnknownRequirement,
}

impl Failure {
    /// For the caller and for the server's log; it has nothing of the token.
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Missing => "the call has no token",
            Self::Ambiguous => "the call has two tokens where one is expected",
            Self::Malformed => "the token is malformed",
            Self::UnknownIssuer => "the token's issuer is not known",
            Self::Expired => "the token has expired",
            Self::NotYetValid => "the token is not valid yet",
            Self::Endless => "the token never expires",
            Self::LivesTooLong => "the token lives too long",
            Self::Audience => "the token is for another audience",
            Self::Subject => "the token's subject is not allowed",
            // In Envoy's words.
            Self::NoKeys => "Jwks remote fetch is failed",
            Self::UnknownKey => "no key is known for the token",
            Self::BadSignature => "the token's signature is wrong",
            Self::ManyKeys => "the token does not say which of many keys it was signed with",
            Self::UnknownRequirement => "the server is not configured to serve the call",
        }
    }

    /// Who is known and not allowed to is told so: as in Envoy for another audience, where it takes another subject for no
    /// good token.
    pub(crate) fn status(self) -> StatusCode {
        match self {
            Self::Audience | Self::Subject | Self::UnknownRequirement => StatusCode::FORBIDDEN,
            _ => StatusCode::UNAUTHORIZED,
        }
    }

    /// Whether it says less than that of another provider: the token was none of this one's.
    pub(super) fn says_little(self) -> bool {
        matches!(self, Self::Missing | Self::UnknownIssuer)
    }
}
