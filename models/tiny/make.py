"""Writes the tiny test model: a few kilobytes, exact tokens, a real key/value cache.

One token a byte and seven control tokens. Whatever the prompt, the greedy answer is the alphabet, `é`, `€`, then
`<|im_end|>`; where that token is banned, the alphabet starts again. Every step's best token leads by more than 1 logit.
The attention adds at most 0.4 logits: too little to change the greedy answer, enough to change a sampled one when a
cache position is wrong.

    python models/tiny/make.py        # needs: onnx, numpy
"""

import hashlib
import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FOLDER = Path(__file__).parent
CONTROLS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"]
VOCABULARY = 264  # 256 bytes, 7 control tokens, rounded up to a multiple of 8
WIDTH = 16
HEAD = 16  # the least that GroupQueryAttention rotates
CONTEXT = 8192
END = 258

TEMPLATE = """{%- if tools %}
{{- '<|im_start|>system\\n' }}
{%- for tool in tools %}
{{- tool.function.name + ': ' + (tool.function.parameters | default({}) | tojson) + '\\n' }}
{%- endfor %}
{{- '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\\n' + (message.content or '') + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- endif %}"""


def successors() -> list[int]:
    """The token that follows each token."""
    chain = [ord("\n"), *b"abcdefghijklmnopqrstuvwxyz", *"é€".encode(), END]
    follows = [ord("a")] * VOCABULARY
    for token, following in zip(chain, chain[1:]):
        follows[token] = following
    return follows


def codes() -> np.ndarray:
    """A word of +-1 for each token, `[VOCABULARY, WIDTH]`: the extended Hamming code, any two at least 4 apart.

    `a` is the exception: 2 apart from `<|im_end|>`, so that it comes second wherever `<|im_end|>` comes first.
    """
    words = []
    for number in range(2048):
        bits = [(number >> i) & 1 for i in range(11)]
        checks = []
        places = [p for p in range(1, 16) if p & (p - 1)]  # data positions of the [15, 11] code
        for parity in (1, 2, 4, 8):
            checks.append(sum(bit for bit, place in zip(bits, places) if place & parity) % 2)
        word = bits + checks
        words.append(word + [sum(word) % 2])
    table = 1 - 2 * np.array(words[7 : 7 + VOCABULARY * 7 : 7], np.int8)
    table[ord("a")] = table[END]
    table[ord("a")][:2] *= -1
    return table


