//! Headers of streams: zlib with a dictionary, one compressor for all of a connection.
//!
//! The library's inflater that everything else uses knows no dictionary. What a dictionary does is to
//! stand before the first byte as if it had been there, so it is put there: as a stored block of a
//! raw stream, whose output is thrown away. Our own headers are none, and are sent in stored blocks.

use flate2::{Decompress, FlushDecompress, Status};
use thiserror::Error;

use super::dictionary::DICTIONARY;

/// Bytes of one stream's headers when unpacked: ten times what any client sends.
const UNPACKED_MAX: usize = 16 << 10;
/// Headers of one stream. Clients send three.
const HEADERS_MAX: usize = 64;
/// zlib's head: deflate with a window of 32 KiB, a dictionary, and a check that makes 31 divide it.
const ZLIB_HEAD: [u8; 2] = [0x78, 0xbb];
/// In the second byte of zlib's head: a dictionary's checksum follows.
const HAS_DICTIONARY: u8 = 0x20;
/// A stored block of nothing, by which a compressor says that all it has is out (`Z_SYNC_FLUSH`).
const FLUSHED: [u8; 5] = [0, 0, 0, 0xff, 0xff];

/// Why headers cannot be read. The connection ends with it: the compressor's state is lost.
#[derive(Debug, Error)]
pub(super) enum HeadersError {
    #[error("headers do not begin as zlib with the dictionary of SPDY/3")]
    Head,
    #[error("cannot unpack headers")]
    Unpack(#[source] flate2::DecompressError),
    #[error("the compressed headers end, and the connection does not")]
    Ended,
    #[error("more than {UNPACKED_MAX} bytes or {HEADERS_MAX} headers of one stream")]
    TooMany,
    #[error("headers that end within a name or value")]
    Short,
}

/// The headers of one stream: names in lower case, and values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::server) struct Headers(Vec<(String, String)>);

impl Headers {
    /// The value of a header, whatever the case of its name.
    pub(in crate::server) fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }
}

/// zlib's checksum (RFC 1950).
const fn adler32(bytes: &[u8]) -> u32 {
    let (mut a, mut b, mut at) = (1u32, 0u32, 0);
    while at < bytes.len() {
        a = (a + bytes[at] as u32) % 65521;
        b = (b + a) % 65521;
        at += 1;
    }
    b << 16 | a
}

const DICTIONARY_SUM: [u8; 4] = adler32(DICTIONARY).to_be_bytes();

/// A block of a deflate stream that holds `bytes` as they are.
fn stored(bytes: &[u8]) -> Vec<u8> {
    // All that is stored here is far below 64 KiB.
    let len = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    let mut block = vec![0];
    block.extend(len.to_le_bytes());
    block.extend((!len).to_le_bytes());
    block.extend_from_slice(bytes);
    block
}

/// Unpacks the headers of all streams of a connection, in their order.
#[derive(Debug)]
pub(super) struct Unpacker {
    inflate: Decompress,
    begun: bool,
}

impl Unpacker {
    pub(super) fn new() -> Self {
        let mut inflate = Decompress::new(false);
        let mut thrown_away = Vec::with_capacity(DICTIONARY.len() + 1);
        let block = stored(DICTIONARY);
        // It is well-formed; were it refused, so would be the first headers that refer to it.
        let _ = inflate.decompress_vec(&block, &mut thrown_away, FlushDecompress::Sync);
        Self { inflate, begun: false }
    }

    /// The headers of the next stream from their compressed form, whose length is bounded already.
    pub(super) fn headers(&mut self, packed: &[u8]) -> Result<Headers, HeadersError> {
        let packed = if self.begun { packed } else { after_head(packed)? };
        self.begun = true;
        read(&self.unpack(packed)?)
    }

    fn unpack(&mut self, mut packed: &[u8]) -> Result<Vec<u8>, HeadersError> {
        let mut bytes = Vec::with_capacity(1024);
        loop {
            let before = self.inflate.total_in();
            let unpacked = self.inflate.decompress_vec(packed, &mut bytes, FlushDecompress::Sync);
            match unpacked.map_err(HeadersError::Unpack)? {
                Status::Ok | Status::BufError => {}
                Status::StreamEnd => return Err(HeadersError::Ended),
            }
            // It takes no more than it was given.
            let taken = usize::try_from(self.inflate.total_in() - before).unwrap_or(packed.len());
            packed = &packed[taken.min(packed.len())..];
            if bytes.len() < bytes.capacity() {
                // Room was left, so there is nothing more.
                return Ok(bytes);
            }
            if bytes.len() >= UNPACKED_MAX {
                return Err(HeadersError::TooMany);
            }
            bytes.reserve(bytes.len());
        }
    }
}

/// What follows zlib's head.
fn after_head(packed: &[u8]) -> Result<&[u8], HeadersError> {
    let [method, flags, a, b, c, d, rest @ ..] = packed else { return Err(HeadersError::Head) };
    let is_deflate = method & 0x0f == 8 && (u16::from(*method) << 8 | u16::from(*flags)) % 31 == 0;
    if is_deflate && flags & HAS_DICTIONARY != 0 && [*a, *b, *c, *d] == DICTIONARY_SUM {
        Ok(rest)
    } else {
        Err(HeadersError::Head)
    }
}

/// Takes a length and as many bytes.
fn text(bytes: &mut &[u8]) -> Result<String, HeadersError> {
    let (len, rest) = bytes.split_first_chunk::<4>().ok_or(HeadersError::Short)?;
    let len = u32::from_be_bytes(*len) as usize;
    let (text, rest) = rest.split_at_checked(len).ok_or(HeadersError::Short)?;
    *bytes = rest;
    Ok(String::from_utf8_lossy(text).into_owned())
}

