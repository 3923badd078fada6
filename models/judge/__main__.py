"""Scores a running model, or the keyword matcher, on the held-out requests.

    python -m judge --base-url http://127.0.0.1:8080
    python -m judge --socket /run/moed.sock
    python -m judge --matcher
    python -m judge --matcher --file judge/splits.jsonl
    OUTSIDE=FILE python -m judge …        # an outside development set instead; see judge/outside.py

Standard library only. Every request goes to POST /v1/chat/completions at temperature 0.
"""
import argparse
import http.client
import json
import os
import pathlib
import socket
import sys
import urllib.parse

from judge import matcher, outside
from judge.score import read_calls, record, summary, verdict

HELD_OUT = pathlib.Path(__file__).parent / "heldout.jsonl"


class SocketConnection(http.client.HTTPConnection):
    """HTTP over a Unix stream socket."""

    def __init__(self, path, timeout):
        super().__init__("localhost", timeout=timeout)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


def ask(options, row):
    """Calls that the served model makes for one row; raises OSError or ValueError with the server's words."""
    if options.socket:
        connection, prefix = SocketConnection(options.socket, options.timeout), ""
    else:
        url = urllib.parse.urlsplit(options.base_url)
        kind = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
        connection, prefix = kind(url.netloc, timeout=options.timeout), url.path.rstrip("/").removesuffix("/v1")
    body = {"messages": row["messages"], "tools": row["tools"], "temperature": 0, "max_tokens": 200}
    if options.model:
        body["model"] = options.model
    try:
        connection.request("POST", prefix + "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
        reply = connection.getresponse()
        text = reply.read().decode()
    finally:
        connection.close()
    if reply.status != 200:
        raise ValueError(f"status {reply.status}: {text[:200]}")
    return read_calls(json.loads(text)["choices"][0]["message"])


def load(path):
    """Rows of a request file, or of the outside set that OUTSIDE names; says which."""
    wanted = os.environ.get("OUTSIDE")
    if wanted:
        rows = outside.rows(pathlib.Path(wanted))
        print(f"outside development set: {len(rows)} requests from {pathlib.Path(wanted).name}, never trained on")
        return rows
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    print(f"{path.name}: {len(rows)} requests; OUTSIDE is not set, so no outside set is scored")
    return rows


def main():
    options = argparse.ArgumentParser(prog="judge")
    options.add_argument("--base-url", default="http://127.0.0.1:8080")
    options.add_argument("--socket")
    options.add_argument("--matcher", action="store_true")
    options.add_argument("--file", type=pathlib.Path, default=HELD_OUT)
    options.add_argument("--model")
    options.add_argument("--timeout", type=float, default=120)
    options.add_argument("--out", type=pathlib.Path, help="verdicts of every request, for judge.compare")
    options.add_argument("--verbose", action="store_true", help="print every wrong answer")
    options = options.parse_args()
    rows, verdicts = load(options.file), []
    for row in rows:
        try:
            got = matcher.answer(row["messages"], row["tools"]) if options.matcher else ask(options, row)
            result = verdict(row, got)
        except (OSError, ValueError, http.client.HTTPException) as error:
            got, result = str(error), "error"
        verdicts.append(result)
        if options.verbose and result != "right":
            print(f"{row['id']}: {result}\n  wanted {row['expected']}\n  got    {got}", file=sys.stderr)
    if options.out:
        record(options.out, rows, verdicts)
    print("\n".join(summary(rows, verdicts)))
    return 1 if "error" in verdicts else 0


if __name__ == "__main__":
    sys.exit(main())
