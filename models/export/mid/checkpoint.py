"""The checkpoint: sizes, random weights and a tokenizer that every runtime can read. Speed is measured with it, never quality."""
import json
import pathlib
import sysconfig

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from distil.network import Shape

SHAPE = Shape(vocab_size=32000, hidden_size=768, num_hidden_layers=12, num_attention_heads=12, num_key_value_heads=4, head_dim=64,
              num_experts=32, num_experts_per_tok=4, moe_intermediate_size=512, max_position_embeddings=4608)
CONTROLS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = ("{%- for message in messages %}{{- '<|im_start|>' + message.role + '\\n' + (message.content or '') + '<|im_end|>\\n' }}{%- endfor %}"
            "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}")
DEVIATION = 0.02


def weights(shape=SHAPE, seed=1):
    """name -> float32 array under the names of distil.network; every number is one that float16 holds."""
    draw = np.random.default_rng(seed)

    def matrix(*size):
        return (draw.standard_normal(size, dtype=np.float32) * DEVIATION).astype(np.float16).astype(np.float32)

    hidden, inner, experts, head = shape.hidden_size, shape.moe_intermediate_size, shape.num_experts, shape.head_dim
    named = {"embed_tokens.weight": matrix(shape.vocab_size, hidden), "norm.weight": np.ones(hidden, np.float32)}
    for layer in range(shape.num_hidden_layers):
        base = f"layers.{layer}"
        for part, heads in (("q", shape.num_attention_heads), ("k", shape.num_key_value_heads), ("v", shape.num_key_value_heads)):
            named[f"{base}.self_attn.{part}_proj.weight"] = matrix(heads * head, hidden)
        named[f"{base}.self_attn.o_proj.weight"] = matrix(hidden, shape.num_attention_heads * head)
        for part in ("q", "k"):
            named[f"{base}.self_attn.{part}_norm.weight"] = np.ones(head, np.float32)
        for part in ("input", "post_attention"):
            named[f"{base}.{part}_layernorm.weight"] = np.ones(hidden, np.float32)
        named[f"{base}.mlp.gate.weight"] = matrix(experts, hidden)
        named[f"{base}.mlp.experts.gate_up_proj"] = matrix(experts, 2 * inner, hidden)
        named[f"{base}.mlp.experts.down_proj"] = matrix(experts, hidden, inner)
    return named


def active_weights(shape=SHAPE):
    """(attention and head, chosen experts) as numbers of weights that one token is multiplied with."""
    heads = 2 * shape.num_attention_heads + 2 * shape.num_key_value_heads
    attention = shape.num_hidden_layers * heads * shape.head_dim * shape.hidden_size
    experts = shape.num_hidden_layers * shape.num_experts_per_tok * 3 * shape.hidden_size * shape.moe_intermediate_size
    return attention + shape.vocab_size * shape.hidden_size, experts


def write_tokenizer(folder, shape=SHAPE):
    """A byte-level BPE over Python's own library, as long as the vocabulary of the model."""
    sources = sorted(pathlib.Path(sysconfig.get_paths()["stdlib"]).glob("**/*.py"))
    texts = [text for path in sources if "site-packages" not in path.parts and (text := _read(path))]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=shape.vocab_size, special_tokens=CONTROLS, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts[:1500], trainer)
    if tokenizer.get_vocab_size() != shape.vocab_size:
        raise ValueError(f"the texts gave {tokenizer.get_vocab_size()} tokens, the model has {shape.vocab_size}")
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": None, "eos_token": CONTROLS[2], "pad_token": CONTROLS[0], "unk_token": None,
              "add_bos_token": False, "clean_up_tokenization_spaces": False, "model_max_length": shape.max_position_embeddings, "chat_template": TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    (folder / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")


def _read(path):
    try:
        return path.read_text(encoding="utf-8")
    except (UnicodeDecodeError, OSError):  # test data in other encodings
        return ""
