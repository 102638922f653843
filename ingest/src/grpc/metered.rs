//! The body of a gRPC call, counted and timed while it is read.
//!
//! Always true: bytes are admitted before they are gathered, by the door of their credential; a
//! message that comes too slowly ends the call; a stream may idle between messages as long as a
//! connection may; the next message of a stream is not read while there is no room for it, nor
//! once the server is stopping.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use chalkstream_access::{Credential, Door, Full, Permit, Problem, ProblemKind};
use http::HeaderMap;
use hyper::body::{Body as HttpBody, Frame};
use parking_lot::Mutex;
use tokio::time::{Instant, Sleep};
use tonic::Status;

use super::packed::Packed;
use super::status;
use crate::app::App;
use crate::body::{self, Encoding, Stop};
use crate::options::IngestOptions;

/// How soon a stream looks again whether there is room for its next message.
const ROOM_POLL: Duration = Duration::from_millis(10);

/// The room that the messages of a call take. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct Room {
    app: Arc<App>,
    options: Arc<IngestOptions>,
    credential: Arc<Credential>,
    streams: bool,
    message: Arc<Mutex<Message>>,
}

/// The message that is being read.
#[derive(Debug)]
struct Message {
    bytes: usize,
    permit: Option<Permit>,
    /// When its first byte came; before that, when it began to be waited for.
    since: Instant,
}

impl Message {
    fn awaited() -> Self {
        Self { bytes: 0, permit: None, since: Instant::now() }
    }
}

impl Room {
    pub(super) fn new(
        app: &Arc<App>,
        options: Arc<IngestOptions>,
        credential: Arc<Credential>,
        streams: bool,
    ) -> Self {
        let message = Arc::new(Mutex::new(Message::awaited()));
        Self { app: Arc::clone(app), options, credential, streams, message }
    }

    fn door(&self) -> Door {
        self.app.door(Some(&self.credential))
    }

    /// The permit of the message that has been read, covering `bytes` at least.
    pub(super) fn permit(&self, bytes: usize) -> Result<Permit, Problem> {
        let problem = |full: Full| Stop::Full(full).problem(&self.options);
        let held = self.message.lock().permit.take();
        let mut permit = match held {
            Some(permit) => permit,
            None => self.door().admit(0).map_err(problem)?,
        };
        permit.cover(bytes).map_err(problem)?;
        Ok(permit)
    }

    /// From now on the next message of a stream is waited for.
    pub(super) fn next_message(&self) {
        *self.message.lock() = Message::awaited();
    }

    fn add(&self, bytes: usize) -> Result<(), Problem> {
        let mut message = self.message.lock();
        if message.bytes == 0 {
            message.since = Instant::now();
        }
        message.bytes = message.bytes.saturating_add(bytes);
        let held = message.bytes;
        let admitted = match &mut message.permit {
            Some(permit) => permit.cover(held),
            empty => self.door().admit(held).map(|permit| *empty = Some(permit)),
        };
        admitted.map_err(|full| {
            let problem = Stop::Full(full).problem(&self.options);
            self.app.limits.reached(&problem, Some(&self.credential));
            problem
        })
    }

    /// A message of the call without its compression; its permit covers it then.
    fn unpack(&self, packed: &[u8], encoding: Encoding) -> Result<Bytes, Problem> {
        let permit = self.permit(0)?;
        let read = body::unpack(packed, encoding, permit, &self.options);
        let read =
            read.inspect_err(|problem| self.app.limits.reached(problem, Some(&self.credential)))?;
        self.message.lock().permit = Some(read.permit);
        Ok(read.bytes)
    }

    /// Whether nothing of the next message of a stream has come yet.
    fn between_messages(&self) -> bool {
        self.streams && self.message.lock().bytes == 0
    }

    /// Whether a message of the largest size would be admitted.
    fn is_there(&self) -> bool {
        self.door().free_bytes() >= self.app.options.get().max_body.get()
    }

