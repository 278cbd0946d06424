//! A request that can be sent again: whoever sends it takes its head for good, and a body can be polled once.

mod body;
mod head;

pub(crate) use body::Replay;
pub(crate) use head::{Head, HeadCopy, field_size};
