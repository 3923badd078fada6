"""Eight bits or four: the same checkpoint with its weights stored in fewer bits, on the same fresh requests.

    python -m export.bits --checkpoint .runs/xs/final.pt [--rows 150]

Printed for each form: size, and the answers all of whose tokens are the best ones, with nothing held out, with unseen names (T1) and with unseen numbers
(T4), where copying would suffer first; and the difference from 8 bits with a paired bootstrap. `export.folder` writes 8 bits throughout.
"""
import argparse
import pathlib

from tokenizers import Tokenizer

from corpus.scenes import Split
from distil.checkpoint import weights
from distil.kinds import kind_of
from distil.stream import TOKENIZER
from export.graph import Graph
from export.mid.graph import Graph4, Recipe
from export.quantise import BLOCK
from export.session import Session
from judge.compare import paired
from judge.forced import first_fault, requests

FOUR = Recipe(block=BLOCK, head_block=BLOCK, query_seqlens=False, keep_logits=False)
SIDES = {"nothing held out": Split(), "T1": Split(names=True), "T4": Split(numbers=True)}


class Experts4(Graph):
    """export.graph's decoder with the experts alone in 4 bits."""

    recipe = FOUR
    experts = Graph4.experts


FORMS = {"8 bits": Graph, "experts in 4 bits": Experts4, "all in 4 bits": lambda shape, named: Graph4(shape, named, FOUR)}


def main():
    options = argparse.ArgumentParser()
    options.add_argument("--checkpoint", type=pathlib.Path, required=True)
    options.add_argument("--rows", type=int, default=150, help="requests of each side")
    options = options.parse_args()
    named, progress = weights(options.checkpoint)
    shape, coder = kind_of(progress).shape, Tokenizer.from_file(str(TOKENIZER))
    sides = {title: requests(options.rows, split, "bits") for title, split in SIDES.items()}
    eight = None
    for title, form in FORMS.items():
        graph = form(shape, named).model().SerializeToString()
        session = Session(graph, shape)
        right = {side: [not first_fault(session, coder, row) for row in rows] for side, rows in sides.items()}
        eight = eight or right
        cells = []
        for side, flags in right.items():
            change = "" if right is eight else " ({:+.1f} points, 95 % {:+.1f} to {:+.1f})".format(*paired(eight[side], flags))
            cells.append(f"{side} {sum(flags)} of {len(flags)}{change}")
        print(f"{title}: {len(graph) / 1e6:.1f} MB; " + "; ".join(cells), flush=True)


if __name__ == "__main__":
    main()
