//! TLS to endpoints and of callers: a context of the control plane and the latest key material become a handshake (A29, A87,
//! A101).
//!
//! ```text
//! Security (resource/) ─┐
//! KeyMaterial (identity/) ─ client.rs: Handshake, made anew for each connection ─▸ stream, and its facts: facts.rs
//! DownstreamTls (resource/) ┘ server.rs: the same of connections that are accepted
//!                           verify.rs: chain, time and names of the peer; never the names alone, never webpki's host names
//!                           revocation.rs: the same of a chain in revocation lists
//!                           floor.rs: what is demanded whatever the control plane asks for
//!                           material.rs: whether it can be used now, and when there is newer
//!                           secret.rs: secrets (SDS) as providers of key material
//!                           lifetime.rs, plan.rs: what becomes of the connection as certificates change and end
//! ```
//!
//! Sessions are never resumed: what a certificate was verified for holds for one connection.

mod advice;
mod client;
mod facts;
mod floor;
mod lifetime;
mod material;
mod plan;
mod revocation;
mod secret;
#[cfg(feature = "server")]
mod server;
#[cfg(all(test, feature = "server"))]
mod tests;
mod verify;

pub(crate) use advice::OWN_REFUSED;
pub(crate) use client::{ClientTls, Handshake};
#[cfg(feature = "server")]
pub use facts::AcceptedSecurity;
pub use facts::{ConnectionSecurity, Peer};
pub(crate) use floor::ExpectedPeers;
pub use floor::{SecurityFloor, TlsVersion};
pub(crate) use lifetime::Lifetime;
pub(crate) use material::Material;
#[cfg(feature = "server")]
pub(crate) use plan::REFUSED_FOR;
pub(crate) use plan::Turn;
pub(crate) use secret::Secrets;
#[cfg(feature = "server")]
pub(crate) use server::{Acceptor, Outlook, Shortcomings};
