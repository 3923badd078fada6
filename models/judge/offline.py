"""Scores a model folder or a training checkpoint without a server, greedy; unconstrained unless --fitting.

    python -m judge.offline [--folder default | --checkpoint FILE] [--file judge/heldout.jsonl]
    python -m judge.offline --checkpoint .runs/xs/latest.pt --slices 60
    OUTSIDE=FILE python -m judge.offline  # an outside development set instead

--slices draws fresh requests: T0 all on the training side, T1 held-out names, T2 held-out wording, T5
held-out tools; text answers must be equal too. The held-out file is for milestones only.
"""
import argparse
import json
import pathlib
import random
import re

from corpus.check import template
from corpus.render import pieces
from corpus.scenes import Split, conversation
from distil.checkpoint import weights
from distil.kinds import kind_of
from distil.network import Shape
from export.graph import Graph
from export.prompts import FOLDER, tokenizer
from export.session import Session
from judge.__main__ import load
from judge.fitting import fits
from judge.score import canonical, coverage_lines, record, summary, verdict

STOP = 2
CALL = re.compile(r"<tool_call>\s*(\{.*?\})\s*</tool_call>", re.S)
SLICES = {"T0": Split(), "T1": Split(names=True), "T2": Split(wording=True), "T5": Split(tools=True)}


def read_calls(text):
    """Calls in an answer's text; a block that is no JSON object counts as a call nobody could run."""
    found = []
    for block in CALL.findall(text):
        try:
            call = json.loads(block)
            found.append({"name": call["name"], "arguments": dict(call["arguments"])})
        except (ValueError, KeyError, TypeError):
            found.append({"name": block, "arguments": {}})
    return found


class Answerer:
    """Renders, decodes greedily, returns the answer's text; `fitting` keeps calls to the offered tools, as a grammar does."""

    def __init__(self, session, folder=None, fitting=False):
        """folder: whose tokenizer and template are used; those of training for a checkpoint (None)."""
        self.fitting, self.sure = fitting, 0.0  # sure: the least lead of a best token over the second, in logits, in the last answer
        self.session, self.coder = session, tokenizer(folder or FOLDER)
        self.template = template(folder) if folder else template()

    def text(self, messages, tools, most=160):
        prompt = self.template.render(messages=messages, tools=tools, add_generation_prompt=True)
        ids = self.coder.encode(prompt, add_special_tokens=False).ids

        def allowed(found, token):
            return fits(self.said(found if token == STOP else found + [token]), tools, token == STOP)

        found, self.sure, _ = self.session.greedy(ids, most, allowed=allowed if self.fitting else None)
        return self.said(found)

    def said(self, ids):
        return self.coder.decode(ids, skip_special_tokens=False).removesuffix("<|im_end|>")


def held_out(answerer, path, verbose, out=None):
    rows, verdicts, sure = load(path), [], []
    for row in rows:
        text = answerer.text(row["messages"], row["tools"])
        result = verdict(row, read_calls(text))
        verdicts.append(result)
        sure.append(answerer.sure)
        if verbose and result != "right":
            print(row["id"], result, "|", row["messages"][-1]["content"], "| wanted", json.dumps(row["expected"], ensure_ascii=False), "| got", text.replace("\n", " "))
    if out:
        record(out, rows, verdicts)
    print("\n".join(summary(rows, verdicts) + coverage_lines(rows, sure, [v == "right" for v in verdicts])))


def slices(answerer, count, seed, verbose):
    for name, split in SLICES.items():
        rows, verdicts, number = [], [], 0
        while len(verdicts) < count:
            rng = random.Random(f"{seed}-{name}-{number}")
            number += 1
            messages, tools, _, _ = conversation(rng, split, turn_count=1)
            if [m["role"] for m in messages[:3]] != ["system", "user", "assistant"]:
                continue
            wanted = pieces(messages[:3], tools)[-2][0].removesuffix("<|im_end|>")
            got = answerer.text(messages[:2], tools)
            calls = read_calls(wanted)
            right = canonical(calls) == canonical(read_calls(got)) if calls else wanted == got
            rows.append({"id": ("call-" if calls else "text-") + str(number), "expected": calls})
            verdicts.append("right" if right else verdict(rows[-1], read_calls(got)) if calls or "<tool_call>" in got else "wrong words")
            if verbose and not right:
                print(name, "|", messages[1]["content"], "| wanted", wanted.replace("\n", " "), "| got", got.replace("\n", " "))
        print(name, "; ".join(summary(rows, verdicts)), flush=True)


def main():
    options = argparse.ArgumentParser()
    options.add_argument("--folder", type=pathlib.Path, default=FOLDER)
    options.add_argument("--checkpoint", type=pathlib.Path)
    options.add_argument("--file", type=pathlib.Path, default=pathlib.Path(__file__).parent / "heldout.jsonl")
    options.add_argument("--slices", type=int, default=0)
    options.add_argument("--seed", default="dev")
    options.add_argument("--fitting", action="store_true", help="only calls that fit the offered tools can be spoken")
    options.add_argument("--verbose", action="store_true")
    options.add_argument("--out", type=pathlib.Path, help="verdicts of every request, for judge.compare")
    options = options.parse_args()
    model, shape = str(options.folder / "model.onnx"), Shape()
    if options.checkpoint:
        named, progress = weights(options.checkpoint)
        shape = kind_of(progress).shape
        model = Graph(shape, named).model().SerializeToString()
        print(progress)
    answerer = Answerer(Session(model, shape), None if options.checkpoint else options.folder, options.fitting)
    if options.slices:
        slices(answerer, options.slices, options.seed, options.verbose)
    else:
        held_out(answerer, options.file, options.verbose, options.out)


if __name__ == "__main__":
    main()
