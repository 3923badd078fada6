"""Which side of the train/held-out border a text belongs to, fixed by its hash.

The rule was fixed before any wording was written: nobody chooses what is held out.
"""
import hashlib

HELD_PERCENT = {"wording": 15, "name": 15, "tool": 15}


def is_held_out(sort, text):
    """sort: a key of HELD_PERCENT; text: the pattern, name part or tool word itself."""
    digest = hashlib.sha256(f"{sort}|{text.lower().strip()}".encode()).digest()
    return int.from_bytes(digest[:4], "big") % 100 < HELD_PERCENT[sort]


def side(sort, texts, held_out):
    """The texts of one side, in their order."""
    return [text for text in texts if is_held_out(sort, text) == held_out]
