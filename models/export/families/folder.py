"""Writes a family's committed folder, and compares one with what is made now."""
import json
import shutil

import onnx

from export.families import references as reference_file
from export.families import tokenizer


def genai_config(family, config):
    """ONNX Runtime GenAI's description of a graph of our own exporter."""
    text = config.get_text_config()
    heads = text.num_attention_heads
    decoder = {
        "session_options": {"log_id": "onnxruntime-genai", "provider_options": []}, "filename": "model.onnx",
        "head_size": getattr(text, "head_dim", None) or text.hidden_size // heads, "hidden_size": text.hidden_size,
        "inputs": {"input_ids": "input_ids", "attention_mask": "attention_mask", "past_key_names": "past_key_values.%d.key", "past_value_names": "past_key_values.%d.value"},
        "outputs": {"logits": "logits", "present_key_names": "present.%d.key", "present_value_names": "present.%d.value"},
        "num_attention_heads": heads, "num_hidden_layers": text.num_hidden_layers, "num_key_value_heads": text.num_key_value_heads,
    }
    model = {"type": "decoder", "bos_token_id": tokenizer.END_OF_TEXT, "eos_token_id": list(family.eos), "pad_token_id": tokenizer.END_OF_TEXT,
             "context_length": text.max_position_embeddings, "vocab_size": text.vocab_size, "decoder": decoder}
    search = {"do_sample": False, "early_stopping": True, "max_length": text.max_position_embeddings, "min_length": 0, "num_beams": 1, "num_return_sequences": 1,
              "past_present_share_buffer": True, "repetition_penalty": 1.0, "temperature": 1.0, "top_k": 1, "top_p": 1.0}
    return {"model": model, "search": search}


def stock_config(family, path):
    """The stock exporter's config, with the family's end tokens (the checkpoint names but one) and no provider of its target."""
    stored = json.loads(path.read_text(encoding="utf-8"))
    stored["model"]["eos_token_id"] = list(family.eos)
    stored["model"]["decoder"]["session_options"]["provider_options"] = []
    return stored


def write(family, folder, model, graph, references, stock_genai=None):
    """Everything into a fresh folder. graph: ModelProto with its weights inside."""
    shutil.rmtree(folder, ignore_errors=True)
    place = folder / "onnx" if family.hugging_face else folder
    place.mkdir(parents=True)
    if family.external:
        onnx.save(graph, place / "model.onnx", save_as_external_data=True, location=family.external, size_threshold=256)
    else:
        (place / "model.onnx").write_bytes(graph.SerializeToString(deterministic=True))
    model.config.eos_token_id = family.eos[0]
    described = json.loads(model.config.to_json_string(use_diff=False))
    del described["transformers_version"]
    write_json(folder / "config.json", described)
    write_json(folder / "generation_config.json", {"do_sample": False, "eos_token_id": list(family.eos), "pad_token_id": tokenizer.END_OF_TEXT})
    if not family.hugging_face:
        write_json(folder / "genai_config.json", stock_config(family, stock_genai) if stock_genai else genai_config(family, model.config))
    tokenizer.write(folder)
    if references:
        reference_file.write(folder / "references.json", references)


def write_json(path, value):
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def differences(committed, made):
    """How a committed folder differs from one made now, as sentences."""
    names = {path.relative_to(root) for root in (committed, made) for path in root.rglob("*") if path.is_file()}
    faults = []
    for name in sorted(names):
        old, new = committed / name, made / name
        if not (old.is_file() and new.is_file()):
            faults.append(f"`{name}` is only in one of them")
        elif name.name == "references.json":
            faults += reference_file.differences(json.loads(old.read_text()), json.loads(new.read_text()))
        elif old.read_bytes() != new.read_bytes():
            faults.append(f"`{name}` differs")
    return faults
