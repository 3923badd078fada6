"""Scores a running model, or the keyword matcher, on the held-out requests.

    python -m judge --base-url http://127.0.0.1:8080
    python -m judge --socket /run/moed.sock
    python -m judge --moed ../target/release/moed --folder default   # a daemon of its own (make judge)
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
import sys

from judge import matcher, outside
from judge.asking import complete, connect
from judge.score import read_calls, record, summary, verdict
from judge.serving import served

HELD_OUT = pathlib.Path(__file__).parent / "heldout.jsonl"


def ask(options, row):
    """Calls that the served model makes for one row; raises OSError or ValueError with the server's words."""
    body = {"messages": row["messages"], "tools": row["tools"], "temperature": 0, "max_tokens": 200}
    if options.model:
        body["model"] = options.model
    status, answer = complete(*connect(options.socket, options.base_url, options.timeout), body)
    if status != 200 or not isinstance(answer, dict):
        raise ValueError(f"status {status}: {str(answer)[:200]}")
    return read_calls(answer["choices"][0]["message"])


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
    options.add_argument("--moed", help="a moed that is started for this on a private socket, and ended")
    options.add_argument("--folder", default="default", help="the model folder that it serves")
    options.add_argument("--runtime", default="../.runtime/libonnxruntime.so")
    options.add_argument("--matcher", action="store_true")
    options.add_argument("--file", type=pathlib.Path, default=HELD_OUT)
    options.add_argument("--model")
    options.add_argument("--timeout", type=float, default=120)
    options.add_argument("--out", type=pathlib.Path, help="verdicts of every request, for judge.compare")
    options.add_argument("--verbose", action="store_true", help="print every wrong answer")
    options = options.parse_args()
    if not options.moed:
        return score(options)
    with served(options.moed, options.folder, options.runtime) as options.socket:
        return score(options)


def score(options):
    """Asks every row, prints the summary; 1 where a server did not answer."""
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
