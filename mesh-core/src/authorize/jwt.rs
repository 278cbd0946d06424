//! Tokens of callers (Envoy's `jwt_authn`), by providers that are named in code.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use http::{HeaderName, Request, Response};
use tower_layer::Layer;
use tower_service::Service;

use super::{JwkSet, ResponseBody, ResponseFuture};
use crate::filter::AnswerProtocol;
use crate::resource::jwt::keys::KeySource;
use crate::resource::jwt::place::TokenPlace;
use crate::resource::jwt::provider::{CLOCK_SKEW, Effects, Provider};
use crate::resource::jwt::requirement::{Requirement, TokenOf};
use crate::resource::jwt::{JwtConfig, JwtFilter};
use crate::resource::matcher::RouteMatch;

/// The entry of [`Claims`](super::Claims) that has what a token claims, unless a provider names another.
const ENTRY: &str = "payload";

/// Who issues tokens, with which keys, and where calls have them: a provider of Envoy's `jwt_authn`.
///
/// A token is good if one of the keys signed it by an algorithm that the key is for (RS, PS, ES and EdDSA; never `none`, nor
/// HS), its issuer is this one, the time is between its `nbf` and its `exp`, and it is for one of the audiences.
#[derive(Clone, Debug)]
pub struct JwtProvider {
    issuer: String,
    keys: JwkSet,
    audiences: Vec<String>,
    needs_expiration: bool,
    max_lifetime: Option<Duration>,
    clock_skew: Duration,
    places: Vec<TokenPlace>,
    effects: Effects,
}

impl JwtProvider {
    /// Tokens whose `iss` is this one. An empty issuer accepts any, if one of the keys signed the token.
    pub fn new(issuer: impl Into<String>, keys: JwkSet) -> Self {
        Self {
            issuer: issuer.into(),
            keys,
            audiences: Vec::new(),
            needs_expiration: false,
            max_lifetime: None,
            clock_skew: CLOCK_SKEW,
            places: Vec::new(),
            effects: Effects { payload_entry: Some(ENTRY.into()), ..Effects::default() },
        }
    }

    /// A token must be for this audience (`aud`), or for another that is named so. Default: any will do.
    pub fn audience(mut self, audience: impl Into<String>) -> Self {
        self.audiences.push(audience.into());
        self
    }

    /// Tokens may be in this header, behind a prefix such as `Bearer `, whose case does not matter. Default, unless a place is
    /// named: in `authorization` behind `Bearer `, and in the query's parameter `access_token` (RFC 6750).
    pub fn from_header(mut self, name: HeaderName, prefix: &str) -> Self {
        self.places.push(TokenPlace::Header { name, prefix: prefix.into() });
        self
    }

    /// Tokens may be in this parameter of the query.
    pub fn from_parameter(mut self, name: &str) -> Self {
        self.places.push(TokenPlace::Parameter(name.into()));
        self
    }

    /// Tokens may be in this cookie.
    pub fn from_cookie(mut self, name: &str) -> Self {
        self.places.push(TokenPlace::Cookie(name.into()));
        self
    }

    /// What clocks may differ by. Default: 60 s.
    pub fn clock_skew(mut self, skew: Duration) -> Self {
        self.clock_skew = skew;
        self
    }

    /// A token without `exp` is not good. Default: it is.
    pub fn require_expiration(mut self) -> Self {
        self.needs_expiration = true;
        self
    }

    /// The most that a token may have left; one without `exp` is not good then. Default: no limit.
    pub fn max_lifetime(mut self, most: Duration) -> Self {
        self.max_lifetime = Some(most);
        self
    }

    /// Leaves the token in the request. Default: the handler does not get it.
    pub fn forward(mut self) -> Self {
        self.effects.forwards = true;
        self
    }

    /// Gives handlers a claim in this header, such as `sub` or, of one within another, `realm.role`. What callers send under
    /// its name is taken out of every request.
    pub fn claim_to_header(mut self, claim: &str, name: HeaderName) -> Self {
        self.effects.claim_headers.push((name, claim.split('.').map(str::to_owned).collect()));
        self
    }

    /// The name of the entry of [`Claims`](super::Claims) that has what a token claims. Default: `payload`.
    pub fn claims_entry(mut self, name: &str) -> Self {
        self.effects.payload_entry = Some(name.into());
        self
    }

    fn to_provider(&self) -> Provider {
        Provider {
            issuer: self.issuer.clone(),
            audiences: self.audiences.clone(),
            subjects: None,
            needs_expiration: self.needs_expiration,
            max_lifetime: self.max_lifetime,
            clock_skew: self.clock_skew,
            keys: KeySource::Local(self.keys.in_force().clone()),
            places: if self.places.is_empty() { TokenPlace::defaults() } else { self.places.clone() },
            effects: self.effects.clone(),
        }
    }
}

