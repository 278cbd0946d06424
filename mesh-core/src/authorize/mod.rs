//! Who may call, by what is said in code: layers around any `http` service.
//!
//! | layer | lets pass |
//! |---|---|
//! | `RbacLayer` (feature `rbac`) | what policies allow (A41) |
//! | `JwtLayer` (feature `jwt`) | calls with a good token, whose claims it hands on (Envoy's `jwt_authn`) |
//! | [`ExtAuthzLayer`] | what another service allows (A92) |
//!
//! A server of the mesh does what its control plane says by itself, before its layers; these are for what is decided in
//! code, in a server of the mesh or in another. Each stands alone. A policy of `RbacLayer` sees the request as the layers
//! around it leave it.
//!
//! ```
//! use std::convert::Infallible;
//!
//! use http::{Request, Response, StatusCode};
//! # #[cfg(feature = "rbac")]
//! use mesh_core::authorize::{Policy, Rbac, RbacLayer, Rule};
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//!
//! # #[cfg(feature = "rbac")]
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let reading = Policy::new([Rule::path_prefix("/library.Books/")], [Rule::any()]);
//! let books = service_fn(|_: Request<()>| async { Ok::<_, Infallible>(Response::new(String::from("books"))) });
//! let server = ServiceBuilder::new().layer(RbacLayer::new(Rbac::allow([("reading", reading)]))).service(books);
//! let refused = server.oneshot(Request::get("/library.Admin/Drop").body(()).unwrap()).await.unwrap();
//! assert_eq!(refused.status(), StatusCode::FORBIDDEN);
//! # }
//! # #[cfg(not(feature = "rbac"))]
//! # fn main() {}
//! ```

#[cfg(any(feature = "rbac", feature = "jwt"))]
mod answer;
mod ext_authz;
#[cfg(feature = "jwt")]
mod jwt;
#[cfg(feature = "jwt")]
mod keys;
#[cfg(feature = "rbac")]
mod rbac;
#[cfg(all(test, feature = "rbac", feature = "tls"))]
mod tests;

#[cfg(any(feature = "rbac", feature = "jwt"))]
pub use answer::ResponseFuture;
pub use ext_authz::{ExtAuthzLayer, ExtAuthzService};
#[cfg(feature = "jwt")]
pub use jwt::{JwtLayer, JwtProvider, JwtService};
#[cfg(feature = "jwt")]
pub use keys::JwkSet;
#[cfg(feature = "rbac")]
pub use rbac::{RbacLayer, RbacService};

pub use crate::filter::ResponseBody;
#[cfg(feature = "rbac")]
pub use crate::resource::rbac::{Policy, Rbac, Rule};
#[cfg(feature = "jwt")]
pub use crate::server::Claims;
