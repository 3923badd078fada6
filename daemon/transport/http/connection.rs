//! One connection from accept to close: its pace, its end, its identity.
//!
//! hyper can serve a client that closed its sending half, but then no longer looks whether the client is there at all. So the
//! descriptor is watched from the side: the kernel says HUP only when both directions are closed.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use hyper::Request;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper_util::rt::TokioIo;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::UnixStream;
use tokio::time::{Instant, Sleep, sleep};
use tower_service::Service as _;

use crate::config;
use crate::transport::http::peers::Peer;
use crate::transport::http::{Fresh, Seat, Site};

/// Request lines and headers together.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// From the first byte of a request to the end of its headers.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// Where a connection stands; the pace that it must keep hangs off it.
#[derive(Clone, Default)]
struct Phase(Arc<AtomicU8>);

const IDLE: u8 = 0;
const HEAD: u8 = 1;
const BUSY: u8 = 2;

impl Phase {
    fn get(&self) -> u8 {
        self.0.load(Ordering::Relaxed)
    }

    fn set(&self, phase: u8) {
        self.0.store(phase, Ordering::Relaxed);
    }
}

/// Serves a connection to its end. A peer without a seat is told so at its first request.
pub(super) async fn serve(stream: UnixStream, peer: Peer, seat: Result<Seat, Response>, fresh: Fresh, router: Router) {
    let site = Arc::clone(&fresh.0);
    let fresh = Mutex::new(Some(fresh));
    let watched = match stream.as_fd().try_clone_to_owned() {
        Ok(descriptor) => descriptor,
        Err(error) => return tracing::warn!(%error, "a connection cannot be watched and is closed"),
    };
    // Registered for priority data, which Unix sockets never have; HUP is reported whatever was asked for.
    #[expect(deprecated, reason = "unsound only for types that give up their descriptor early; an OwnedFd does not")]
    let registered = AsyncFd::with_interest(watched, Interest::PRIORITY);
    let watched = match registered {
        Ok(watched) => watched,
        Err(error) => return tracing::warn!(%error, "a connection cannot be watched and is closed"),
    };
    let phase = Phase::default();
    let paced = Paced::new(stream, phase.clone(), &site.terms().limits);
    let (_seat, refusal) = match seat {
        Ok(seat) => (Some(seat), None),
        Err(refusal) => (None, Some(Mutex::new(Some(refusal)))),
    };
    let service = hyper::service::service_fn(|request: Request<Incoming>| {
        let busy = Busy::start(&phase, &site);
        // After the request counts, so that it is never in neither number.
        drop(fresh.lock().ok().and_then(|mut fresh| fresh.take()));
        let refused = refusal.as_ref().and_then(|refusal| refusal.lock().ok()?.take());
        let mut router = router.clone();
        async move {
            let response = if let Some(refused) = refused {
                refused
            } else {
                let (mut parts, body) = request.into_parts();
                parts.extensions.insert(peer);
                router.call(Request::from_parts(parts, Body::new(body))).await?
            };
            Ok::<_, std::convert::Infallible>(response.map(|body| Closing { body, _busy: busy }))
        }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .half_close(true)
        .max_buf_size(HEAD_BYTES_MAX)
        .timer(hyper_util::rt::TokioTimer::new())
        // The pace is kept by `Paced`, which tells an idle connection from a slow head.
        .header_read_timeout(None)
        .serve_connection(TokioIo::new(paced), service);
    tokio::select! {
        ended = connection => if let Err(error) = ended {
            tracing::debug!(user = peer.user, %error, "a connection ended early");
            discard_unread(watched.get_ref());
        },
        // Dropping the connection drops its request, and with it the job.
        _ = watched.ready(Interest::PRIORITY) => tracing::debug!(user = peer.user, "a client left"),
    }
}

/// Closing a Unix socket with unread bytes resets it, and the client loses the answer that says what was wrong (431).
fn discard_unread(descriptor: &OwnedFd) {
    const PIECES_MAX: usize = 64;
    let mut piece = [0; 4096];
    for _ in 0..PIECES_MAX {
        // Nothing left, closed, or broken: each is an end.
        if !matches!(rustix::io::read(descriptor, &mut piece), Ok(1..)) {
            return;
        }
    }
}

/// A response body that says when it is over, so that the connection counts as idle again.
struct Closing {
    body: Body,
    _busy: Busy,
}

impl hyper::body::Body for Closing {
    type Data = <Body as hyper::body::Body>::Data;
    type Error = <Body as hyper::body::Body>::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A request from its head to the last byte of its answer.
struct Busy {
    phase: Phase,
    site: Arc<Site>,
}

impl Busy {
    fn start(phase: &Phase, site: &Arc<Site>) -> Self {
        phase.set(BUSY);
        site.busy.fetch_add(1, Ordering::Relaxed);
        Self { phase: phase.clone(), site: Arc::clone(site) }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.phase.set(IDLE);
        self.site.busy.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The stream with its clocks: idle, slow head, stalled reader.
struct Paced {
    stream: UnixStream,
    phase: Phase,
    idle_timeout: Duration,
    stall_timeout: Duration,
    /// The clock of the phase that reading last saw.
    reading: Option<(u8, Pin<Box<Sleep>>)>,
    /// Runs while a write waits.
    writing: Option<Pin<Box<Sleep>>>,
}

impl Paced {
    fn new(stream: UnixStream, phase: Phase, limits: &config::Socket) -> Self {
        Self {
            stream,
            phase,
            idle_timeout: limits.idle_timeout.0,
            stall_timeout: limits.stall_timeout.0,
            reading: None,
            writing: None,
        }
    }

    /// Starts or checks the clock of a write that waits.
    fn wait_for_reader(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let clock = self.writing.get_or_insert_with(|| Box::pin(sleep(self.stall_timeout)));
        ready!(clock.as_mut().poll(cx));
        Poll::Ready(io::Error::new(io::ErrorKind::TimedOut, "the client does not read"))
    }
}

impl AsyncRead for Paced {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let filled = buffer.filled().len();
        if let Poll::Ready(result) = Pin::new(&mut this.stream).poll_read(cx, buffer) {
            if this.phase.get() == IDLE && buffer.filled().len() > filled {
                this.phase.set(HEAD);
                // The idle clock ends here; the head's own starts when the next byte has to be waited for.
                this.reading = None;
            }
            return Poll::Ready(result);
        }
        let phase = this.phase.get();
        let limit = match phase {
            IDLE => this.idle_timeout,
            HEAD => HEAD_TIMEOUT,
            _ => {
                this.reading = None;
                return Poll::Pending;
            }
        };
        if this.reading.as_ref().is_none_or(|(of, _)| *of != phase) {
            this.reading = Some((phase, Box::pin(tokio::time::sleep_until(Instant::now() + limit))));
        }
        if let Some((_, clock)) = &mut this.reading {
            ready!(clock.as_mut().poll(cx));
        }
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "no request within the time for it")))
    }
}

impl AsyncWrite for Paced {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        match Pin::new(&mut this.stream).poll_write(cx, bytes) {
            Poll::Ready(result) => {
                this.writing = None;
                Poll::Ready(result)
            }
            Poll::Pending => this.wait_for_reader(cx).map(Err),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
