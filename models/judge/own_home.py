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
import tempfile

from judge.asking import SocketConnection, complete
from judge.score import canonical, read_calls, share
from judge.serving import served

HERE = pathlib.Path(__file__).parent / "own"


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
    status, answer = complete(SocketConnection(path, 60), "", {"messages": [{"role": "user", "content": text}], "temperature": 0, "max_tokens": 200})
    if status != 200:
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


def prepare(model, options):
    """A copy of the model that takes moed's own tools."""
    for file in pathlib.Path(options.model).resolve().iterdir():
        if file.is_file():
            shutil.copy(file, model)
    manifest = (model / "manifest.toml").read_text(encoding="utf-8")
    manifest = re.sub(r"^own_tools = \w+$", "own_tools = true", manifest, flags=re.M)
    if options.sure is not None:
        manifest = re.sub(r"^\[limits\]$", f"[confidence]\nlow = {options.sure}\nhigh = {options.sure}\n\n[limits]", re.sub(r"^\[confidence\]\n(\w+ = .*\n)+\n?", "", manifest, flags=re.M), flags=re.M)
    (model / "manifest.toml").write_text(manifest, encoding="utf-8")


def main():
    options = argparse.ArgumentParser(prog="judge.own_home")
    options.add_argument("--moed", default="../target/release/moed")
    options.add_argument("--model", default="default")
    options.add_argument("--runtime", default="../.runtime/libonnxruntime.so")
    options.add_argument("--sure", type=float, help="confidence that every call needs; the manifest's where not given")
    options.add_argument("--verbose", action="store_true", help="print every answer that is not right")
    options = options.parse_args()
    rows, verdicts = requests(), []
    with tempfile.TemporaryDirectory() as model:
        prepare(pathlib.Path(model), options)
        with served(options.moed, model, options.runtime, (HERE / "home.toml").read_text(encoding="utf-8")) as path:
            for text, wanted in rows:
                calls, words = ask(path, text)
                verdicts.append(verdict(wanted, calls, words))
                if options.verbose and verdicts[-1] != "right":
                    said = "; ".join(f"{call['name']} {json.dumps(call['arguments'])}" for call in calls) or words
                    print(f"{verdicts[-1]}: {text!r} -> {said}")
    wanting = [v for v, (_, wanted) in zip(verdicts, rows) if wanted]
    quiet = [v for v, (_, wanted) in zip(verdicts, rows) if not wanted]
    print(share("requests without tools, right:", [v == "right" for v in verdicts]))
    print(share("calls exactly right, of those that want one:", [v == "right" for v in wanting]))
    print(share("asked instead:", [v == "asked" for v in wanting]))
    print(share("wrong actions:", [v == "wrong action" for v in wanting]))
    print(share("false calls, of those that want none:", [v == "false call" for v in quiet]))


if __name__ == "__main__":
    main()
