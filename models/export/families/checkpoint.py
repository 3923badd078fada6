"""Random checkpoints in transformers' format, the same on every machine.

The numbers come from NumPy's generator, seeded by the family's seed and the weight's name: neither the version of PyTorch nor the order
in which it makes its weights plays a part. No weight is left at a value that hides a fault: norms are not 1, biases are not 0.
"""
import zlib

import numpy as np
import torch
import transformers

from export.families import tokenizer

SMALL = dict(vocab_size=tokenizer.VOCABULARY, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=512,
             bos_token_id=tokenizer.END_OF_TEXT, eos_token_id=tokenizer.END, pad_token_id=tokenizer.END_OF_TEXT, tie_word_embeddings=False)


def make(family):
    """The family's model in float32, its weights drawn anew."""
    transformers.logging.set_verbosity_error()
    config = getattr(transformers, family.config_class)(**(SMALL | family.config if family.flat else family.config))
    config._attn_implementation = "eager"
    model = getattr(transformers, family.architecture)(config).float().eval()
    config.architectures = [family.architecture]
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if tensor.is_floating_point():
                tensor.copy_(torch.from_numpy(draw(family, name, tuple(tensor.shape))))
    return model


def draw(family, name, shape):
    """One weight. Half precision exports start from weights that half precision can hold."""
    random = np.random.default_rng([family.seed, zlib.crc32(name.encode())])
    values = random.standard_normal(shape)
    if name.endswith("sinks"):
        pass
    elif len(shape) == 1:
        shifted = family.architecture.startswith("Qwen3_5") and "linear_attn" not in name  # these norms add the 1 themselves
        values = 0.2 * values + (1 if "norm" in name and not shifted else 0)
    elif "embed_tokens" in name:
        values *= 0.4
    elif "lm_head" in name:
        values *= family.gain / np.sqrt(shape[-1])
    elif "gate.weight" in name or "router" in name:
        values *= 2 / np.sqrt(shape[-1])  # choices of experts that do not hang on the last bit
    else:
        values *= 1.2 / np.sqrt(inputs(name, shape))
    values = values.astype(np.float32)
    return values.astype(np.float16).astype(np.float32) if family.precision == "fp16" else values


def inputs(name, shape):
    """Numbers that go into one output of the weight. gpt-oss keeps its experts transposed."""
    return shape[1] if len(shape) == 3 and ".experts." in name and _transposed(shape, name) else shape[-1]


def _transposed(shape, name):
    return "gate_up_proj" in name and shape[2] > shape[1]


def save(model, folder):
    """A checkpoint folder as the stock exporter reads it."""
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    tokenizer.write(folder)
