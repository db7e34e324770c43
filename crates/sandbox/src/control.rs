//! The server's side of the conversation with a sandbox's init.
//!
//! Until the guest is started, what comes is from init itself. From then on it may be the guest's:
//! it runs as the same user, and though init's memory is closed to it and the socket too, nothing
//! here leans on that. Lengths are bounded, what does not fit in is dropped, and nothing that is
//! said changes anything but how this one sandbox's end is told. What is not said at all, because
//! init was killed or stopped, is not waited for: ending a sandbox does not depend on it.

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream as StdStream;

use futures_util::StreamExt;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, recvmsg, sockopt,
};
use rustix::process::PidfdGetfdFlags;
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio_util::codec::{FramedRead, LengthDelimitedCodec};

use crate::init::wire::{Event, FROM_INIT_MAX_BYTES, Frame, Request, TO_INIT_MAX_BYTES};
use crate::pidfd::Process;

/// So much that a guest sent may wait in one connection to the endpoint; the system doubles it.
const RECEIVE_BYTES: usize = 64 << 10;

/// A connection to an init that has not said yet that it is ready.
#[derive(Debug)]
pub(crate) struct Waiting(UnixStream);

/// What an init says first: that it is ready, or why it is not. With the process that said it, as
/// the kernel tells it.
#[derive(Debug)]
pub(crate) struct FirstEvent {
    pub(crate) event: Event,
    pub(crate) pid: u32,
}

/// Both ends of a new connection; the second one is init's standard input.
pub(crate) fn pair() -> io::Result<(Waiting, OwnedFd)> {
    let (ours, theirs) = StdStream::pair()?;
    ours.set_nonblocking(true)?;
    // The kernel adds to every message who sent it.
    sockopt::set_socket_passcred(&ours, true)?;
    Ok((Waiting(UnixStream::from_std(ours)?), theirs.into()))
}

impl Waiting {
    /// Waits for the first message. An error of the kind `UnexpectedEof` means that the sandbox
    /// ended before its init could speak.
    pub(crate) async fn first(&self) -> io::Result<FirstEvent> {
        let mut bytes = Vec::new();
        loop {
            let (read, sender) = self
                .0
                .async_io(Interest::READABLE, || receive(&self.0))
                .await?;
            if read.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            bytes.extend(read);
            let Some((length, body)) = bytes.split_first_chunk() else {
                continue;
            };
            let length = u32::from_le_bytes(*length).min(FROM_INIT_MAX_BYTES);
            if usize::try_from(length).is_ok_and(|length| body.len() >= length) {
                let event = Event::decode(body).ok_or(io::ErrorKind::InvalidData)?;
                let pid = sender.ok_or(io::ErrorKind::InvalidData)?;
                return Ok(FirstEvent { event, pid });
            }
        }
    }

    /// Goes on with both directions apart.
    pub(crate) fn split(self) -> (Events, Requests) {
        let (read, write) = self.0.into_split();
        let codec = LengthDelimitedCodec::builder()
            .little_endian()
            .length_field_type::<u32>()
            .max_frame_length(usize::try_from(FROM_INIT_MAX_BYTES).unwrap_or(usize::MAX))
            .new_codec();
        (Events(FramedRead::new(read, codec)), Requests(write))
    }
}

/// Reads some bytes, and the process id of who sent them.
fn receive(stream: &UnixStream) -> io::Result<(Vec<u8>, Option<u32>)> {
    let mut bytes = [0; 4096];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut into = [IoSliceMut::new(&mut bytes)];
    let received = recvmsg(stream, &mut into, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    if received.flags.contains(ReturnFlags::CTRUNC) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let sender = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmCredentials(from) => {
            Some(from.pid.as_raw_nonzero().get().unsigned_abs())
        }
        _ => None,
    });
    Ok((bytes[..received.bytes].to_vec(), sender))
}

/// What an init reports.
#[derive(Debug)]
pub(crate) struct Events(FramedRead<OwnedReadHalf, LengthDelimitedCodec>);

impl Events {
    /// The next report; `None` at the end, or when nonsense came.
    pub(crate) async fn next(&mut self) -> Option<Event> {
        let frame = self.0.next().await?.ok()?;
        Event::decode(&frame)
    }
}

/// The way to tell an init what to do.
#[derive(Debug)]
pub(crate) struct Requests(OwnedWriteHalf);

impl Requests {
    /// Sends an order. `InvalidInput` when it is longer than any order can be. Dropping this
    /// half-way breaks the connection for good.
    pub(crate) async fn send(&mut self, order: &Request) -> io::Result<()> {
        let frame = order
            .encode(TO_INIT_MAX_BYTES)
            .ok_or(io::ErrorKind::InvalidInput)?;
        self.0.write_all(&frame).await
    }
}

/// Takes the listener out of an init that waits: it made it inside the sandbox, and from now on
/// only the server has it. The socket stays one of the sandbox's network, whoever holds it.
///
/// Nothing of the guest has run yet, so this is the listener that our own init made.
pub(crate) fn take_listener(init: &Process, number: u32) -> io::Result<TcpListener> {
    let number = i32::try_from(number).map_err(|_| io::ErrorKind::InvalidData)?;
    let socket = rustix::process::pidfd_getfd(init.as_fd(), number, PidfdGetfdFlags::empty())?;
    if !sockopt::socket_acceptconn(socket.as_fd())? {
        return Err(io::ErrorKind::InvalidData.into());
    }
    // Connections inherit it. What a guest sends and nobody reads yet is the server's memory, not
    // the sandbox's.
    sockopt::set_socket_recv_buffer_size(socket.as_fd(), RECEIVE_BYTES)?;
    let listener = TcpListener::from(socket);
    listener.set_nonblocking(true)?;
    Ok(listener)
}
