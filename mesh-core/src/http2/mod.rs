//! One HTTP/2 client connection, driven from the calling tasks.
//!
//! Calls, the ADS and LRS streams and plain HTTP/2 requests all run over a [`Connection`]: one keepalive, one GOAWAY, one
//! flow control. A caller takes a [`Slot`], and [`Slot::send`] queues its frames inside `h2` from the caller's own task:
//! no channel, no worker and no box between the two. The connection's task ([`driver`]) only moves bytes.
//!
//! ```text
//! caller ─ try_acquire ─▸ Slot ─ send ─▸ Send (future) ─▸ Response<RecvBody>
//!                          │               │ h2 send_request, send_data        (request.rs, send.rs, upload.rs, ahead.rs)
//!                          │               └ unsent or refused: SendError with the request, to be sent elsewhere
//!                     slots.rs          RecvBody holds the slot until the stream ended              (body.rs)
//! driver task ─ h2::Connection ─ Wire (counts what passes) ─ TCP, TLS, Unix socket      (driver.rs, wire.rs, tcp.rs)
//!      └ PING: keepalive.rs, window.rs, over pings.rs
//! ```
//!
//! What `h2` leaves to its user and lives here: it queues beyond MAX_CONCURRENT_STREAMS without bound, so slots are
//! counted; it does not wait for the peer's SETTINGS, so [`handshake`] does; it has no keepalive; it reports a GOAWAY only
//! to those who try to send, so [`Wire`](wire::Wire) sees the frame itself; it flushes after each frame, so the wire holds
//! its writes; its windows stay as they were set, so [`window`] lets them grow.

mod ahead;
mod body;
mod config;
mod connection;
mod driver;
mod error;
mod first;
mod frames;
mod keepalive;
mod pings;
mod request;
mod send;
mod shared;
mod slots;
mod tcp;
mod upload;
mod window;
mod wire;

#[cfg(test)]
mod tests;

pub(crate) use body::RecvBody;
pub(crate) use config::{Config, Keepalive, MAX_STREAM_WINDOW, MIN_STREAM_WINDOW};
pub(crate) use connection::{Connection, Slot, handshake};
pub(crate) use error::{BodyError, ConnectionError, SendError, SendErrorKind};
pub(crate) use first::{NEXT_ADDRESS, first_of, interleaved};
pub(crate) use request::Outgoing;
pub(crate) use send::Send;
pub(crate) use shared::State;
pub(crate) use slots::Unavailable;
pub(crate) use tcp::{TcpConfig, connect_first, connect_tcp};
