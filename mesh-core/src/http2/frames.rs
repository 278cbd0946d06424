//! Walks the headers of the frames that a peer sends, for what `h2` does not tell: that a GOAWAY came while streams go
//! on, how large a request's head it takes, and whether what was read carried any part of a response.

use std::fmt::Write as _;

use super::error::{Code, ConnectionError, ConnectionErrorKind};

const HEADER: usize = 9;
const DATA: u8 = 0x0;
const HEADERS: u8 = 0x1;
const SETTINGS: u8 = 0x4;
const GOAWAY: u8 = 0x7;
/// Of what is kept only the start is: of a GOAWAY 256 bytes of debug data, of SETTINGS 44 of them.
const MAX_KEPT: usize = 8 + 256;
const MAX_HEADER_LIST_SIZE: u16 = 0x6;

/// Where the walk stands between two reads.
#[derive(Debug, Default)]
pub(super) struct Frames {
    header: [u8; HEADER],
    /// Bytes of `header` that are there.
    have: usize,
    /// Bytes of the payload that are still to come.
    left: usize,
    /// The type and the payload of a frame that is to be read.
    kept: Option<(u8, Vec<u8>)>,
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
    /// The last SETTINGS_MAX_HEADER_LIST_SIZE that ended here.
    pub(super) max_header_list_size: Option<u32>,
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
            SETTINGS | GOAWAY if length > 0 => self.kept = Some((kind, Vec::new())),
            _ => {}
        }
    }

    fn payload<'a>(&mut self, bytes: &'a [u8], sight: &mut Sight) -> &'a [u8] {
        let (taken, rest) = bytes.split_at(bytes.len().min(self.left));
        self.left -= taken.len();
        if let Some((_, kept)) = &mut self.kept {
            kept.extend_from_slice(&taken[..taken.len().min(MAX_KEPT - kept.len())]);
            if self.left == 0 {
                match self.kept.take() {
                    Some((GOAWAY, payload)) => sight.goaway = goaway(&payload),
                    Some((_, payload)) => {
                        sight.max_header_list_size = max_header_list_size(&payload).or(sight.max_header_list_size);
                    }
                    None => {}
                }
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

/// The last that the SETTINGS have of it.
fn max_header_list_size(settings: &[u8]) -> Option<u32> {
    let (settings, _) = settings.as_chunks::<6>();
    let wanted = |[a, b, value @ ..]: &[u8; 6]| {
        (u16::from_be_bytes([*a, *b]) == MAX_HEADER_LIST_SIZE).then(|| u32::from_be_bytes(*value))
    };
    settings.iter().rev().find_map(wanted)
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
    fn the_largest_head_is_read_from_settings_however_the_reads_cut_them() {
        let settings = [[0, 3, 0, 0, 0, 9], [0, 6, 0, 0, 0, 7], [0, 6, 0, 0, 64, 0], [0, 4, 0, 0, 0, 8]].concat();
        let stream = [frame(4, &settings), frame(4, &[]), frame(4, &[0, 6, 0]), frame(4, &settings[..6])].concat();
        for cut in 1..=stream.len() {
            let mut frames = Frames::default();
            let seen: Vec<_> = stream.chunks(cut).filter_map(|read| frames.walk(read).max_header_list_size).collect();
            assert_eq!(seen, [16_384], "reads of {cut}");
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
        assert!(frames.kept.is_some_and(|(_, kept)| kept.len() == MAX_KEPT));
    }
}
