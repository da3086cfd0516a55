//! The output of a task on its way to the orchestrator: bounded, and never in the way of the task. What is dropped here is
//! in the spill; a gap in the sequence tells.

use std::collections::VecDeque;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

/// The most bytes of one piece.
const PIECE: usize = 32 << 10;
/// The most bytes that wait.
const WAITING: usize = 256 << 10;
const ANNOUNCED_WITHIN: Duration = Duration::from_millis(50);

#[derive(Clone, Debug, Default)]
pub struct Output(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    state: Mutex<State>,
    /// What is said of the task before it goes on.
    announced: Mutex<Option<(String, mpsc::SyncSender<()>)>>,
    more: Notify,
}

#[derive(Debug, Default)]
struct State {
    pieces: VecDeque<Piece>,
    bytes: usize,
}

/// Some bytes, and the place of the first one in all of the output, from 1: it rises, and is the same over restarts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    pub sequence: u64,
    pub bytes: Vec<u8>,
}

impl Output {
    /// Bytes of the output, and where in it they begin.
    pub fn push_at(&self, from: u64, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        let mut state = self.0.state.lock();
        let mut sequence = from + 1;
        for chunk in bytes.chunks(PIECE) {
            state.bytes += chunk.len();
            match state.pieces.back_mut() {
                // It has not left: it may grow.
                Some(last)
                    if last.bytes.len() + chunk.len() <= PIECE
                        && last.sequence + last.bytes.len() as u64 == sequence =>
                {
                    last.bytes.extend_from_slice(chunk);
                }
                _ => state.pieces.push_back(Piece {
                    sequence,
                    bytes: chunk.to_vec(),
                }),
            }
            sequence += chunk.len() as u64;
        }
        while state.bytes > WAITING {
            let dropped = state.pieces.pop_front().map_or(0, |piece| piece.bytes.len());
            state.bytes -= dropped;
        }
        drop(state);
        self.0.more.notify_one();
    }

    /// Says something of the task, and waits a moment until it is on its way. Blocks.
    pub fn announce(&self, message: String) {
        let (sent, waiting) = mpsc::sync_channel(1);
        *self.0.announced.lock() = Some((message, sent));
        self.0.more.notify_one();
        // An orchestrator that is away does not hold up the work.
        let _late = waiting.recv_timeout(ANNOUNCED_WITHIN);
    }

    /// What was announced; whoever waits is told when the second is dropped or used.
    pub fn announced(&self) -> Option<(String, mpsc::SyncSender<()>)> {
        self.0.announced.lock().take()
    }

    pub fn take(&self) -> Option<Piece> {
        let mut state = self.0.state.lock();
        let piece = state.pieces.pop_front()?;
        state.bytes -= piece.bytes.len();
        Some(piece)
    }

    pub fn is_empty(&self) -> bool {
        self.0.state.lock().pieces.is_empty() && self.0.announced.lock().is_none()
    }

    /// Until something was pushed. One reader.
    pub async fn more(&self) {
        self.0.more.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_grow_while_they_wait_and_the_oldest_go() {
        let output = Output::default();
        output.push_at(0, b"a");
        output.push_at(1, b"b");
        assert_eq!(
            output.take(),
            Some(Piece {
                sequence: 1,
                bytes: b"ab".to_vec()
            })
        );
        output.push_at(2, &vec![b'x'; 300 << 10]);
        let mut next = output.take().unwrap();
        assert!(next.sequence > 3, "the oldest pieces were dropped");
        while let Some(piece) = output.take() {
            assert_eq!(piece.sequence, next.sequence + next.bytes.len() as u64);
            next = piece;
        }
        assert!(output.is_empty());
    }
}
