"""Asking a server: HTTP over TCP or over a Unix socket."""
import http.client
import json
import socket
import urllib.parse


class SocketConnection(http.client.HTTPConnection):
    """HTTP over a Unix stream socket."""

    def __init__(self, path, timeout):
        super().__init__("localhost", timeout=timeout)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


def connect(socket_path, base_url, timeout):
    """(connection, what stands before /v1 in a path)."""
    if socket_path:
        return SocketConnection(socket_path, timeout), ""
    url = urllib.parse.urlsplit(base_url)
    kind = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
    return kind(url.netloc, timeout=timeout), url.path.rstrip("/").removesuffix("/v1")


def complete(connection, prefix, body):
    """(status, answer) of POST /v1/chat/completions; the answer is parsed where it is JSON, else its text. Closes the connection."""
    try:
        connection.request("POST", prefix + "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
        reply = connection.getresponse()
        text = reply.read().decode()
    finally:
        connection.close()
    try:
        return reply.status, json.loads(text)
    except ValueError:
        return reply.status, text
