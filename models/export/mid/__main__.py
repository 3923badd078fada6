"""Makes the benchmark's models; what is there already is left alone.

    python -m export.mid --out FOLDER --quantiser FILE      # both models in every form
    python -m export.mid --out FOLDER --variants            # the 497 M graph with other blocks, to explore

FOLDER/mid/onnx (the graph that moed runs), mid/plain (the same without query_seqlens and num_logits_to_keep, for genai and
old engines), mid/genai (made by genai's builder), mid/gguf/*.gguf; FOLDER/default/gguf/*.gguf; FOLDER/bytes.json.
"""
import argparse
import json
import pathlib

import onnx

from distil.network import Shape
from export.folder import genai_config, model_config, write_json
from export.mid import checkpoint, llama
from export.mid.graph import Graph4, Recipe, bytes_a_token
from export.prompts import FOLDER
from export.restore import weights_of

RECIPE = Recipe(block=128, head_block=128)
VARIANTS = {f"block{block}-head{head}": Recipe(block, head, False, False, False) for block in (32, 64, 128) for head in (32, 128)}


def write_folder(folder, named, recipe):
    """The graph with its weights beside it, and what a loader reads."""
    shape = checkpoint.SHAPE
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(Graph4(shape, named, recipe).model(), folder / "model.onnx", save_as_external_data=True, location="model.onnx.data", size_threshold=1024)
    write_json(folder / "config.json", model_config(shape))
    write_json(folder / "generation_config.json", {"do_sample": False, "eos_token_id": [2, 0], "pad_token_id": 0})
    write_json(folder / "genai_config.json", genai_config(shape))
    checkpoint_files = folder.parent / "tokenizer"
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (folder / name).write_bytes((checkpoint_files / name).read_bytes())


def make_folder(folder, recipe):
    """Writes a folder unless it is whole already; the last file written says so."""
    if not (folder / "chat_template.jinja").exists():
        print(folder, flush=True)
        write_folder(folder, checkpoint.weights(), recipe)


def make_gguf(folder, shape, named, tokenizer, quantiser):
    """Writes FOLDER/f16.gguf and its quantised forms; `named` is called only when the file is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    source = folder / "f16.gguf"
    if not source.exists():
        print(source, flush=True)
        partial = folder / "partial.gguf"
        llama.write(partial, shape, named(), tokenizer, folder.parent.name)
        partial.rename(source)
    for title, reason in llama.quantise(quantiser, source).items():
        print(f"no {title}: {reason}")


def write_bytes(out):
    """bytes.json: bytes of weights a token at batch 1, by model and form."""
    dense, experts = checkpoint.active_weights()
    head = checkpoint.SHAPE.vocab_size * checkpoint.SHAPE.hidden_size
    stored, packed = bytes_a_token(RECIPE, (head, dense - head), experts)
    found = {"mid": {"moed": stored, "moed as packed by the kernels": packed}, "default": {}}
    for model, shape in (("mid", checkpoint.SHAPE), ("default", Shape())):
        for path in sorted((out / model / "gguf").glob("*.gguf")):
            found[model][path.stem] = llama.bytes_a_token(path, shape)
    write_json(out / "bytes.json", found)


def main():
    options = argparse.ArgumentParser()
    options.add_argument("--out", type=pathlib.Path, required=True)
    options.add_argument("--quantiser", type=pathlib.Path)
    options.add_argument("--variants", action="store_true")
    options = options.parse_args()
    out, mid = options.out, options.out / "mid"
    if not (mid / "tokenizer" / "chat_template.jinja").exists():
        checkpoint.write_tokenizer(mid / "tokenizer")
    if options.variants:
        for title, recipe in VARIANTS.items():
            make_folder(mid / title, recipe)
        return
    make_folder(mid / "onnx", RECIPE)
    make_folder(mid / "plain", Recipe(RECIPE.block, RECIPE.head_block, False, False, RECIPE.search))
    if options.quantiser:
        make_gguf(mid / "gguf", checkpoint.SHAPE, checkpoint.weights, mid / "tokenizer", options.quantiser)
        make_gguf(out / "default" / "gguf", Shape(), lambda: weights_of(FOLDER / "model.onnx"), FOLDER, options.quantiser)
        write_bytes(out)


if __name__ == "__main__":
    main()
