"""Eight bits or four: the same checkpoint with its weights stored in fewer bits, scored on the same requests.

    python -m export.bits --checkpoint .runs/xs/final.pt [--file judge/splits.jsonl]

Printed for each form: size, right of all, right in T1 (unseen names) and T4 (unseen numbers), where copying would suffer first, and the difference from
8 bits with a paired bootstrap. The folder ships what `export.folder` writes, which is 8 bits throughout.
"""
import argparse
import json
import pathlib

from distil.checkpoint import weights
from distil.kinds import kind_of
from export.graph import Graph
from export.mid.graph import Graph4, Recipe
from export.quantise import BLOCK
from export.session import Session
from judge.compare import paired
from judge.offline import Answerer, read_calls
from judge.score import verdict

FOUR = Recipe(block=BLOCK, head_block=BLOCK, query_seqlens=False, keep_logits=False)


class Experts4(Graph):
    """export.graph's decoder with the experts alone in 4 bits."""

    recipe = FOUR
    experts = Graph4.experts


FORMS = {"8 bits": Graph, "experts in 4 bits": Experts4, "all in 4 bits": lambda shape, named: Graph4(shape, named, FOUR)}


def main():
    options = argparse.ArgumentParser()
    options.add_argument("--checkpoint", type=pathlib.Path, required=True)
    options.add_argument("--file", type=pathlib.Path, default=pathlib.Path("judge/splits.jsonl"))
    options = options.parse_args()
    named, progress = weights(options.checkpoint)
    shape = kind_of(progress).shape
    rows = [json.loads(line) for line in options.file.read_text(encoding="utf-8").splitlines()]
    plain = None
    for title, form in FORMS.items():
        graph = form(shape, named).model().SerializeToString()
        answerer = Answerer(Session(graph, shape))
        right = [verdict(row, read_calls(answerer.text(row["messages"], row["tools"]))) == "right" for row in rows]
        plain = plain or right
        cells = [f"{sum(flags)} of {len(flags)}" for flags in ([r for r, row in zip(right, rows) if row.get("split", "").startswith(part)] for part in ("", "T1", "T4"))]
        change = "" if right is plain else "; against 8 bits {:+.1f} points (95 %, paired: {:+.1f} to {:+.1f})".format(*paired(plain, right))
        print(f"{title}: {len(graph) / 1e6:.1f} MB, right {cells[0]}, T1 {cells[1]}, T4 {cells[2]}{change}", flush=True)


if __name__ == "__main__":
    main()
