"""How good a checkpoint is on fresh packs of training's own kind, and with one thing held out: more answers and less chance than a judged file has.

    python -m distil.measure CHECKPOINT [CHECKPOINT …] [--packs 60]

Printed for each side: cross-entropy of an answer's token, and the share of units (one request, now and then two or three) all of whose answers'
tokens are the best ones, which is what greedy decoding would say. The packs are the same for every checkpoint. For choices while training; the judge's files are for what is shipped.
"""
import argparse
import pathlib
import random

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer

from corpus.scenes import Split, pack
from distil.checkpoint import restore
from distil.packs import batch
from distil.stream import LONGEST, PER_PACK, TOKENIZER, encode_pack

SIDES = {"nothing": Split(), "names": Split(names=True), "wording": Split(wording=True), "tools": Split(tools=True), "all three": Split(True, True, True)}


def packs(coder, split, count):
    """Encoded packs with that side held out, the same ones every time."""
    found, number = [], 0
    while len(found) < count:
        rng = random.Random(f"measure-{number}")
        number += 1
        prefix, units = encode_pack(coder, *pack(rng, split, PER_PACK)[:3])
        units = [unit for unit in units if len(prefix) + len(unit[0]) <= LONGEST]
        if units:
            found.append((prefix, units))
    return found


@torch.no_grad()
def measured(network, samples):
    """(cross-entropy of an answer's token, units wholly right, units)."""
    total, tokens, right, answers = 0.0, 0, 0, 0
    for sample in samples:
        whole = batch([sample])
        logits = network.over_packs(whole)
        told = whole.weights == 1.0
        total += F.cross_entropy(logits[told], whole.targets[told], reduction="sum").item()
        tokens += int(told.sum())
        best = logits.argmax(-1) == whole.targets
        at = 0
        for _, weights in sorted(sample[1], key=lambda unit: len(unit[0])):
            rows = [weight for weight in weights[1:] if weight]
            flags = [bool(flag) for flag, weight in zip(best[at : at + len(rows)], rows) if weight == 1.0]
            at += len(rows)
            right += all(flags)
            answers += 1
    return total / tokens, right, answers


def main():
    options = argparse.ArgumentParser()
    options.add_argument("checkpoint", type=pathlib.Path, nargs="+")
    options.add_argument("--packs", type=int, default=60)
    options = options.parse_args()
    torch.set_num_threads(1)
    coder = Tokenizer.from_file(str(TOKENIZER))
    samples = {title: packs(coder, split, options.packs) for title, split in SIDES.items()}
    for path in options.checkpoint:
        network = restore(path).half_width().eval()
        print(path, flush=True)
        for title, made in samples.items():
            loss, right, answers = measured(network, made)
            print(f"  held out: {title:10} {loss:.4f} a token, {right} of {answers} units wholly right ({100 * right / answers:.1f} %)", flush=True)


if __name__ == "__main__":
    main()
