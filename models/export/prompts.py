"""Rendered prompts from fresh samples of the corpus, ending where the assistant is to speak."""
import pathlib
import random

from tokenizers import Tokenizer

from corpus.render import pieces
from corpus.scenes import Split, conversation

FOLDER = pathlib.Path(__file__).parents[1] / "default"


def tokenizer(folder=FOLDER):
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def prompts(count, name, held_out=False, most=400):
    """[(text, ids, wanted answer text)] of `count` prompts of at most `most` tokens; `name` seeds them."""
    coder, found, number = tokenizer(), [], 0
    while len(found) < count:
        rng = random.Random(f"{name}-{number}")
        number += 1
        messages, tools, _, _ = conversation(rng, Split(held_out, held_out, held_out), turn_count=1)
        if [m["role"] for m in messages[:3]] != ["system", "user", "assistant"]:
            continue
        text = "".join(piece for piece, _ in pieces(messages[:2], tools)) + "<|im_start|>assistant\n"
        answer = pieces(messages[:3], tools)[-2][0]
        ids = coder.encode(text, add_special_tokens=False).ids
        if len(ids) <= most:
            found.append((text, ids, answer))
    return found
