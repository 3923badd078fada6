"""Which side of the train/held-out border a text belongs to, fixed by its hash.

The rule was fixed before any wording was written: nobody chooses what is held out.
"""
import functools
import hashlib

HELD_PERCENT = {"wording": 15, "name": 15, "tool": 15, "digits": 10, "composition": 15}


def is_held_out(sort, text):
    """sort: a key of HELD_PERCENT; text: the pattern, name part, tool word, pair of digits or composition itself."""
    digest = hashlib.sha256(f"{sort}|{text.lower().strip()}".encode()).digest()
    return int.from_bytes(digest[:4], "big") % 100 < HELD_PERCENT[sort]


def side(sort, texts, held_out):
    """The texts of one side, in their order."""
    return [text for text in texts if is_held_out(sort, text) == held_out]


def whole_part(text):
    """Whether a piece of the vocabulary is on its own a part that the names of the held-out side may have."""
    return is_held_out("name", text) and text.lower().strip() in listed_parts()


@functools.cache
def listed_parts():
    """Every word that the lists of corpus/names.py hold, lower-case, and the parts of those of several words."""
    from corpus import names  # which itself asks here

    parts = names.MORE_ROOMS + names.PLACES + names.PEOPLE + names.TAGS
    return frozenset(part.lower() for text in parts for part in (text, *text.split(" ")))


def number_held_out(value):
    """Whether two neighbouring digits of the number as written are a held-out pair (`digits`)."""
    text = str(value)
    return any(is_held_out("digits", pair) for pair in (text[at : at + 2] for at in range(len(text) - 1)) if pair.isdigit())


def composition_held_out(*parts):
    """Whether these parts (verb, kind and sort of a group; or two verbs of one request, in any order) stand together held out."""
    return is_held_out("composition", "|".join(sorted(parts)))
