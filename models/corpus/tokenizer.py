"""Trains the byte-level BPE tokenizer on the corpus and writes it with its chat template.

    python -m corpus.tokenizer [--samples 12000]

Writes default/tokenizer.json, default/tokenizer_config.json and default/chat_template.jinja. Qwen2's pre-tokenizer expression
(digits stand alone, which helps to copy numbers) so that other runtimes know it.
"""
import argparse
import json
import pathlib
import random

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from corpus import coined
from corpus.names import invented_word
from corpus.patterns import FOLDER
from corpus.render import pieces
from corpus.scenes import conversation

VOCABULARY = 4096
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
MARKS = ["<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"]
QWEN2 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
TARGET = pathlib.Path(__file__).parents[1] / "default"
TEMPLATE = pathlib.Path(__file__).parent / "chat_template.jinja"  # the one that training renders by; export puts it into the folder


def texts(samples):
    """Training samples, the wording files, and invented words, so that unseen names cut into fair pieces."""
    for seed in range(samples):
        messages, tools, _, _ = conversation(random.Random(f"tokenizer-{seed}"))
        text = "".join(piece for piece, _ in pieces(messages, tools))
        for mark in SPECIAL + MARKS:
            text = text.replace(mark, "\n")
        yield text
        rng = random.Random(seed)
        yield " ".join(invented_word(rng, False) for _ in range(4))
    for path in sorted(FOLDER.glob("*.txt")):
        yield path.read_text(encoding="utf-8")
    for path in sorted(FOLDER.parents[1].rglob("*.py")):
        yield path.read_text(encoding="utf-8")


def train(samples):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(QWEN2), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY - len(MARKS), special_tokens=SPECIAL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tokenizer.train_from_iterator(texts(samples), trainer)
    tokenizer.add_tokens([AddedToken(mark, special=False, normalized=False) for mark in MARKS])
    assert tokenizer.get_vocab_size() == VOCABULARY
    return tokenizer


def configuration():
    """tokenizer_config.json with the chat template."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": None, "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "unk_token": None,
        "add_bos_token": False, "add_prefix_space": False, "clean_up_tokenization_spaces": False, "model_max_length": 2048,
        "chat_template": TEMPLATE.read_text(encoding="utf-8"),
    }


def write_configuration(folder):
    """tokenizer_config.json and chat_template.jinja into a model folder."""
    (folder / "tokenizer_config.json").write_text(json.dumps(configuration(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / "chat_template.jinja").write_text(TEMPLATE.read_text(encoding="utf-8"), encoding="utf-8")


def main():
    options = argparse.ArgumentParser()
    options.add_argument("--samples", type=int, default=12000)
    options = options.parse_args()
    coined.pieces = list  # or the pieces of the tokenizer before would come back as words
    train(options.samples).save(str(TARGET / "tokenizer.new"))
    (TARGET / "tokenizer.new").replace(TARGET / "tokenizer.json")
    write_configuration(TARGET)


if __name__ == "__main__":
    main()
