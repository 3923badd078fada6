"""Words that nobody has said before, for names and tools: spelt like English, or glued from any pieces of the vocabulary.

With words from lists alone a model learns to say those words, one token each. Every other name, which is most of the names
that it will meet, is cut into short pieces, and it must copy these one by one: so many names in training have to be new ones.
Glued words bring in the pieces that no text of the corpus has; a piece that is never seen can later neither be told from
the others nor be said. All of these words lie on the training side of the border.
"""
import collections
import functools
import json
import pathlib

from corpus.patterns import trained
from corpus.split import is_held_out, whole_part

TOKENIZER = pathlib.Path(__file__).parents[1] / "default" / "tokenizer.json"
LONGEST = 12  # letters of a word
END = "."


@functools.cache
def known():
    """The plain words of the training side's wording, sorted."""
    return sorted({word for line in trained() for word in line.split() if word.isascii() and word.isalpha() and len(word) > 2})


@functools.cache
def _known():
    return frozenset(known())


@functools.cache
def followers():
    """Two letters -> what may follow them in a known word, as often as it does; `END` at its end."""
    found = collections.defaultdict(list)
    for word in known():
        for at in range(len(word) - 1):
            found[word[at : at + 2]].append(word[at + 2] if at + 2 < len(word) else END)
    return dict(found)


@functools.cache
def pieces():
    """The vocabulary's pieces of two letters or more that are no held-out part of a name; empty before there is a tokenizer."""
    if not TOKENIZER.exists():
        return []
    vocabulary = json.loads(TOKENIZER.read_text(encoding="utf-8"))["model"]["vocab"]
    letters = {piece.lstrip("Ġ") for piece in vocabulary if 2 <= len(piece) <= 8}
    return sorted(piece for piece in letters if piece.isascii() and piece.isalpha() and not whole_part(piece))


def _spelt(rng):
    word = rng.choice(known())[:2]
    while len(word) <= LONGEST:
        letter = rng.choice(followers()[word[-2:]])
        if letter == END:
            break
        word += letter
    return word


def _glued(rng):
    return "".join(rng.choices(pieces(), k=rng.choice((2, 2, 2, 3)))) if pieces() else _spelt(rng)


def coin(rng, sort="name"):
    """A new word of 3 to 12 letters, neither known nor held out as a name or tool word (`sort`); its case is as it came, mostly lower."""
    while True:
        word = _spelt(rng) if rng.random() < 0.6 else _glued(rng)
        if 2 < len(word) <= LONGEST and word.lower() not in _known() and not is_held_out(sort, word):
            return word