fn read(mut bytes: &[u8]) -> Result<Headers, HeadersError> {
    let (count, rest) = bytes.split_first_chunk::<4>().ok_or(HeadersError::Short)?;
    let count = u32::from_be_bytes(*count) as usize;
    bytes = rest;
    if count > HEADERS_MAX {
        return Err(HeadersError::TooMany);
    }
    let mut headers = Vec::with_capacity(count);
    for _ in 0..count {
        headers.push((text(&mut bytes)?.to_ascii_lowercase(), text(&mut bytes)?));
    }
    Ok(Headers(headers))
}

/// No headers, compressed: as they stand in a reply, of which the first begins the stream.
pub(super) fn packed_none(first: bool) -> Vec<u8> {
    let mut packed = Vec::new();
    if first {
        packed.extend(ZLIB_HEAD);
        packed.extend(DICTIONARY_SUM);
    }
    packed.extend(stored(&0u32.to_be_bytes()));
    packed.extend(FLUSHED);
    packed
}

#[cfg(test)]
pub(super) mod tests {
    use flate2::{Compress, Compression, FlushCompress};
    use proptest::prelude::*;

    use super::*;

    /// A client's compressor without a dictionary of its own: it says that it has one, and refers to
    /// none of it.
    pub(in crate::server) struct Packer {
        deflate: Compress,
        begun: bool,
    }

    impl Packer {
        pub(in crate::server) fn new() -> Self {
            Self { deflate: Compress::new(Compression::best(), false), begun: false }
        }

        pub(in crate::server) fn pack(&mut self, headers: &[(&str, &str)]) -> Vec<u8> {
            let mut plain = u32::try_from(headers.len()).expect("few").to_be_bytes().to_vec();
            for text in headers.iter().flat_map(|(name, value)| [name, value]) {
                plain.extend(u32::try_from(text.len()).expect("short").to_be_bytes());
                plain.extend(text.as_bytes());
            }
            let mut packed = Vec::new();
            if !self.begun {
                packed.extend(ZLIB_HEAD);
                packed.extend(DICTIONARY_SUM);
            }
            self.begun = true;
            packed.reserve(2 * plain.len() + 64);
            let done = self.deflate.compress_vec(&plain, &mut packed, FlushCompress::Sync);
            assert_eq!(done.expect("packs"), Status::Ok);
            packed
        }
    }

    #[test]
    fn the_dictionary_is_that_of_spdy_3() {
        assert_eq!(DICTIONARY_SUM, 0xe3c6_a7c2_u32.to_be_bytes());
        assert_eq!(u16::from_be_bytes(ZLIB_HEAD) % 31, 0);
    }

    /// The first two streams of an exec as Go's `spdystream` 0.5.1 sends them: they refer to the
    /// dictionary.
    #[test]
    fn what_gos_compressor_sends_is_read() {
        const FIRST: &str = "78f9e3c6a7c202e50ed4348d48a45cc52545a989b9d0f285351514fa00000000ffff";
        const SECOND: &str = "62606060c490622b2e49c92f2d01000000ffff";
        let bytes = |hex: &str| -> Vec<u8> {
            let digit = |at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex");
            (0..hex.len()).step_by(2).map(digit).collect()
        };
        let mut unpacker = Unpacker::new();
        let first = unpacker.headers(&bytes(FIRST)).expect("is read");
        assert_eq!(first.get("streamType"), Some("error"));
        assert_eq!(first.get("warning"), Some("200 OK"), "of the dictionary");
        let second = unpacker.headers(&bytes(SECOND)).expect("is read");
        assert_eq!(second.get("streamtype"), Some("stdout"));
        assert_eq!(second.get("x"), None);
    }

    #[test]
    fn headers_are_read_in_order_and_bounded() {
        let (mut packer, mut unpacker) = (Packer::new(), Unpacker::new());
        for kind in ["error", "stdin", "stdout"] {
            let headers = unpacker.headers(&packer.pack(&[("streamtype", kind), ("port", "80")]));
            let headers = headers.expect("is read");
            assert_eq!((headers.get("streamType"), headers.get("port")), (Some(kind), Some("80")));
        }
        let long = "x".repeat(UNPACKED_MAX);
        let bomb = unpacker.headers(&packer.pack(&[("a", &long)]));
        assert!(matches!(bomb, Err(HeadersError::TooMany)), "{bomb:?}");
        let many = vec![("a", "b"); HEADERS_MAX + 1];
        let many = Unpacker::new().headers(&Packer::new().pack(&many));
        assert!(matches!(many, Err(HeadersError::TooMany)), "{many:?}");
        let plain = Unpacker::new().headers(b"GET / HTTP/1.1");
        assert!(matches!(plain, Err(HeadersError::Head)), "{plain:?}");
    }

    #[test]
    fn what_we_send_is_no_headers() {
        let mut unpacker = Unpacker::new();
        for first in [true, false, false] {
            assert_eq!(unpacker.headers(&packed_none(first)).expect("is read"), Headers::default());
        }
    }

    proptest! {
        #[test]
        fn garbage_never_panics(
            head in any::<bool>(),
            blocks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 1..4),
        ) {
            let mut unpacker = Unpacker::new();
            unpacker.begun = head;
            for block in blocks {
                if unpacker.headers(&block).is_err() {
                    break;
                }
            }
        }
    }
}
