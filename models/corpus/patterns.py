"""Loads the hand-written wording and deals it to the train or the held-out side."""
import functools
import pathlib

from corpus.split import side

FOLDER = pathlib.Path(__file__).parent / "wording"


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


@functools.cache
def choices(name, brief, held_out):
    """Patterns of a file (of one brief, or of all when None) on one side."""
    lines = families(name)
    chosen = lines[brief] if brief else [p for group in lines.values() for p in group]
    return side("wording", chosen, held_out)


def pattern(rng, name, held_out, brief=None):
    """A pattern of one side; LookupError where that side has none (rng.choice of nothing)."""
    return rng.choice(choices(name, brief, held_out))
