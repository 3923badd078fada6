"""The same weights as a GGUF file, as llama.cpp's own converter lays out a Qwen3-MoE, and its quantised forms."""
import json
import pathlib
import subprocess

import gguf
import numpy as np

# Every 4-bit form that the quantiser has for these shapes, and 8 bits. `pure` keeps the head in 4 bits too.
TYPES = ("Q4_0", "Q4_0-pure", "Q4_1", "Q4_K_S", "Q4_K_S-pure", "Q4_K_M", "IQ4_NL", "IQ4_XS", "IQ4_XS-pure", "MXFP4_MOE", "Q8_0")
NAMES = {"input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
         "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm", "post_attention_layernorm": "ffn_norm", "mlp.gate": "ffn_gate_inp"}


def write(path, shape, named, folder, name, kind=np.float16):
    """Writes float16 or float32 weights (norms and router always in float32) with the tokenizer of `folder`."""
    writer = gguf.GGUFWriter(path, "qwen3moe")
    writer.add_name(name)
    writer.add_block_count(shape.num_hidden_layers)
    writer.add_context_length(shape.max_position_embeddings)
    writer.add_embedding_length(shape.hidden_size)
    writer.add_feed_forward_length(2 * shape.moe_intermediate_size)
    writer.add_expert_feed_forward_length(shape.moe_intermediate_size)
    writer.add_head_count(shape.num_attention_heads)
    writer.add_head_count_kv(shape.num_key_value_heads)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_rope_freq_base(shape.rope_theta)
    writer.add_layer_norm_rms_eps(shape.rms_norm_eps)
    writer.add_expert_count(shape.num_experts)
    writer.add_expert_used_count(shape.num_experts_per_tok)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16 if kind == np.float16 else gguf.LlamaFileType.ALL_F32)
    _tokenizer(writer, folder, shape.vocab_size)
    for title, array in _tensors(shape, named):
        small = array.ndim == 1 or "ffn_gate_inp" in title
        writer.add_tensor(title, np.ascontiguousarray(array, np.float32 if small else kind))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _tensors(shape, named):
    yield "token_embd.weight", named["embed_tokens.weight"]
    yield "output_norm.weight", named["norm.weight"]
    for layer in range(shape.num_hidden_layers):
        for ours, theirs in NAMES.items():
            yield f"blk.{layer}.{theirs}.weight", named[f"layers.{layer}.{ours}.weight"]
        wide, half = named[f"layers.{layer}.mlp.experts.gate_up_proj"], shape.moe_intermediate_size
        yield f"blk.{layer}.ffn_gate_exps.weight", wide[:, :half]
        yield f"blk.{layer}.ffn_up_exps.weight", wide[:, half:]
        yield f"blk.{layer}.ffn_down_exps.weight", named[f"layers.{layer}.mlp.experts.down_proj"]


def _tokenizer(writer, folder, size):
    """Token list, merges and special ids out of tokenizer.json; ids without a token become unused ones."""
    stored = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    names = {number: text for text, number in stored["model"]["vocab"].items()}
    special = {token["id"]: token["content"] for token in stored["added_tokens"]}
    names |= special
    kinds = [gguf.TokenType.CONTROL if number in special else gguf.TokenType.NORMAL if number in names else gguf.TokenType.UNUSED for number in range(size)]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([names.get(number, f"[unused{number}]") for number in range(size)])
    writer.add_token_types(kinds)
    writer.add_token_merges([pair if isinstance(pair, str) else " ".join(pair) for pair in stored["model"]["merges"]])
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(0)
    writer.add_add_bos_token(False)


def quantise(quantiser, source, types=TYPES):
    """Makes the quantised files beside `source`; returns the types that the quantiser refused, with its last line."""
    refused = {}
    for title in types:
        target = source.with_name(title + ".gguf")
        if target.exists():
            continue
        kind, _, pure = title.partition("-")
        command = [str(pathlib.Path(quantiser).resolve()), *(["--pure"] if pure else []), str(source), str(target), kind, "2"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            target.unlink(missing_ok=True)
            refused[title] = (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1]
    return refused


def bytes_a_token(path, shape):
    """Bytes of weights that one token needs at batch 1: every matrix whole, of the experts the chosen part, the head once."""
    total = 0
    for tensor in gguf.GGUFReader(path).tensors:
        part = shape.num_experts_per_tok / shape.num_experts if "_exps" in tensor.name else 1
        total += int(tensor.n_bytes) * part
    return int(total)
