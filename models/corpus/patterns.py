"""Loads the hand-written wording and deals it to the train or the held-out side."""
import functools
import pathlib
import re

from corpus.split import side

FOLDER = pathlib.Path(__file__).parent / "wording"
LISTS = ("lists", "windows")  # words for slots, no patterns
SLOT = re.compile(r"\{\w+\}")


@functools.cache
def families(name):
    """{brief: [patterns]} of one file in `wording/`, name without `.txt`; doubles are dropped."""
    found, brief = {}, "plain"
    for line in (FOLDER / f"{name}.txt").read_text(encoding="utf-8").splitlines():
        line = line.strip()
        if line.startswith("["):
            brief = line.strip("[]")
        elif line and not line.startswith("#"):
            found.setdefault(brief, {})[line] = None
    return {brief: list(lines) for brief, lines in found.items()}


def blank(text):
    """A pattern with its slots blanked, in lower case."""
    return " ".join(SLOT.sub("_", text.lower()).split())


@functools.cache
def trained():
    """Every blanked pattern of the training side, over all files."""
    lines = {line for path in FOLDER.glob("*.txt") if path.stem not in LISTS for group in families(path.stem).values() for line in group}
    return {blank(line) for line in side("wording", lines, False)}


@functools.cache
def choices(name, brief, held_out):
    """Patterns of a file (of one brief, or of all when None) on one side.

    A held-out pattern that differs from a training one in its slots' names alone belongs to neither side.
    """
    lines = families(name)
    chosen = lines[brief] if brief else [p for group in lines.values() for p in group]
    found = side("wording", chosen, held_out)
    return [line for line in found if blank(line) not in trained()] if held_out else found


def exists(name):
    """Whether there is wording of that name."""
    return (FOLDER / f"{name}.txt").exists()


def drawn(rng, name, held_out):
    """(brief, pattern) of one side; LookupError where that side has none."""
    text = pattern(rng, name, held_out)
    return next(brief for brief, lines in families(name).items() if text in lines), text


def pattern(rng, name, held_out, brief=None):
    """A pattern of one side; LookupError where that side has none (rng.choice of nothing)."""
    return rng.choice(choices(name, brief, held_out))
