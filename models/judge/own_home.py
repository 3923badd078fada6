"""Scores moed with its own tools: plain requests without tools or devices, to a daemon that knows the home.

    python -m judge.own_home --moed ../target/release/moed --model default --runtime ../.runtime/libonnxruntime.so

Starts a daemon of its own on a private socket and ends it. What is scored is what a device meets: the model, the short list,
names as choices of the grammar, and the question in place of a call that the model was not sure of. With `--sure 0` no call
becomes a question. Standard library only.
"""
import argparse
import json
import pathlib
import re
import shlex
import shutil
import subprocess
import tempfile
import time

from judge.__main__ import SocketConnection
from judge.score import canonical, read_calls, share

HERE = pathlib.Path(__file__).parent / "own"
START_SECONDS = 60


def number_or_text(text):
    return json.loads(text) if re.fullmatch(r"-?\d+(\.\d+)?", text) else text


def read_call(text):
    """`tool key=value …` as a call."""
    name, *pairs = shlex.split(text)
    return {"name": name, "arguments": {key: number_or_text(value) for key, value in (pair.split("=", 1) for pair in pairs)}}


def requests():
    """(text, list of answers that are right, each a list of calls; none: no call may be made)."""
    found = []
    for line in (HERE / "requests.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            text, *answers = [part.strip() for part in line.split("|")]
            found.append((text, [] if answers == ["-"] else [[read_call(call) for call in answer.split(";")] for answer in answers]))
    return found


def ask(path, text):
    """(calls, words) of the daemon's answer."""
    connection = SocketConnection(path, 60)
    body = {"messages": [{"role": "user", "content": text}], "temperature": 0, "max_tokens": 200}
    try:
        connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
        reply = connection.getresponse()
        answer = json.loads(reply.read())
    finally:
        connection.close()
    if reply.status != 200:
        return [{"name": "error", "arguments": answer}], answer["error"]["message"]
    message = answer["choices"][0]["message"]
    return read_calls(message), message.get("content") or ""


def verdict(wanted, calls, words):
    """right; asked (a question in place of a call); no call; wrong action; false call."""
    if calls:
        if not wanted:
            return "false call"
        return "right" if any(canonical(answer) == canonical(calls) for answer in wanted) else "wrong action"
    if not wanted:
        return "right"
    return "asked" if "I am not sure I understood" in words else "no call"


def prepare(folder, options):
    """A config for the home, on a copy of the model that takes moed's own tools."""
    model = folder / "model"
    model.mkdir()
    for file in pathlib.Path(options.model).resolve().iterdir():
        if file.is_file():
            shutil.copy(file, model)
    manifest = (model / "manifest.toml").read_text(encoding="utf-8")
    manifest = re.sub(r"^own_tools = \w+$", "own_tools = true", manifest, flags=re.M)
    if options.sure is not None:
        manifest = re.sub(r"^\[limits\]$", f"[confidence]\nlow = {options.sure}\nhigh = {options.sure}\n\n[limits]", re.sub(r"^\[confidence\]\n(\w+ = .*\n)+\n?", "", manifest, flags=re.M), flags=re.M)
    (model / "manifest.toml").write_text(manifest, encoding="utf-8")
    lines = {"socket.path": folder / "s", "model.dir": model, "journal.dir": folder / "j", "model.prepared": folder / "p", "runtime.onnxruntime": pathlib.Path(options.runtime).resolve()}
    text = 'node.name = "judge"\n' + "".join(f"{key} = {json.dumps(str(value))}\n" for key, value in lines.items())
    (folder / "moed.toml").write_text(text + (HERE / "home.toml").read_text(encoding="utf-8"), encoding="utf-8")
    return folder / "moed.toml", str(folder / "s")


def wait(daemon, path):
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and daemon.poll() is None:
        try:
            connection = SocketConnection(path, 5)
            connection.request("GET", "/health")
            if connection.getresponse().status == 200:
                return
        except OSError:
            pass
        time.sleep(0.05)
    raise SystemExit("the daemon is not ready; run it by hand to see why")


def main():
    options = argparse.ArgumentParser(prog="judge.own_home")
    options.add_argument("--moed", default="../target/release/moed")
    options.add_argument("--model", default="default")
    options.add_argument("--runtime", default="../.runtime/libonnxruntime.so")
    options.add_argument("--sure", type=float, help="confidence that every call needs; the manifest's where not given")
    options.add_argument("--verbose", action="store_true", help="print every answer that is not right")
    options = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        config, path = prepare(pathlib.Path(folder), options)
        daemon = subprocess.Popen([options.moed, "serve", "--config", config], stderr=subprocess.DEVNULL)
        try:
            wait(daemon, path)
            rows = requests()
            verdicts = []
            for text, wanted in rows:
                calls, words = ask(path, text)
                verdicts.append(verdict(wanted, calls, words))
                if options.verbose and verdicts[-1] != "right":
                    said = "; ".join(f"{call['name']} {json.dumps(call['arguments'])}" for call in calls) or words
                    print(f"{verdicts[-1]}: {text!r} -> {said}")
        finally:
            daemon.terminate()
            daemon.wait()
    wanting = [v for v, (_, wanted) in zip(verdicts, rows) if wanted]
    quiet = [v for v, (_, wanted) in zip(verdicts, rows) if not wanted]
    print(share("requests without tools, right:", [v == "right" for v in verdicts]))
    print(share("calls exactly right, of those that want one:", [v == "right" for v in wanting]))
    print(share("asked instead:", [v == "asked" for v in wanting]))
    print(share("wrong actions:", [v == "wrong action" for v in wanting]))
    print(share("false calls, of those that want none:", [v == "false call" for v in quiet]))


if __name__ == "__main__":
    main()
