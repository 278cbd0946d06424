//! Fault injection (A33): what [`Fault`] decides is done, and the calls that meet a fault are counted.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use http::request::Parts;

use super::exchange::{Running, Step};
use crate::call::{Call, Stage};
use crate::resource::answer::Answer;
use crate::resource::filter::fault::{Fault, Faults};
use crate::resource::matcher::RequestHead;

const ABORT: &str = "fault filter abort";

/// A call that meets a fault, for as long as the fault lasts.
#[derive(Debug)]
pub(crate) struct ActiveFault(Arc<Running>);

impl ActiveFault {
    /// `None` if there are `max` already.
    fn new(running: &Arc<Running>, max: Option<u32>) -> Option<Self> {
        let before = running.active_faults.fetch_add(1, Relaxed);
        let active = Self(running.clone());
        max.is_none_or(|max| before < max).then_some(active)
    }
}

impl Drop for ActiveFault {
    fn drop(&mut self) {
        self.0.active_faults.fetch_sub(1, Relaxed);
    }
}

/// `cluster`: the one that was chosen for the call.
pub(super) fn inject(fault: &Fault, running: &Arc<Running>, cluster: Option<&str>, head: &Parts) -> Step {
    if !fault.concerns(cluster, &RequestHead::of_parts(head)) {
        return Step::Continue;
    }
    let Faults { delay, abort } = fault.decide(&head.headers, || fastrand::u32(..1_000_000));
    if delay.is_none() && abort.is_none() {
        return Step::Continue;
    }
    let Some(active) = ActiveFault::new(running, fault.max_active_faults()) else { return Step::Continue };
    let answer = abort.map(|status| Answer::new(status, ABORT));
    match (delay, answer) {
        (Some(delay), then) => {
            if let Some(progress) = head.extensions.get::<Call>().and_then(Call::progress) {
                progress.set(Stage::Delayed);
            }
            Step::Pause { delay, then, active }
        }
        (None, Some(answer)) => Step::Answer(answer),
        (None, None) => Step::Continue,
    }
}
