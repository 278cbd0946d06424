//! Walks the headers of the frames that a peer sends, for what `h2` does not tell: that a GOAWAY came while streams go
//! on, and whether what was read carried any part of a response.

use std::fmt::Write as _;

use super::error::{Code, ConnectionError, ConnectionErrorKind};

const HEADER: usize = 9;
const DATA: u8 = 0x0;
const HEADERS: u8 = 0x1;
const GOAWAY: u8 = 0x7;
/// Of a GOAWAY's debug data only the start is kept.
const MAX_GOAWAY: usize = 8 + 256;

/// Where the walk stands between two reads.
#[derive(Debug, Default)]
pub(super) struct Frames {
    header: [u8; HEADER],
    /// Bytes of `header` that are there.
    have: usize,
    /// Bytes of the payload that are still to come.
    left: usize,
    /// The payload, if it is a GOAWAY's.
    goaway: Option<Vec<u8>>,
}

/// What one read brought.
#[derive(Debug, Default)]
pub(super) struct Sight {
    /// A frame of a response began.
    pub(super) response: bool,
    /// Bytes of the DATA frames that began.
    pub(super) data: u64,
    /// The last GOAWAY that ended here.
    pub(super) goaway: Option<ConnectionError>,
}

impl Frames {
    pub(super) fn walk(&mut self, mut bytes: &[u8]) -> Sight {
        let mut sight = Sight::default();
        while !bytes.is_empty() {
            bytes = if self.left > 0 { self.payload(bytes, &mut sight) } else { self.header(bytes, &mut sight) };
        }
        sight
    }

    fn header<'a>(&mut self, bytes: &'a [u8], sight: &mut Sight) -> &'a [u8] {
        // Nearly always: the header is there in one piece.
        if self.have == 0
            && let Some((header, rest)) = bytes.split_first_chunk()
        {
            self.begin(header, sight);
            return rest;
        }
        let (taken, rest) = bytes.split_at(bytes.len().min(HEADER - self.have));
        self.header[self.have..self.have + taken.len()].copy_from_slice(taken);
        self.have += taken.len();
        if self.have == HEADER {
            self.have = 0;
            let header = self.header;
            self.begin(&header, sight);
        }
        rest
    }

    fn begin(&mut self, header: &[u8; HEADER], sight: &mut Sight) {
        let [a, b, c, kind, ..] = *header;
        let length = u32::from_be_bytes([0, a, b, c]);
        self.left = usize::try_from(length).expect("24 bits fit");
        match kind {
            HEADERS => sight.response = true,
            DATA => {
                sight.response = true;
                sight.data += u64::from(length);
            }
            GOAWAY => self.goaway = Some(Vec::new()),
            _ => {}
        }
    }

    fn payload<'a>(&mut self, bytes: &'a [u8], sight: &mut Sight) -> &'a [u8] {
        let (taken, rest) = bytes.split_at(bytes.len().min(self.left));
        self.left -= taken.len();
        if let Some(kept) = &mut self.goaway {
            kept.extend_from_slice(&taken[..taken.len().min(MAX_GOAWAY - kept.len())]);
            if self.left == 0 {
                sight.goaway = self.goaway.take().as_deref().and_then(goaway);
            }
        }
        rest
    }
}

fn goaway(payload: &[u8]) -> Option<ConnectionError> {
    let (_last_stream, rest) = payload.split_first_chunk::<4>()?;
    let (code, debug) = rest.split_first_chunk::<4>()?;
    let code = Code(u32::from_be_bytes(*code));
    let mut text = format!("peer sent GOAWAY {code}");
    if !debug.is_empty() {
        // Escaped: it ends up in logs and status messages.
        let _ = write!(text, ": {}", debug.escape_ascii());
    }
    Some(ConnectionError::new(ConnectionErrorKind::GoAway(code), text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![0, 0, u8::try_from(payload.len()).unwrap(), kind, 0, 0, 0, 0, 1];
        frame.extend_from_slice(payload);
        frame
    }

    #[test]
    fn frames_are_seen_however_the_reads_cut_them() {
        let mut goaway = vec![0, 0, 0, 5, 0, 0, 0, 11];
        goaway.extend_from_slice(b"too_many_pings");
        let stream: Vec<u8> =
            [frame(4, &[0; 6]), frame(1, b"head"), frame(0, b""), frame(7, &goaway), frame(6, &[0; 8])].concat();
        for cut in 1..=stream.len() {
            let mut frames = Frames::default();
            let (mut responses, mut goaways) = (0, Vec::new());
            for read in stream.chunks(cut) {
                let sight = frames.walk(read);
                responses += u32::from(sight.response);
                goaways.extend(sight.goaway);
            }
            assert!(responses > 0, "reads of {cut}");
            let [seen] = &goaways[..] else { panic!("reads of {cut}: {goaways:?}") };
            assert_eq!(seen.to_string(), "peer sent GOAWAY ENHANCE_YOUR_CALM: too_many_pings");
            assert!(seen.is_too_many_pings());
        }
    }

    #[test]
    fn settings_and_pings_are_no_response() {
        let stream = [frame(4, &[0; 6]), frame(6, &[0; 8]), frame(8, &[0; 4])].concat();
        assert!(!Frames::default().walk(&stream).response);
    }

    #[test]
    fn a_short_or_huge_goaway_is_bounded() {
        assert!(Frames::default().walk(&frame(7, &[1, 2, 3])).goaway.is_none());
        let mut frames = Frames::default();
        frames.walk(&[0xff, 0xff, 0xff, 7, 0, 0, 0, 0, 0]);
        for _ in 0..100 {
            frames.walk(&[0; 1000]);
        }
        assert!(frames.goaway.is_some_and(|kept| kept.len() == MAX_GOAWAY));
    }
}