    /// Until when the message must have come, and what it means if it has not.
    fn deadline(&self) -> (Instant, Problem) {
        let options = &self.options;
        let since = self.message.lock().since;
        let (limit, kind, what) = if self.between_messages() {
            (options.header_timeout, ProblemKind::NotReady, "no message came")
        } else {
            (options.body_timeout, ProblemKind::BodyTimeout, "the message did not arrive")
        };
        let detail = format!("{what} within {limit}; call again");
        let problem = Problem::new(kind, detail).retry_after(options.retry_after.get());
        (since + limit.get(), problem)
    }
}

type Drained = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The body; reading it takes room.
pub(super) struct Metered {
    body: Body,
    room: Room,
    /// How its messages are made plain, if they come compressed.
    packed: Option<Packed>,
    timer: Pin<Box<Sleep>>,
    drained: Drained,
}

impl Metered {
    pub(super) fn new(body: Body, headers: &HeaderMap, room: Room) -> Self {
        let packed = Packed::of(headers, room.options.max_body.get());
        let lifecycle = room.app.lifecycle.clone();
        let drained = Box::pin(async move { lifecycle.drained().await });
        let timer = Box::pin(tokio::time::sleep(Duration::ZERO));
        Self { body, room, packed, timer, drained }
    }

    /// Counts what came, and makes it plain.
    fn take(&mut self, frame: Frame<Bytes>) -> Result<Option<Frame<Bytes>>, Problem> {
        let Some(data) = frame.data_ref() else { return Ok(Some(frame)) };
        self.room.add(data.len())?;
        let Some(packed) = &mut self.packed else { return Ok(Some(frame)) };
        let plain = packed.push(data, |message, encoding| self.room.unpack(message, encoding))?;
        Ok((!plain.is_empty()).then(|| Frame::data(plain)))
    }

    /// Pending until `at`, when it is polled again; ready if that is now.
    fn wait_until(&mut self, at: Instant, cx: &mut Context<'_>) -> Poll<()> {
        if self.timer.deadline() != at {
            self.timer.as_mut().reset(at);
        }
        self.timer.as_mut().poll(cx)
    }
}

type Polled = Poll<Option<Result<Frame<Bytes>, Status>>>;

fn failed(problem: &Problem) -> Polled {
    Poll::Ready(Some(Err(status::of(problem))))
}

impl HttpBody for Metered {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled {
        let this = &mut *self;
        if this.room.between_messages() {
            if this.drained.as_mut().poll(cx).is_ready() {
                let detail = "the server is stopping; call again after the delay";
                let after = this.room.options.retry_after.get();
                return failed(&Problem::new(ProblemKind::NotReady, detail).retry_after(after));
            }
            if !this.room.is_there() {
                // The client is not idle: it is kept waiting.
                this.room.next_message();
                while this.wait_until(Instant::now() + ROOM_POLL, cx).is_ready() {}
                return Poll::Pending;
            }
        }
        loop {
            return match Pin::new(&mut this.body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => match this.take(frame) {
                    // Of a message that is not whole yet.
                    Ok(None) => continue,
                    Ok(Some(frame)) => Poll::Ready(Some(Ok(frame))),
                    Err(problem) => failed(&problem),
                },
                Poll::Ready(Some(Err(error))) => {
                    let status = Status::cancelled(format!("the call broke off: {error}"));
                    Poll::Ready(Some(Err(status)))
                }
                Poll::Ready(None) => {
                    let rest = this.packed.as_mut().and_then(Packed::rest);
                    Poll::Ready(rest.map(|rest| Ok(Frame::data(rest))))
                }
                Poll::Pending => {
                    let (deadline, problem) = this.room.deadline();
                    match this.wait_until(deadline, cx) {
                        Poll::Ready(()) => failed(&problem),
                        Poll::Pending => Poll::Pending,
                    }
                }
            };
        }
    }
}