/// Makes [`JwtService`]s, which let calls with a good token pass and hand its [`Claims`](super::Claims) on in the request's
/// extensions. A call with a bad token, or without one, is answered with 401 (gRPC: UNAUTHENTICATED), one whose token is for
/// another audience with 403 (PERMISSION_DENIED), as by the filter `jwt_authn` of a server of the mesh.
///
/// ```
/// use std::convert::Infallible;
///
/// use http::{Request, Response, StatusCode};
/// use mesh_core::authorize::{Claims, JwkSet, JwtLayer, JwtProvider};
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// // What the issuer publishes. From a file that is read again and again: `JwkSet::file("/etc/keys/jwks.json")?`.
/// let keys = JwkSet::parse(
///     r#"{"keys": [{"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#,
/// )?;
/// let joe = JwtProvider::new("https://joe.example", keys).audience("library");
/// let whoami = service_fn(|request: Request<()>| async move {
///     let claims = request.extensions().get::<Claims>().expect("the layer puts them there");
///     let subject = claims.text("payload", &["sub"]).unwrap_or("nobody");
///     Ok::<_, Infallible>(Response::new(subject.to_owned()))
/// });
/// let server = ServiceBuilder::new().layer(JwtLayer::new(joe)).service(whoami);
///
/// let without = server.clone().oneshot(Request::new(())).await?;
/// assert_eq!(without.status(), StatusCode::UNAUTHORIZED);
/// assert_eq!(without.headers()["www-authenticate"], "Bearer");
/// let forged = Request::get("/").header("authorization", "Bearer e30.e30.e30").body(())?;
/// assert_eq!(server.oneshot(forged).await?.status(), StatusCode::UNAUTHORIZED);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct JwtLayer {
    providers: Vec<JwtProvider>,
    open: Vec<String>,
    allows_missing: bool,
    protocol: Option<&'static dyn AnswerProtocol>,
}

impl JwtLayer {
    /// Every call needs a token of this provider.
    pub fn new(provider: JwtProvider) -> Self {
        Self { providers: vec![provider], open: Vec::new(), allows_missing: false, protocol: None }
    }

    /// A token of this provider will do, too.
    pub fn or(mut self, provider: JwtProvider) -> Self {
        self.providers.push(provider);
        self
    }

    /// Calls without a token pass, with empty [`Claims`](super::Claims); those with a bad one do not.
    pub fn allow_missing(mut self) -> Self {
        self.allows_missing = true;
        self
    }

    /// Calls to paths that start with `prefix`, such as `/grpc.health.v1.Health/`, need no token, and none is read.
    pub fn exempt_path_prefix(mut self, prefix: &str) -> Self {
        self.open.push(prefix.to_owned());
        self
    }

    /// What the callers speak, and so what a refused call is answered with; gRPC's is the adapter's. Default: HTTP.
    pub fn protocol(mut self, protocol: &'static dyn AnswerProtocol) -> Self {
        self.protocol = Some(protocol);
        self
    }

    fn filter(&self) -> JwtFilter {
        let tokens = || (0..self.providers.len()).map(TokenOf::provider);
        let requirement = match self.allows_missing {
            true => Requirement::AllowMissing(tokens().collect()),
            false => Requirement::Any(tokens().map(Requirement::Provider).collect()),
        };
        let open = self.open.iter().map(|prefix| (RouteMatch::prefix(prefix), Requirement::Nothing));
        let rules = open.chain([(RouteMatch::prefix(""), requirement)]).collect();
        let providers = self.providers.iter().map(JwtProvider::to_provider).collect();
        JwtFilter::new(providers, rules, BTreeMap::new(), false)
    }
}

impl<S> Layer<S> for JwtLayer {
    type Service = JwtService<S>;

    fn layer(&self, inner: S) -> JwtService<S> {
        let keys: Arc<[JwkSet]> = self.providers.iter().map(|provider| provider.keys.clone()).collect();
        keys.iter().for_each(JwkSet::keep_fresh);
        JwtService { inner, config: JwtConfig::Rules(Arc::new(self.filter())), keys, protocol: self.protocol }
    }
}

/// Serves the calls with a good token, and answers the others.
#[derive(Clone, Debug)]
pub struct JwtService<S> {
    inner: S,
    config: JwtConfig,
    keys: Arc<[JwkSet]>,
    protocol: Option<&'static dyn AnswerProtocol>,
}

impl<S, B, R> Service<Request<B>> for JwtService<S>
where
    S: Service<Request<B>, Response = Response<R>>,
{
    type Response = Response<ResponseBody<R>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        self.keys.iter().for_each(JwkSet::keep_fresh);
        let (mut head, body) = request.into_parts();
        match self.config.authenticate(&mut head, SystemTime::now()) {
            Ok(()) => ResponseFuture::serve(self.inner.call(Request::from_parts(head, body))),
            Err(failure) => {
                tracing::debug!(why = failure.text(), path = head.uri.path(), "a call was refused");
                let answer = self.config.answer(failure);
                ResponseFuture::refuse(match self.protocol {
                    Some(protocol) => protocol.respond(answer),
                    None => answer.into_http(),
                })
            }
        }
    }
}
