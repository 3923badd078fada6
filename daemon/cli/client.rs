//! The socket's other end: what the verbs that talk to a running daemon send, and how they hear the answer.

use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;
use tokio::task::JoinHandle;

use crate::config::find::Places;
use crate::config::{Config, find};
use crate::fault::{Code, Fault, Kind};

/// What the daemon sends while it answers.
pub(super) enum Heard<'a> {
    Text(&'a str),
    /// Name and arguments.
    Call(&'a str, &'a str),
}

/// The socket that a daemon of this user most likely listens on: the one named, the service's, one's own.
pub(super) fn socket(named: Option<&Path>) -> Result<PathBuf, Fault> {
    if let Some(path) = named {
        return Ok(path.to_path_buf());
    }
    let service = PathBuf::from("/run/moed.sock");
    if std::fs::metadata(&service).is_ok_and(|meta| meta.file_type().is_socket()) {
        return Ok(service);
    }
    let mut config = Config::default();
    // Only the socket's path is of interest; a missing model is the daemon's affair.
    let found = find::fill(&mut config, &Places::of_process());
    if config.socket.path.as_os_str().is_empty() { found.map(|()| config.socket.path) } else { Ok(config.socket.path) }
}

/// Sends a chat request and hands over the answer, streamed, piece by piece. Returns the finish reason.
pub(super) async fn complete(
    socket: &Path,
    request: &Value,
    mut hear: impl FnMut(Heard<'_>) -> Result<(), Fault>,
) -> Result<String, Fault> {
    let response = post(socket, "/v1/chat/completions", request).await?;
    let failed = |error: hyper::Error| Fault::machine(format!("reading the answer: {error}"));
    if !response.status().is_success() {
        let body = response.into_body().collect().await.map_err(failed)?.to_bytes();
        return Err(read_error(&serde_json::from_slice(&body).unwrap_or(Value::Null)));
    }
    let mut body = response.into_body();
    let (mut held, mut finish) = (Vec::<u8>::new(), None);
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.map_err(failed)?.into_data() {
            held.extend_from_slice(&data);
        }
        while let Some(end) = held.windows(2).position(|pair| pair == b"\n\n") {
            let event: Vec<u8> = held.drain(..end + 2).collect();
            let text = String::from_utf8_lossy(&event);
            let Some(data) = text.trim_end().strip_prefix("data: ") else { continue };
            if data == "[DONE]" {
                continue;
            }
            let chunk: Value =
                serde_json::from_str(data).map_err(|error| Fault::bug(format!("the daemon sent no JSON: {error}")))?;
            if chunk.get("error").is_some() {
                return Err(read_error(&chunk));
            }
            let choice = &chunk["choices"][0];
            if let Some(text) = choice["delta"]["content"].as_str().filter(|text| !text.is_empty()) {
                hear(Heard::Text(text))?;
            }
            for call in choice["delta"]["tool_calls"].as_array().into_iter().flatten() {
                let function = &call["function"];
                hear(Heard::Call(
                    function["name"].as_str().unwrap_or_default(),
                    function["arguments"].as_str().unwrap_or_default(),
                ))?;
            }
            if let Some(reason) = choice["finish_reason"].as_str() {
                finish = Some(reason.to_owned());
            }
        }
    }
    finish.ok_or_else(|| Fault::machine("the daemon hung up in the middle of the answer"))
}

async fn post(socket: &Path, path: &str, request: &Value) -> Result<Response<Incoming>, Fault> {
    Line::open(socket).await?.ask(Method::POST, path, request.to_string()).await
}

/// One connection to the daemon.
pub(super) struct Line {
    sender: SendRequest<Full<Bytes>>,
    /// Ends with the connection.
    end: JoinHandle<()>,
}

impl Line {
    pub(super) async fn open(socket: &Path) -> Result<Self, Fault> {
        let away = |error: std::io::Error| {
            let message = format!("no daemon answers at `{}`: {error}", socket.display());
            Fault::new(Kind::Machine, Code::Unavailable, message)
                .hint("start one with `moed serve`, or name its socket with `--socket`")
        };
        let stream = UnixStream::connect(socket).await.map_err(away)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(|error| failed(&error))?;
        let end = tokio::spawn(async move {
            // Its error reaches the one who reads the answer.
            connection.await.ok();
        });
        Ok(Self { sender, end })
    }

    async fn ask(&mut self, method: Method, path: &str, body: String) -> Result<Response<Incoming>, Fault> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "localhost")
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| Fault::bug(format!("building the request: {error}")))?;
        self.sender.send_request(request).await.map_err(|error| failed(&error))
    }

    /// Asks for a page and reads it; one that is no success is its fault.
    pub(super) async fn fetch(&mut self, method: Method, path: &str) -> Result<Value, Fault> {
        let response = self.ask(method, path, String::new()).await?;
        let status = response.status();
        let body = response.into_body().collect().await.map_err(|error| failed(&error))?.to_bytes();
        let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
        if status.is_success() { Ok(body) } else { Err(read_error(&body)) }
    }

    /// Waits until the daemon hangs up.
    pub(super) async fn hung_up(self) {
        // Kept to the end: dropping it would be us hanging up.
        let Self { sender, end } = self;
        if let Err(error) = end.await {
            tracing::debug!(%error, "the connection's end was not seen");
        }
        drop(sender);
    }
}

fn failed(error: &hyper::Error) -> Fault {
    Fault::machine(format!("asking the daemon: {error}"))
}

/// An error in OpenAI's shape as a fault.
fn read_error(body: &Value) -> Fault {
    let error = &body["error"];
    let code = error["code"].as_str().and_then(Code::from_name).unwrap_or(Code::Internal);
    let kind = match code.status() {
        429 | 503 => Kind::Busy,
        500 => Kind::Machine,
        _ => Kind::Caller,
    };
    let fault = Fault::new(kind, code, error["message"].as_str().unwrap_or("the daemon gave no reason"));
    match error["hint"].as_str() {
        Some(hint) => fault.hint(hint),
        None if kind == Kind::Busy => fault.retry_after(Duration::from_secs(1)),
        None => fault,
    }
}

/// A small runtime for one conversation.
pub(super) fn block_on<T>(future: impl Future<Output = Result<T, Fault>>) -> Result<T, Fault> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Fault::machine(format!("starting: {error}")))?
        .block_on(future)
}
