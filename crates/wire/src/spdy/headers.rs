//! Header blocks: names and values with their lengths, compressed with one zlib stream for each
//! direction that begins with a dictionary.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};

/// Names in lower case.
pub type Headers = BTreeMap<String, String>;

/// Streams have four headers at most; more than this is no use but to fill memory.
const BLOCK_BYTES_MAX: usize = 64 * 1024;

/// The words of the dictionary that stand with their lengths before them (SPDY/3, section
/// 2.6.10.1).
const WORDS: &str = "options head post put delete trace accept accept-charset accept-encoding accept-language accept-ranges age allow \
    authorization cache-control connection content-base content-encoding content-language content-length content-location content-md5 \
    content-range content-type date etag expect expires from host if-match if-modified-since if-none-match if-range if-unmodified-since \
    last-modified location max-forwards pragma proxy-authenticate proxy-authorization range referer retry-after server te trailer \
    transfer-encoding upgrade user-agent vary via warning www-authenticate method get status 200_OK version HTTP/1.1 url public set-cookie \
    keep-alive origin";

/// What follows them.
const TEXT: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505203 Non-Authoritative \
    Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden404 Not Found500 Internal Server Error501 Not \
    Implemented503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, \
    GMTchunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,text/javascript,publicprivatemax-\
    age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.";

fn dictionary() -> &'static [u8] {
    static DICTIONARY: OnceLock<Vec<u8>> = OnceLock::new();
    DICTIONARY.get_or_init(|| {
        let mut bytes = Vec::new();
        for word in WORDS.split(' ') {
            put_text(&mut bytes, &word.replace('_', " "));
        }
        bytes.extend_from_slice(TEXT.as_bytes());
        bytes
    })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a header block is malformed")]
pub struct BadBlock;

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

fn encode(headers: &Headers) -> Vec<u8> {
    let mut out = u32::try_from(headers.len()).unwrap_or(u32::MAX).to_be_bytes().to_vec();
    for (name, value) in headers {
        put_text(&mut out, name);
        put_text(&mut out, value);
    }
    out
}

fn decode(mut block: &[u8]) -> Option<Headers> {
    let count = take_number(&mut block)?;
    let mut headers = Headers::new();
    for _ in 0..count {
        let (name, value) = (take_text(&mut block)?, take_text(&mut block)?);
        headers.insert(name.to_ascii_lowercase(), value);
    }
    Some(headers)
}

fn take_number(block: &mut &[u8]) -> Option<u32> {
    let (number, rest) = block.split_first_chunk::<4>()?;
    *block = rest;
    Some(u32::from_be_bytes(*number))
}

fn take_text(block: &mut &[u8]) -> Option<String> {
    let length = usize::try_from(take_number(block)?).ok()?;
    let (text, rest) = block.split_at_checked(length)?;
    *block = rest;
    String::from_utf8(text.to_vec()).ok()
}

/// Compresses the blocks of one direction.
pub struct Packer(Compress);

impl Default for Packer {
    fn default() -> Packer {
        let mut zlib = Compress::new(Compression::default(), true);
        zlib.set_dictionary(dictionary()).expect("a stream that has not begun takes a dictionary");
        Packer(zlib)
    }
}

impl Packer {
    pub fn pack(&mut self, headers: &Headers) -> Vec<u8> {
        let block = encode(headers);
        let mut out = Vec::with_capacity(block.len() + 64);
        let begin = self.0.total_in();
        loop {
            let taken = usize::try_from(self.0.total_in() - begin).unwrap_or(usize::MAX).min(block.len());
            self.0.compress_vec(&block[taken..], &mut out, FlushCompress::Sync).expect("compressing into a vector cannot fail");
            // A full buffer may mean that there is more to come.
            if out.len() < out.capacity() {
                return out;
            }
            out.reserve(256);
        }
    }
}

/// Decompresses the blocks of one direction.
pub struct Unpacker(Decompress);

impl Default for Unpacker {
    fn default() -> Unpacker {
        Unpacker(Decompress::new(true))
    }
}

impl Unpacker {
    pub fn unpack(&mut self, packed: &[u8]) -> Result<Headers, BadBlock> {
        let begin = self.0.total_in();
        let mut out = Vec::with_capacity(1024);
        loop {
            let taken = usize::try_from(self.0.total_in() - begin).map_err(|_| BadBlock)?;
            let before = (taken, out.len());
            match self.0.decompress_vec(packed.get(taken..).ok_or(BadBlock)?, &mut out, FlushDecompress::Sync) {
                Ok(_) => {}
                Err(error) if error.needs_dictionary().is_some() => {
                    self.0.set_dictionary(dictionary()).map_err(|_| BadBlock)?;
                    continue;
                }
                Err(_) => return Err(BadBlock),
            }
            let taken = usize::try_from(self.0.total_in() - begin).map_err(|_| BadBlock)?;
            if out.len() < out.capacity() && (taken == packed.len() || before == (taken, out.len())) {
                return decode(&out).ok_or(BadBlock);
            }
            if out.len() > BLOCK_BYTES_MAX {
                return Err(BadBlock);
            }
            out.reserve(1024);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The checksum that zlib streams of SPDY/3 name their dictionary by.
    #[test]
    fn the_dictionary_is_the_one_of_the_protocol() {
        let (mut a, mut b) = (1u32, 0u32);
        for &byte in dictionary() {
            a = (a + u32::from(byte)) % 65521;
            b = (b + a) % 65521;
        }
        assert_eq!((dictionary().len(), (b << 16) | a), (1423, 0xe3c6_a7c2));
    }

    #[test]
    fn blocks_come_back_as_they_were() {
        let (mut packer, mut unpacker) = (Packer::default(), Unpacker::default());
        for number in 0..50 {
            let text = "x".repeat(number * 100);
            let headers: Headers =
                [("streamtype", "stdin"), ("port", "80"), ("text", &text)].map(|(k, v)| (k.to_owned(), v.to_owned())).into();
            assert_eq!(unpacker.unpack(&packer.pack(&headers)), Ok(headers));
        }
        assert_eq!(unpacker.unpack(b"nonsense"), Err(BadBlock));
    }

    #[test]
    fn a_block_that_swells_is_refused() {
        let headers: Headers = [("a".to_owned(), "x".repeat(1 << 20))].into();
        assert_eq!(Unpacker::default().unpack(&Packer::default().pack(&headers)), Err(BadBlock));
    }
}
