//! Compressed streams, recognised by their first bytes: media types lie more often.

use std::io::{self, BufRead, Read};

use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

const GZIP_MAGIC: &[u8] = &[0x1f, 0x8b];
const ZSTD_MAGIC: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
/// `0x184D2A5?`, little-endian: frames that carry notes, not content.
const ZSTD_SKIPPABLE_MAGIC: &[u8] = &[0x2a, 0x4d, 0x18];

/// What the stream unpacks to: gzip, zstd, or itself.
pub fn decompress<'a>(mut stream: impl BufRead + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let start = stream.fill_buf()?;
    if start.starts_with(GZIP_MAGIC) {
        return Ok(Box::new(flate2::bufread::MultiGzDecoder::new(stream)));
    }
    if is_zstd(start) {
        return Ok(Box::new(ZstdFrames { stream, decoder: FrameDecoder::new(), inside: false }));
    }
    Ok(Box::new(stream))
}

/// Of the first bytes of a stream.
pub fn is_compressed(start: &[u8]) -> bool {
    start.starts_with(GZIP_MAGIC) || is_zstd(start)
}

fn is_zstd(start: &[u8]) -> bool {
    let skippable = start.first().is_some_and(|first| first & 0xf0 == 0x50) && start.get(1..4) == Some(ZSTD_SKIPPABLE_MAGIC);
    start.starts_with(ZSTD_MAGIC) || skippable
}

/// zstd in any number of frames, as parallel and seekable writers make it; the library's own stream
/// ends with the first.
struct ZstdFrames<R> {
    stream: R,
    decoder: FrameDecoder,
    inside: bool,
}

impl<R: BufRead> ZstdFrames<R> {
    /// Goes to the next frame with content; false at the end of the stream.
    fn enter_frame(&mut self) -> io::Result<bool> {
        while !self.inside {
            if self.stream.fill_buf()?.is_empty() {
                return Ok(false);
            }
            match self.decoder.reset(&mut self.stream) {
                Ok(()) => self.inside = true,
                // The header is read by now, the content is not.
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame { length, .. })) => {
                    io::copy(&mut self.stream.by_ref().take(u64::from(length)), &mut io::sink())?;
                }
                Err(error) => return Err(damaged(error)),
            }
        }
        Ok(true)
    }
}

impl<R: BufRead> Read for ZstdFrames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.enter_frame()? {
            while self.decoder.can_collect() == 0 && !self.decoder.is_finished() {
                let strategy = BlockDecodingStrategy::UptoBytes(buffer.len());
                self.decoder.decode_blocks(&mut self.stream, strategy).map_err(damaged)?;
            }
            let n = self.decoder.read(buffer)?;
            if n > 0 || buffer.is_empty() {
                return Ok(n);
            }
            self.inside = false;
        }
        Ok(0)
    }
}

fn damaged(error: FrameDecoderError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("zstd: {error}"))
}
