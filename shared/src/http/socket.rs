//! A client's socket, through which a small answer is sent from one piece of memory.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

/// Largest answer that is copied together before it is sent, in bytes: a head and a usual value.
const SMALL_BYTES: usize = 2 * 1024;

/// hyper hands over head and body apart. To send a few hundred bytes of two pieces (`writev`) costs the kernel more than it costs to
/// copy them into one (`send`).
#[derive(Debug)]
pub(super) struct Socket<S = TcpStream>(pub(super) S);

impl<S: AsyncRead + Unpin> AsyncRead for Socket<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Socket<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let bytes: usize = pieces.iter().map(|piece| piece.len()).sum();
        if bytes > SMALL_BYTES {
            return Pin::new(&mut self.0).poll_write_vectored(context, pieces);
        }
        let mut whole = [0; SMALL_BYTES];
        let mut filled = 0;
        for piece in pieces {
            whole[filled..filled + piece.len()].copy_from_slice(piece);
            filled += piece.len();
        }
        Pin::new(&mut self.0).poll_write(context, &whole[..filled])
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use proptest::prelude::*;

    use super::*;

    /// Takes so many bytes at once, and remembers whether they came in one piece.
    #[derive(Debug)]
    struct Wire {
        takes: usize,
        sent: Vec<u8>,
        in_one_piece: Vec<bool>,
    }

    impl Wire {
        fn take(&mut self, bytes: &[u8], in_one_piece: bool) -> Poll<io::Result<usize>> {
            let taken = bytes.len().min(self.takes);
            self.sent.extend(&bytes[..taken]);
            self.in_one_piece.push(in_one_piece);
            Poll::Ready(Ok(taken))
        }
    }

    impl AsyncWrite for Wire {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            self.take(bytes, true)
        }

        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            pieces: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            let bytes = pieces.iter().flat_map(|piece| piece.iter().copied()).collect::<Vec<_>>();
            self.take(&bytes, false)
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    proptest! {
        /// However it is cut, and however much the wire takes at once.
        #[test]
        fn what_is_sent_in_pieces_arrives_as_it_is_and_what_is_small_in_one(
            pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..SMALL_BYTES), 0..5),
            takes in 1..SMALL_BYTES * 2,
        ) {
            let mut socket = Socket(Wire { takes, sent: vec![], in_one_piece: vec![] });
            let whole = pieces.concat();
            while socket.0.sent.len() < whole.len() {
                let (mut skipped, left) = (socket.0.sent.len(), whole.len() - socket.0.sent.len());
                let rest: Vec<_> = pieces.iter().map(|piece| {
                    let from = skipped.min(piece.len());
                    skipped -= from;
                    IoSlice::new(&piece[from..])
                }).collect();
                let write = poll_fn(|context| Pin::new(&mut socket).poll_write_vectored(context, &rest));
                let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                prop_assert!(runtime.block_on(write).unwrap() > 0);
                prop_assert_eq!(socket.0.in_one_piece.last(), Some(&(left <= SMALL_BYTES)));
            }
            prop_assert_eq!(&socket.0.sent, &whole);
        }
    }
}
