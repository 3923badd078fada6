"""A byte-level tokenizer of 288 tokens: every byte, the control tokens of `tiny/`, and a few merges."""
import json

import tokenizers

from tiny.make import CONTROLS, TEMPLATE, byte_texts
from tiny.make import tokenizer as bytes_alone

VOCABULARY = 288
END_OF_TEXT, START, END = 256, 257, 258
_MERGES = ["t h", "th e", "i n", "e r", "a n", "r e", "o n", "a t", "e n", "n d", "t i", "e s", "o r", "t e", "o f",
           "e d", "i s", "i t", "a l", "a r", "s t", "t o", "n t", "in g", "Ġ the"]


def tokenizer():
    """`tokenizer.json`."""
    made = bytes_alone()
    first = len(byte_texts()) + len(CONTROLS)
    assert first + len(_MERGES) == VOCABULARY
    # Control tokens stand in the vocabulary too: a loader numbers those that do not by its size.
    made["model"]["vocab"] |= {text: END_OF_TEXT + index for index, text in enumerate(CONTROLS)}
    made["model"]["vocab"] |= {merge.replace(" ", ""): first + index for index, merge in enumerate(_MERGES)}
    made["model"]["merges"] = _MERGES
    return made


def write(folder):
    """The tokenizer's two files. Raises ValueError where a loader numbers the tokens otherwise."""
    if sorted(tokenizers.Tokenizer.from_str(json.dumps(tokenizer())).get_vocab().values()) != list(range(VOCABULARY)):
        raise ValueError("the tokenizer's ids have gaps")
    config = {"chat_template": TEMPLATE, "eos_token": CONTROLS[END - END_OF_TEXT], "tokenizer_class": "PreTrainedTokenizerFast"}
    for name, value in (("tokenizer.json", tokenizer()), ("tokenizer_config.json", config)):
        (folder / name).write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