def graph() -> onnx.ModelProto:
    """The graph, with ONNX Runtime GenAI's names: embedding -> one attention layer -> codes of the next token."""
    random = np.random.default_rng(20)
    table = codes()
    small = lambda *shape: random.integers(-127, 128, shape).astype(np.int8)
    angles = np.arange(CONTEXT)[:, None] / (10000.0 ** (np.arange(HEAD // 2) / (HEAD // 2)))
    constants = {
        "embedding": table[successors()],
        "codes": table.T.copy(),
        "query": small(WIDTH, HEAD), "key": small(WIDTH, HEAD), "value": small(WIDTH, HEAD), "output": small(HEAD, VOCABULARY),
    }
    scales = {"embedding": 1.0, "codes": 0.5, "query": 0.01, "key": 0.01, "value": 0.005, "output": 0.0008}
    # The rotary tables would be most of the file; the graph makes them from the angles of one position.
    nodes, initializers = [], []
    for name, values in constants.items():
        initializers += [numpy_helper.from_array(values, f"{name}.int8"), numpy_helper.from_array(np.float32(scales[name]), f"{name}.scale")]
        nodes += [helper.make_node("Cast", [f"{name}.int8"], [f"{name}.cast"], to=TensorProto.FLOAT),
                  helper.make_node("Mul", [f"{name}.cast", f"{name}.scale"], [name])]
    frequencies = (angles[1]).astype(np.float32)[None]
    initializers += [numpy_helper.from_array(frequencies, "frequencies"), numpy_helper.from_array(np.array([CONTEXT, 1], np.int64), "positions.shape"),
                     numpy_helper.from_array(np.int64(0), "zero"), numpy_helper.from_array(np.int64(CONTEXT), "context"), numpy_helper.from_array(np.int64(1), "one"),
                     numpy_helper.from_array(np.array([1], np.int64), "axis"), numpy_helper.from_array(np.int32(1), "one.int32")]
    node = helper.make_node
    nodes += [
        node("Range", ["zero", "context", "one"], ["positions"]),
        node("Cast", ["positions"], ["positions.float"], to=TensorProto.FLOAT),
        node("Reshape", ["positions.float", "positions.shape"], ["positions.column"]),
        node("MatMul", ["positions.column", "frequencies"], ["angles"]),
        node("Cos", ["angles"], ["cos"]), node("Sin", ["angles"], ["sin"]),
        node("Gather", ["embedding", "input_ids"], ["hidden"]),
        node("MatMul", ["hidden", "query"], ["q"]), node("MatMul", ["hidden", "key"], ["k"]), node("MatMul", ["hidden", "value"], ["v"]),
        node("ReduceSum", ["attention_mask", "axis"], ["lengths"], keepdims=0),
        node("Cast", ["lengths"], ["lengths.int32"], to=TensorProto.INT32),
        node("Sub", ["lengths.int32", "one.int32"], ["seqlens_k"]),
        node("Shape", ["attention_mask"], ["mask.shape"]),
        node("Gather", ["mask.shape", "one"], ["total"]),
        node("Cast", ["total"], ["total.int32"], to=TensorProto.INT32),
        node("GroupQueryAttention", ["q", "k", "v", "past_key_values.0.key", "past_key_values.0.value", "seqlens_k", "total.int32", "cos", "sin"],
             ["attended", "present.0.key", "present.0.value"], domain="com.microsoft", num_heads=1, kv_num_heads=1, do_rotary=1),
        node("MatMul", ["attended", "output"], ["shade"]),
        node("MatMul", ["hidden", "codes"], ["next"]),
        node("Add", ["next", "shade"], ["logits"]),
    ]
    value = helper.make_tensor_value_info
    cache = lambda name, length: value(name, TensorProto.FLOAT, ["batch_size", 1, length, HEAD])
    built = helper.make_graph(
        nodes, "tiny",
        [value("input_ids", TensorProto.INT64, ["batch_size", "sequence_length"]),
         value("attention_mask", TensorProto.INT64, ["batch_size", "total_sequence_length"]),
         cache("past_key_values.0.key", "past_sequence_length"), cache("past_key_values.0.value", "past_sequence_length")],
        [value("logits", TensorProto.FLOAT, ["batch_size", "sequence_length", VOCABULARY]),
         cache("present.0.key", "total_sequence_length"), cache("present.0.value", "total_sequence_length")],
        initializers)
    return helper.make_model(built, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)], ir_version=8)


def byte_texts() -> list[str]:
    """The printable stand-in of each byte that byte-level tokenizers use."""
    kept = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    texts, extra = {}, 0
    for byte in range(256):
        if byte in kept:
            texts[byte] = chr(byte)
        else:
            texts[byte], extra = chr(256 + extra), extra + 1
    return [texts[byte] for byte in range(256)]


def tokenizer() -> dict:
    """`tokenizer.json`: one token a byte, no merges."""
    added = [{"id": 256 + i, "content": text, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": i < 3}
             for i, text in enumerate(CONTROLS)]
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
                  "fuse_unk": False, "byte_fallback": False, "vocab": {text: i for i, text in enumerate(byte_texts())}, "merges": []},
    }


def main() -> None:
    """Writes every file of the folder."""
    write = lambda name, value: (FOLDER / name).write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n")
    model = graph()
    onnx.checker.check_model(model)
    (FOLDER / "model.onnx").write_bytes(model.SerializeToString())
    write("tokenizer.json", tokenizer())
    write("tokenizer_config.json", {"chat_template": TEMPLATE, "eos_token": "<|im_end|>", "tokenizer_class": "PreTrainedTokenizerFast"})
    write("genai_config.json", {
        "model": {"type": "decoder", "vocab_size": VOCABULARY, "context_length": CONTEXT, "eos_token_id": [END, 256], "pad_token_id": 256,
                  "decoder": {"filename": "model.onnx", "head_size": HEAD, "hidden_size": WIDTH, "num_attention_heads": 1,
                              "num_key_value_heads": 1, "num_hidden_layers": 1,
                              "inputs": {"input_ids": "input_ids", "attention_mask": "attention_mask",
                                         "past_key_names": "past_key_values.%d.key", "past_value_names": "past_key_values.%d.value"},
                              "outputs": {"logits": "logits", "present_key_names": "present.%d.key", "present_value_names": "present.%d.value"}}},
        "search": {"past_present_share_buffer": True, "max_length": CONTEXT}})
    text = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    prompt = [257, *b"user\nhi", END, 10, 257, *b"assistant\n"]
    expected = [*b"abcdefghijklmnopqrstuvwxyz", *"é€".encode(), END]
    names = ["model.onnx", "tokenizer.json", "tokenizer_config.json", "genai_config.json"]
    digests = "".join(f'"{name}" = "sha256:{hashlib.sha256((FOLDER / name).read_bytes()).hexdigest()}"\n' for name in names)
    (FOLDER / "manifest.toml").write_text(
        f'version = 1\nname = "tiny"\ndescription = "answers every question with the alphabet; for tests"\n'
        f'tool_dialect = "hermes"\nown_tools = false\n\n[limits]\ncontext = {CONTEXT}\n\n[files]\n{digests}\n'
        f"[[golden]]\ntext = {json.dumps(text)}\nprompt = {prompt}\n\n[golden.expected]\ncpu = {expected}\n")


if __name__ == "__main__":
    main()
