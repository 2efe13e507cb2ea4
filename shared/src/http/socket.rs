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

/// What is put together before it is sent at most, in bytes: the head of an answer and a usual value. More is worth sending from where it is.
const SMALL_BYTES: usize = 2 * 1024;

/// hyper hands over head and body apart. To send a few hundred bytes of two pieces (`writev`) costs the kernel more than copying them into
/// one (`send`): that is the largest part of an answer from memory that is not the network's own.
#[derive(Debug)]
pub(super) struct Socket(pub(super) TcpStream);

impl Socket {
    fn stream(self: Pin<&mut Self>) -> Pin<&mut TcpStream> {
        Pin::new(&mut self.get_mut().0)
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_read(context, buffer)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.stream().poll_write(context, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let bytes: usize = pieces.iter().map(|piece| piece.len()).sum();
        if bytes > SMALL_BYTES {
            return self.stream().poll_write_vectored(context, pieces);
        }
        let mut whole = [0; SMALL_BYTES];
        let mut filled = 0;
        for piece in pieces {
            whole[filled..filled + piece.len()].copy_from_slice(piece);
            filled += piece.len();
        }
        self.stream().poll_write(context, &whole[..filled])
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use proptest::prelude::*;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        /// However it is cut, and on either side of the limit.
        #[test]
        fn what_is_sent_in_pieces_arrives_as_it_is(
            pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..SMALL_BYTES), 0..5),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let (sent, arrived) = runtime.block_on(async {
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                let (near, far) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
                let (mut near, mut far) = (Socket(near.unwrap()), far.unwrap().0);
                let sent: Vec<u8> = pieces.concat();
                let mut done = 0;
                while done < sent.len() {
                    let mut skipped = done;
                    let rest: Vec<_> = pieces.iter().map(|piece| {
                        let from = skipped.min(piece.len());
                        skipped -= from;
                        IoSlice::new(&piece[from..])
                    }).collect();
                    done += poll_fn(|context| Pin::new(&mut near).poll_write_vectored(context, &rest)).await.unwrap();
                }
                near.shutdown().await.unwrap();
                let mut arrived = vec![];
                far.read_to_end(&mut arrived).await.unwrap();
                (sent, arrived)
            });
            prop_assert_eq!(sent, arrived);
        }
    }
}
