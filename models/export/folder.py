"""Writes the shipped folder from a checkpoint, and its manifest.

    python -m export.folder [--checkpoint .runs/xs/final.pt] [--out default]
    python -m export.folder --digests            # only renew the digests after a text file changed
    python -m export.folder --again              # the graph anew from the folder's own weights; all else stays
    python -m export.folder --random --out DIR   # real shapes, nothing learned
    python -m export.folder --even --out DIR     # without query_seqlens, for ONNX Runtime GenAI and runtimes before 1.32
"""
import argparse
import hashlib
import json
import pathlib
import shutil

from corpus.tokenizer import write_configuration
from distil.checkpoint import configuration, newest, random_weights, shippable
from distil.network import Shape
from export.graph import Graph
from export.prompts import FOLDER, prompts
from export.restore import weights_of
from export.session import Session

DESCRIPTION = "English device control: a request and a device list in, tool calls or a short answer out"
NAME = "moed-xs-3"
GOLDEN_COUNT, GOLDEN_MARGIN = 3, 1.0
END = 2


def model_config(shape, dtype="float32"):
    return {"architectures": ["Qwen3MoeForCausalLM"], "model_type": "qwen3_moe", "dtype": dtype} | configuration(shape)


def genai_config(shape, providers=()):
    """ONNX Runtime GenAI's description of the graph."""
    decoder = {
        "session_options": {"log_id": "onnxruntime-genai", "provider_options": list(providers)}, "filename": "model.onnx",
        "head_size": shape.head_dim, "hidden_size": shape.hidden_size,
        "inputs": {"input_ids": "input_ids", "attention_mask": "attention_mask", "past_key_names": "past_key_values.%d.key", "past_value_names": "past_key_values.%d.value"},
        "outputs": {"logits": "logits", "present_key_names": "present.%d.key", "present_value_names": "present.%d.value"},
        "num_attention_heads": shape.num_attention_heads, "num_hidden_layers": shape.num_hidden_layers, "num_key_value_heads": shape.num_key_value_heads,
    }
    search = {"do_sample": False, "early_stopping": True, "max_length": shape.max_position_embeddings, "min_length": 0, "num_beams": 1, "num_return_sequences": 1,
              "past_present_share_buffer": True, "repetition_penalty": 1.0, "temperature": 1.0, "top_k": 1, "top_p": 1.0}
    model = {"type": "qwen3", "bos_token_id": 0, "eos_token_id": [2, 0], "pad_token_id": 0, "context_length": shape.max_position_embeddings, "vocab_size": shape.vocab_size, "decoder": decoder}
    return {"model": model, "search": search}


def golden(session):
    """Prompts whose answer ends by itself and whose every step wins by a clear margin: [(text, ids, expected ids)]."""
    found = []
    for text, ids, _ in prompts(120, "golden", most=260):
        expected, margin, _ = session.greedy(ids, 48)
        if expected[-1] == END and margin >= GOLDEN_MARGIN and len(expected) >= 6 and (len(expected) > 16 or len(found) < GOLDEN_COUNT - 1):
            found.append((text, ids, expected))
        if len(found) == GOLDEN_COUNT:
            return found
    return found


def manifest(folder, goldens, name=NAME, providers=("cpu",)):
    """The text of manifest.toml for the folder as it is now; the golden answers are the same on all `providers`."""
    lines = ["version = 1", f"name = {json.dumps(name)}", f"description = {json.dumps(DESCRIPTION)}", 'tool_dialect = "hermes"', "own_tools = true", "", "[limits]", f"context = {Shape().max_position_embeddings}", "", "[files]"]
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.name != "manifest.toml":
            lines.append(f'"{path.name}" = "sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"')
    for text, ids, expected in goldens:
        lines += ["", "[[golden]]", f"text = {json.dumps(text, ensure_ascii=False)}", f"prompt = {ids}", "[golden.expected]", *(f"{provider} = {expected}" for provider in providers)]
    return "\n".join(lines) + "\n"


def renew_digests(folder):
    """Replaces the digests in manifest.toml and leaves the rest."""
    import tomllib

    stored = tomllib.loads((folder / "manifest.toml").read_text(encoding="utf-8"))
    goldens = [(g["text"], g["prompt"], g["expected"]["cpu"]) for g in stored.get("golden", [])]
    (folder / "manifest.toml").write_text(manifest(folder, goldens, stored["name"]), encoding="utf-8")
    return goldens


def again(folder, ragged):
    """Writes the folder's graph anew; raises SystemExit when a golden prompt has another answer."""
    graph = Graph(Shape(), weights_of(folder / "model.onnx"), ragged=ragged).model().SerializeToString()
    session = Session(graph, Shape())
    (folder / "model.onnx").write_bytes(graph)
    for text, ids, expected in renew_digests(folder):
        if session.greedy(ids, len(expected))[0] != expected:
            raise SystemExit(f"another answer than the manifest's to: {text[-200:]}")


def write_json(path, value):
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def copy_texts(folder, shape, dtype="float32", providers=()):
    """Everything of the folder that is neither graph nor manifest."""
    write_json(folder / "config.json", model_config(shape, dtype))
    write_json(folder / "generation_config.json", {"do_sample": False, "eos_token_id": [2, 0], "pad_token_id": 0})
    write_json(folder / "genai_config.json", genai_config(shape, providers))
    write_configuration(folder)
    if folder.resolve() != FOLDER.resolve():
        shutil.copy(FOLDER / "tokenizer.json", folder / "tokenizer.json")


def write(named, folder, shape=Shape(), ragged=True, name=NAME):
    """Exports weights into `folder`; returns the number of golden prompts found."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").write_bytes(Graph(shape, named, ragged=ragged).model().SerializeToString())
    copy_texts(folder, shape)
    goldens = golden(Session(str(folder / "model.onnx"), shape))
    (folder / "manifest.toml").write_text(manifest(folder, goldens, name), encoding="utf-8")
    return len(goldens)


def main():
    options = argparse.ArgumentParser()
    options.add_argument("--checkpoint", type=pathlib.Path)
    options.add_argument("--out", type=pathlib.Path, default=FOLDER)
    options.add_argument("--name", default=NAME)
    options.add_argument("--random", action="store_true")
    options.add_argument("--even", action="store_true")
    options.add_argument("--digests", action="store_true")
    options.add_argument("--again", action="store_true")
    options = options.parse_args()
    if options.digests:
        renew_digests(options.out)
        return
    if options.again:
        again(options.out, not options.even)
        return
    if options.random:
        # sharper than an untrained network, so that golden prompts have a margin
        named = {name: array * (3 if array.ndim > 1 else 1) * (40 if name == "norm.weight" else 1) for name, array in random_weights().items()}
    else:
        named, progress = shippable(options.checkpoint or newest())
        print(progress)
    print(f"{write(named, options.out, ragged=not options.even, name=options.name)} golden prompts, {sum(p.stat().st_size for p in options.out.iterdir()) / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
