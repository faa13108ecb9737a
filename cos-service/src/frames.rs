//! Frames of a body, in sizes worth keeping.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

/// Frames below this many bytes are copied together.
const SMALL: usize = 4096;

/// Frames in their order. A small frame as it comes costs more than its bytes: it pins a buffer of the
/// connection. A client that sends single bytes would fill the memory with them.
#[derive(Debug, Default)]
pub struct Frames {
    small: BytesMut,
    ready: VecDeque<Bytes>,
}

impl Frames {
    /// Adds a frame.
    pub fn push(&mut self, frame: Bytes) {
        if frame.len() < SMALL {
            self.small.extend_from_slice(&frame);
            if self.small.len() >= SMALL {
                self.flush();
            }
        } else {
            self.flush();
            self.ready.push_back(frame);
        }
    }

    /// Gives up waiting for more: what is small comes out too.
    pub fn flush(&mut self) {
        if !self.small.is_empty() {
            self.ready.push_back(self.small.split().freeze());
        }
    }

    /// The next frame that is large enough, or was flushed.
    pub fn pop(&mut self) -> Option<Bytes> {
        self.ready.pop_front()
    }

    /// Bytes held.
    pub fn len(&self) -> usize {
        self.small.len() + self.ready.iter().map(Bytes::len).sum::<usize>()
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.small.is_empty() && self.ready.is_empty()
    }

    /// All of them.
    pub fn into_vec(mut self) -> Vec<Bytes> {
        self.flush();
        self.ready.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_keep_their_order_and_single_ones_their_cost() {
        let body: Vec<u8> = (0..200_000_u32).map(|i| i as u8).collect();
        let mut frames = Frames::default();
        let (ones, rest) = body.split_at(100_000);
        ones.iter().for_each(|byte| frames.push(Bytes::copy_from_slice(&[*byte])));
        frames.push(Bytes::copy_from_slice(&rest[..50_000]));
        frames.push(Bytes::copy_from_slice(&rest[50_000..50_001]));
        frames.push(Bytes::copy_from_slice(&rest[50_001..]));
        assert_eq!(frames.len(), body.len());
        let frames = frames.into_vec();
        assert!(frames.len() < 30);
        assert_eq!(frames.concat(), body);
    }
}
