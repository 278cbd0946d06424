//! What a NACK says, and when it goes.

use std::collections::hash_map::DefaultHasher;
use std::fmt::Write as _;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::xds::resource_type::{FieldError, ResourceType};

/// Bytes of one NACK's text: it travels in a request and ends in the control plane's logs.
const MAX_TEXT: usize = 4096;
/// Bytes that one resource may take of it, so that others are seen, too.
const MAX_RESOURCE_TEXT: usize = 1024;
/// Longest name that a text repeats.
const MAX_NAME: usize = 256;

/// The resources of one response that were rejected.
#[derive(Debug, Default)]
pub(super) struct Rejections {
    text: String,
    rejected: u64,
    shown: u64,
    /// Independent of the order of the resources, which some servers shuffle.
    fingerprint: u64,
}

impl Rejections {
    pub(super) fn add(&mut self, resource_type: &ResourceType, which: Which<'_>, reason: &str) {
        self.rejected += 1;
        let mut hasher = DefaultHasher::new();
        (which, reason).hash(&mut hasher);
        self.fingerprint = self.fingerprint.wrapping_add(hasher.finish());
        if self.text.len() >= MAX_TEXT {
            return;
        }
        let before = self.text.len();
        let separator = if before == 0 { "" } else { "; " };
        let _ = match which {
            Which::Name(name) => {
                write!(self.text, "{separator}{} `{}`: {reason}", resource_type.name, cut(name, MAX_NAME))
            }
            Which::Index(index) => write!(self.text, "{separator}{} at index {index}: {reason}", resource_type.name),
        };
        if before > 0 && self.text.len() > MAX_TEXT {
            self.text.truncate(before);
        } else {
            self.shown += 1;
        }
    }

    /// Why the response is rejected; `None` if it is not.
    pub(super) fn finish(self) -> Option<Rejection> {
        if self.rejected == 0 {
            return None;
        }
        let mut text = cut(&self.text, MAX_TEXT - 32).to_owned();
        if self.rejected > self.shown {
            let _ = write!(text, "; and {} more", self.rejected - self.shown);
        }
        Some(Rejection { text: text.into(), fingerprint: self.fingerprint })
    }
}

/// Which resource of a response is meant.
#[derive(Clone, Copy, Hash)]
pub(super) enum Which<'a> {
    Name(&'a str),
    /// Its name could not be read.
    Index(u64),
}

/// What a NACK will say.
#[derive(Clone, Debug)]
pub(super) struct Rejection {
    pub(super) text: Arc<str>,
    fingerprint: u64,
}

/// The errors of one resource as one text.
pub(super) fn reason(errors: &[FieldError]) -> Arc<str> {
    let mut text = String::new();
    for (i, error) in errors.iter().enumerate() {
        let before = text.len();
        let _ = write!(text, "{}{error}", if i == 0 { "" } else { "; " });
        if before > 0 && text.len() > MAX_RESOURCE_TEXT {
            text.truncate(before);
            let _ = write!(text, "; and {} more", errors.len() - i);
            break;
        }
    }
    if text.is_empty() { "invalid".into() } else { cut(&text, MAX_RESOURCE_TEXT + 32).into() }
}

