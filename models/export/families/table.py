"""The text of `families/README.md`: what each committed graph declares, read from the graphs themselves."""
import json

import onnx

from export.families import broken, catalogue

HEAD = """# Model families

Tiny random models, one folder a family: the graph, its configs, a byte-level tokenizer of 288 tokens, and `references.json` with fifty
prompts and what PyTorch answers. They say nothing sensible; they show whether a graph is driven rightly. Written by
`python -m export.families --write` (from `models/`), checked by `make model-check`. This page is written with them.

`references.json`: `rows` of `prompt` (token ids, 3 to 60, every length different), `greedy` (the 20 best tokens in a row, end tokens do not end it),
`margins` (the best token's lead at each step), `ends_after` (tokens up to and with the first of `eos`, or null). Prompts whose least margin is under
`margin_least` were drawn again, so **every token of every row must come out**, read whole or in chunks, alone or batched. `make model-check` does this in Python.

Caches:
- *shared*: past and present may be one buffer longer than what was read; `attention_mask` [B, T] counts the tokens of each row, ones first.
- *window*: `sliding_window_cache` attention, dimension named `past_sliding_length`. A shared buffer like the others, or one as short as the window.
- *concat*: present = past + new, nothing shared; rows of different lengths are padded **in front**, mask 0 there, `position_ids` count from the first real token.
- *fixed*: every size but the batch is given (rank 3 or 4); zero at the start, replaced at each run; prompts are read row by row, unpadded, decoding may be batched.
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
            dtype = {1: "fp32", 10: "fp16", 16: "bf16"}[value.type.tensor_type.elem_type]
            found.append(f"{kind} {dtype}")
    return ", ".join(dict.fromkeys(found))


def page(committed):
    """The page's text, for all families of the catalogue that have a folder."""
    rows, details = [], []
    for family in catalogue.FAMILIES:
        folder = committed / family.name
        if not folder.is_dir():
            continue
        graph = onnx.load(folder / ("onnx/model.onnx" if family.hugging_face else "model.onnx"), load_external_data=False).graph
        measured = json.loads((folder / "references.json").read_text())["largest_difference"]
        exporter = f"stock {family.precision} {family.provider}" if family.stock else "ours"
        rows.append(f"| [{family.name}](#{family.name}) | {family.architecture} | {exporter} | {caches_of(family, graph)} | {measured:.0e} of {family.tolerance:.0e} | {family.about} |")
        details += ["", f"### {family.name}", "", "| | name | type | dims |", "|---|---|---|---|", *inputs_of(graph)]
    spoilt = "\n".join(f"| {family.name} | {family.about} |" for family, _ in broken.FOLDERS)
    table = ["", "| folder | architecture | exporter | caches | largest logit difference to PyTorch, of the most allowed | what it is there for |", "|---|---|---|---|---|---|", *rows]
    return "\n".join([HEAD.rstrip(), *table, "", NOTES.strip("\n").replace("{broken}", spoilt), "", "## Declared inputs and outputs", *details]) + "\n"


NOTES = """
To refuse, by name and before they answer anything; both run, and both are wrong. `config.json` says how many experts there are (`num_experts`, `num_local_experts` or
`n_routed_experts`, perhaps inside `text_config`) and how many layers at the start have none (`num_dense_layers`, `first_k_dense_replace`); every other layer must have a `MoE` or `QMoE` node
whose output reaches the logits.

| folder | what is wrong |
|---|---|
{broken}

## What a driver must know

Found with builder 0.18 and ONNX Runtime 1.32 on the CPU provider.

- **Is the cache shared or concatenated?** The declared names and dims do not say. A graph that concatenates fails when past and present are bound to one buffer, since its present is longer than its past:
  one run decides. A graph with `GroupQueryAttention` shares; `search.past_present_share_buffer` says so where there is a `genai_config.json`.
- **Open sizes.** The stock exporter leaves the head size open (`kv_cache_dim`): take `head_size` from `genai_config.json`, else `head_dim`, else `hidden_size / num_attention_heads`. Composite models keep these in `text_config`.
- **Layers with a cache.** `lfm2-moe` and `qwen35-moe` have a key/value cache in one layer only, and states in the others.
- **`num_logits_to_keep`** is an int64 scalar (rank 0); 0 keeps every position. The logits' second dimension is then what was asked for.
- **`position_ids` [3, B, S]**: for text the three rows are the same.
- **Windows.** `gpt-oss` layer 0 takes a buffer of full length, as well as one of exactly the window (16), whatever the length of prompt and chunks. In a buffer shorter than the text old rows are overwritten:
  a prefix cannot be copied out of it. `mistral-window` has no such cache: its buffer must hold the whole text.
- **Half-precision caches around a float32 graph** (`*-cache`) are copied at each run by their casts; past and present may still be one buffer.
- **`query_seqlens`**: without it GroupQueryAttention refuses several rows of more than one token on top of a past.
- End tokens: `genai_config.json` and `generation_config.json` name all, `config.json` only the first.

## What exporters get wrong

- **Granite's routed experts**: the stock exporter leaves them out of the graph and says nothing; logits are off by 20. Ours writes them (`granite-moe`).
- **Mistral's window**: the stock exporter reads the window only together with `layer_types`, which Mistral's config has not; it writes `local_window_size` -1 and says nothing. Logits are off by 27 past the window. Ours writes it.
- **Qwen3-MoE, DeepSeek's routing, text part of Qwen2-VL with token input**: refused by the stock exporter; ours writes them.
- **Qwen3.5-MoE** runs on the CPU provider if the config has `mrope_section`. Rounding is larger there: between seeds 6e-5 to 2e-4, while PyTorch in float32 is 1e-4 away from PyTorch in float64.
- **bfloat16**: a graph all in bfloat16 does not load on the CPU provider (no kernel for `MatMul`); bfloat16 caches around a float32 graph do.
- **float16**: the stock graph for CUDA runs on the CPU provider (not where query and key are normed inside the attention node). Its logits are float16.
"""
