"""A quick look at a checkpoint: is every token of the right answer the best one, and if not, which choice goes wrong first?

    python -m judge.forced --checkpoint .runs/xs/latest.pt [--rows 120]

Fresh requests like the judge's (never its files), each read once with its right answer behind it. Where every token of a
call is the best one, greedy decoding says that call; where no call is wanted, it is enough that none is begun.
Cheap enough to run beside training; the score is that of `judge.offline`, but for calls that are right in another order.
"""
import argparse
import collections
import json
import pathlib

from corpus.render import pieces
from corpus.scenes import Split
from distil.checkpoint import weights
from distil.kinds import kind_of
from distil.stream import TOKENIZER
from export.graph import Graph
from export.session import Session
from judge import heldout

CALL = "<tool_call>"


def part(text, at):
    """What of an answer stands at a character: the choice to call, the tool, a parameter's name, or a value."""
    if at < len(CALL):
        return "call or text"
    if at < text.find('", "arguments"'):
        return "tool"
    if text[at:].startswith(("\n", "</tool_call>")) or text[at - 2 : at] == "}}":
        return "end"
    before = text[text.find('"arguments": {', 0, at) + 14 : at] if '"arguments": {' in text[:at] else ""
    if not before:
        return "parameter"
    inside = before.count('"') % 2 == 1
    opened = before[: before.rfind('"')] if inside else before
    return "value" if opened.rstrip(" ").endswith((":", "[")) or (not inside and before.rstrip(" ").endswith(":")) else "parameter"


def answer(row):
    """(prompt text, wanted answer's text) of a row."""
    said = {"role": "assistant", "content": None if row["expected"] else "", "tool_calls": [{"type": "function", "function": call} for call in row["expected"]]}
    texts = [text for text, _ in pieces(row["messages"] + [said], row["tools"])]
    return "".join(texts[:-2]), texts[-2]


def first_fault(session, coder, row):
    """'' where greedy decoding gets the row right, else where it first goes wrong."""
    prompt, wanted = answer(row)
    head = coder.encode(prompt, add_special_tokens=False).ids
    if not row["expected"]:
        best = session.run([head], session.empty())[0][0, -1].argmax()
        return "false call" if coder.id_to_token(int(best)) == CALL else ""
    tail = coder.encode(wanted, add_special_tokens=False)
    best = session.run([head + tail.ids], session.empty())[0][0, len(head) - 1 : -1].argmax(-1).tolist()
    fault = next((at for at, (found, right) in enumerate(zip(best, tail.ids)) if found != right), None)
    return "" if fault is None else part(wanted, tail.offsets[fault][0])


def requests(count, split, seed):
    """Fresh requests in the judge's proportions; of unseen numbers only those that hold any."""
    plan = heldout.NUMBERED if split.numbers else heldout.PLAN
    total = sum(n for _, n in plan)
    plan = [(task, max(1, round(n * count / total))) for task, n in plan]
    return heldout.rows(plan, split, (3, 16), seed)


def main():
    from tokenizers import Tokenizer

    options = argparse.ArgumentParser()
    options.add_argument("--checkpoint", type=pathlib.Path, required=True)
    options.add_argument("--rows", type=int, default=120)
    options.add_argument("--seed", default="look")
    options.add_argument("--verbose", action="store_true")
    options = options.parse_args()
    named, progress = weights(options.checkpoint)
    shape = kind_of(progress).shape
    session, coder = Session(Graph(shape, named).model().SerializeToString(), shape), Tokenizer.from_file(str(TOKENIZER))
    print(progress)
    for title, split in (("nothing held out", Split()), ("all held out", Split(True, True, True))):
        rows = requests(options.rows, split, options.seed)
        faults = [first_fault(session, coder, row) for row in rows]
        calls = [fault for row, fault in zip(rows, faults) if row["expected"]]
        print(f"{title}: {faults.count('')}/{len(rows)} right, calls {calls.count('')}/{len(calls)}; first faults {dict(collections.Counter(f for f in faults if f).most_common())}", flush=True)
        tasks = collections.defaultdict(list)
        for row, fault in zip(rows, faults):
            tasks[row["id"].rsplit("-", 1)[0]].append(not fault)
            if options.verbose and fault:
                print("  ", fault, "|", row["messages"][-1]["content"], "|", json.dumps(row["expected"], ensure_ascii=False))
        print("  " + ", ".join(f"{task} {sum(v)}/{len(v)}" for task, v in tasks.items()))


if __name__ == "__main__":
    main()