/// The start of a text, not longer than `max` bytes.
pub(super) fn cut(text: &str, max: usize) -> &str {
    let mut end = max.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// When the NACKs of one type go on one stream.
///
/// Some servers answer a NACK with the same resources at once, thousands of times a second. The first NACK goes at
/// once, because these servers push nothing until they have it; a repetition of the last waits longer each time. One that
/// differs waits only for [`GAP`], so that there are never more than ten in two seconds, whichever repeat and differ.
#[derive(Debug, Default)]
pub(super) struct Pacer {
    last: Option<(Instant, u64)>,
    repeats: u32,
}

/// No two NACKs are closer than this.
const GAP: Duration = Duration::from_millis(200);
/// No NACK waits longer.
pub(crate) const LONGEST: Duration = Duration::from_secs(5);

impl Pacer {
    /// When a NACK for this may be sent.
    pub(super) fn due(&self, now: Instant, rejection: &Rejection) -> Instant {
        match self.last {
            None => now,
            Some((last, fingerprint)) if fingerprint == rejection.fingerprint => {
                let delay = GAP.saturating_mul(1_u32.checked_shl(self.repeats).unwrap_or(u32::MAX));
                last + delay.min(LONGEST)
            }
            Some((last, _)) => last + GAP,
        }
    }

    pub(super) fn sent(&mut self, now: Instant, rejection: &Rejection) {
        let is_repeat = self.last.is_some_and(|(_, fingerprint)| fingerprint == rejection.fingerprint);
        self.repeats = if is_repeat { self.repeats.saturating_add(1) } else { 0 };
        self.last = Some((now, rejection.fingerprint));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xds::ads::tests::THING;

    fn rejection(reasons: &[&str]) -> Rejection {
        let mut rejections = Rejections::default();
        reasons.iter().for_each(|reason| rejections.add(&THING, Which::Name("a"), reason));
        rejections.finish().unwrap()
    }

    #[test]
    fn a_text_names_type_resource_and_field() {
        let mut rejections = Rejections::default();
        let errors = [
            FieldError { path: "lb_policy".into(), problem: "unknown value 9".into() },
            FieldError { path: "outlier_detection.interval".into(), problem: "negative".into() },
        ];
        rejections.add(&THING, Which::Name("checkout"), &reason(&errors));
        rejections.add(&THING, Which::Index(7), "no name");
        assert_eq!(
            &*rejections.finish().unwrap().text,
            "Thing `checkout`: lb_policy: unknown value 9; outlier_detection.interval: negative; Thing at index 7: no name"
        );
        assert!(Rejections::default().finish().is_none());
    }

    #[test]
    fn a_text_is_bounded_whatever_is_wrong() {
        let long = "ä".repeat(100_000);
        let errors: Vec<_> = (0..1000).map(|_| FieldError { path: long.clone(), problem: long.clone() }).collect();
        assert!(reason(&errors).len() <= MAX_RESOURCE_TEXT + 32);
        let mut rejections = Rejections::default();
        for _ in 0..1000 {
            rejections.add(&THING, Which::Name(&long), &reason(&errors));
        }
        let text = rejections.finish().unwrap().text;
        assert!(text.len() <= MAX_TEXT, "{}", text.len());
        assert!(text.contains("; and 99") && text.ends_with(" more"), "{text}");
    }

    #[test]
    fn repetitions_back_off_to_five_seconds() {
        let start = Instant::now();
        let (mut pacer, same) = (Pacer::default(), rejection(&["x"]));
        let (mut now, mut sent) = (start, Vec::new());
        for _ in 0..10 {
            now = now.max(pacer.due(now, &same));
            pacer.sent(now, &same);
            sent.push((now - start).as_millis());
        }
        assert_eq!(sent, [0, 200, 600, 1400, 3000, 6200, 11200, 16200, 21200, 26200]);
    }

    #[test]
    fn errors_are_at_most_ten_in_two_seconds_whichever_repeat_and_differ() {
        for rows_of in 1..=5 {
            let start = Instant::now();
            let (mut pacer, mut now, mut early) = (Pacer::default(), start, 0);
            for i in 0..100 {
                let rejection = rejection(&[&(i / rows_of).to_string()]);
                now = now.max(pacer.due(now, &rejection));
                pacer.sent(now, &rejection);
                early += u32::from(now - start < Duration::from_secs(2));
            }
            assert!(early <= 10, "{early} in rows of {rows_of}");
            assert!(rows_of > 1 || early == 10, "{early}");
        }
    }

    #[test]
    fn the_order_of_resources_makes_no_difference() {
        assert_eq!(rejection(&["x", "y"]).fingerprint, rejection(&["y", "x"]).fingerprint);
        assert_ne!(rejection(&["x", "y"]).fingerprint, rejection(&["x", "z"]).fingerprint);
    }
}
