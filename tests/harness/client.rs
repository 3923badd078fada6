//! A bare HTTP/1.1 client on a Unix socket: exact bytes out, whole answers in. One request a connection.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;

use serde_json::{Value, json};

use super::PATIENCE;

/// An answer.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {:?}", self.text()))
    }

    /// The error's code and message; the answer must be one.
    pub fn error(&self) -> (String, String) {
        let error = &self.json()["error"];
        (error["code"].as_str().unwrap().to_owned(), error["message"].as_str().unwrap().to_owned())
    }

    pub fn header(&self, name: &str) -> Option<String> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
        })
    }

    /// The data of each server-sent event.
    pub fn events(&self) -> Vec<String> {
        self.text().split("\n\n").filter_map(|event| event.strip_prefix("data: ").map(str::to_owned)).collect()
    }
}

pub fn connect(socket: &Path) -> io::Result<UnixStream> {
    let stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// A POST's bytes.
pub fn request(path: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

/// Reads to the end of the connection and takes the answer apart.
pub fn read_reply(mut stream: UnixStream) -> io::Result<Reply> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes)?;
    parse(&bytes)
}

fn parse(bytes: &[u8]) -> io::Result<Reply> {
    let broken = || {
        io::Error::new(io::ErrorKind::UnexpectedEof, format!("no whole answer: {:?}", String::from_utf8_lossy(bytes)))
    };
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").ok_or_else(broken)?;
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(broken)?;
    let mut body = bytes[end + 4..].to_vec();
    if head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
        body = unchunk(&body).ok_or_else(broken)?;
    }
    Ok(Reply { status, head, body })
}

fn unchunk(mut bytes: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = bytes.windows(2).position(|window| window == b"\r\n")?;
        let length = usize::from_str_radix(std::str::from_utf8(&bytes[..end]).ok()?, 16).ok()?;
        bytes = &bytes[end + 2..];
        if length == 0 {
            return Some(body);
        }
        body.extend_from_slice(bytes.get(..length)?);
        bytes = bytes.get(length + 2..)?;
    }
}

pub fn get(socket: &Path, path: &str) -> io::Result<Reply> {
    let mut stream = connect(socket)?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes())?;
    read_reply(stream)
}

/// Posts a body to any path.
pub fn post(socket: &Path, path: &str, body: &[u8]) -> io::Result<Reply> {
    let mut stream = connect(socket)?;
    stream.write_all(&request(path, body))?;
    read_reply(stream)
}

/// Posts raw bytes as a chat request.
pub fn post_bytes(socket: &Path, body: &[u8]) -> Reply {
    let mut stream = connect(socket).unwrap();
    stream.write_all(&request("/v1/chat/completions", body)).unwrap();
    read_reply(stream).unwrap()
}

/// Posts a chat request.
pub fn chat(socket: &Path, body: &Value) -> Reply {
    post_bytes(socket, body.to_string().as_bytes())
}

/// Posts a chat request and closes the sending half before the answer comes.
pub fn chat_half_closed(socket: &Path, body: &Value) -> Reply {
    let mut stream = connect(socket).unwrap();
    stream.write_all(&request("/v1/chat/completions", body.to_string().as_bytes())).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    read_reply(stream).unwrap()
}

/// A request with one user message and whatever else.
#[expect(clippy::needless_pass_by_value, reason = "called with a literal")]
pub fn say(text: &str, more: Value) -> Value {
    let mut request = json!({"messages": [{"role": "user", "content": text}]});
    request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    request
}

/// The text of an answer that must be one.
pub fn content(reply: &Reply) -> String {
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()["choices"][0]["message"]["content"].as_str().unwrap().to_owned()
}
