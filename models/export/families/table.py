"""Writes `families/README.md`: what each committed graph declares, read from the graphs themselves."""
import json

import onnx

from export.families import catalogue

HEAD = """# Model families

Tiny random models, one folder a family: the graph, its configs, a byte-level tokenizer of 288 tokens, and `references.json` with fifty
prompts and what PyTorch answers. They say nothing sensible; they show whether a graph is driven rightly. Written by
`python -m export.families --write` (from `models/`), checked by `make model-check`. This page is written with them.

`references.json`: `rows` of `prompt` (token ids, 3 to 60, every length different), `greedy` (the 20 best tokens in a row, end tokens do not end it),
`margins` (the best token's lead at each step), `ends_after` (tokens up to and with the first of `eos`, or null). Prompts whose least margin is under
`margin_least` were drawn again, so **every token of every row must come out**, read whole or in chunks, alone or batched. `make model-check` does this in Python.

Caches:
- *shared*: past and present may be one buffer longer than what was read; `attention_mask` [B, T] counts the tokens of each row, ones first.
- *window*: `sliding_window_cache` attention, dimension named `past_sliding_length`. It takes a shared buffer like the others, or one shorter than the text but at least the window.
- *concat*: present = past + new, nothing shared; rows of different lengths are padded **in front**, mask 0 there, `position_ids` count from the first real token.
- *fixed*: rank 3, zero at the start, replaced at each run; prompts are read row by row, unpadded.
- where `query_seqlens` is declared, chunks, single tokens and idle rows (0) share one run: each row's tokens stand in front, T is at least past + new of the longest.
"""


def inputs_of(graph):
    """Declared inputs and outputs, caches of one kind on one line."""
    kinds, lines = {}, []
    for direction, values in (("in", graph.input), ("out", graph.output)):
        for value in values:
            tensor = value.type.tensor_type
            dims = ", ".join(dim.dim_param or str(dim.dim_value) for dim in tensor.shape.dim)
            dtype = onnx.TensorProto.DataType.Name(tensor.elem_type).lower()
            parts = value.name.split(".")
            name = ".".join("N" if part.isdigit() else part for part in parts)
            kinds.setdefault((direction, name, dtype, dims), []).extend(part for part in parts if part.isdigit())
    for (direction, name, dtype, dims), layers in kinds.items():
        where = f" (N = {', '.join(layers)})" if layers else ""
        lines.append(f"| {direction} | `{name}`{where} | {dtype} | [{dims}] |")
    return lines


def caches_of(family, graph):
    found = []
    for value in graph.input:
        dims = value.type.tensor_type.shape.dim
        if value.name.startswith("past"):
            kind = "fixed" if len(dims) != 4 or not dims[2].dim_param else "window" if "sliding" in dims[2].dim_param else "shared" if family.shares else "concat"
            dtype = {1: "fp32", 10: "fp16"}[value.type.tensor_type.elem_type]
            found.append(f"{kind} {dtype}")
    return ", ".join(dict.fromkeys(found))


def write(committed):
    """The page, for all families of the catalogue that have a folder."""
    rows, details = [], []
    for family in catalogue.FAMILIES:
        folder = committed / family.name
        graph = onnx.load(folder / ("onnx/model.onnx" if family.hugging_face else "model.onnx"), load_external_data=False).graph
        measured = json.loads((folder / "references.json").read_text())["largest_difference"]
        exporter = f"stock {family.precision} {family.provider}" if family.stock else "ours"
        rows.append(f"| [{family.name}](#{family.name}) | {family.architecture} | {exporter} | {caches_of(family, graph)} | {measured:.0e} of {family.tolerance:.0e} | {family.about} |")
        details += ["", f"### {family.name}", "", "| | name | type | dims |", "|---|---|---|---|", *inputs_of(graph)]
    table = ["", "| folder | architecture | exporter | caches | largest logit difference to PyTorch, of the most allowed | what it is there for |", "|---|---|---|---|---|---|", *rows]
    (committed / "README.md").write_text("\n".join([HEAD.rstrip(), *table, *NOTES, *details]) + "\n", encoding="utf-8")


NOTES = """
`broken-missing-experts` is the folder to refuse: its config names experts, its graph has none (see below).

## What was found on the way

Builder 0.18, ONNX Runtime 1.32, CPU provider; each found by comparing with PyTorch, which is why nothing is written here without that.
""".rstrip().split("\n")
