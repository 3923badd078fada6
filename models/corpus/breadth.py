"""How broad the hand-written wording is: intent families, distinct patterns, how alike the nearest two are.

    python -m corpus.breadth

Plain Python. A pattern counts once however its slots are called: they are blanked before patterns are compared.
"""
import collections
import sys

from corpus import names
from corpus.patterns import FOLDER, LISTS, blank, choices, families, trained
from corpus.world import KINDS

STYLES = {"plain", "polite", "polite two", "terse", "indirect", "indirect two", "technician", "technician 2", "child", "non-native", "speech", "scada", "romantic", "more"}  # briefs that say how, not what


def intents():
    """intent family -> its patterns; a brief that changes the meaning (above, named, weather) is a family of its own."""
    found = collections.defaultdict(dict)
    for path in sorted(FOLDER.glob("*.txt")):
        if path.stem not in LISTS:
            for brief, lines in families(path.stem).items():
                found[path.stem if brief in STYLES else f"{path.stem} {brief}"] |= dict.fromkeys(lines)
    return {family: list(lines) for family, lines in found.items()}


def likeness(texts):
    """For each text, the highest share of common words with another (1 where only the order differs)."""
    bags = [frozenset(text.split()) for text in texts]
    holders = collections.defaultdict(list)
    for place, bag in enumerate(bags):
        for word in bag - {"_"}:
            holders[word].append(place)
    best = []
    for place, bag in enumerate(bags):
        shared = collections.Counter(other for word in bag - {"_"} for other in holders[word] if other != place)
        slot = "_" in bag
        best.append(max(((n + (slot and "_" in bags[o])) / (len(bag) + len(bags[o]) - n - (slot and "_" in bags[o])) for o, n in shared.items()), default=0.0))
    return best


def crossing():
    """Blanked held-out patterns that stand, blanked, on the training side too: [text]; there must be none."""
    held = {blank(line) for path in FOLDER.glob("*.txt") if path.stem not in LISTS for line in choices(path.stem, None, True)}
    return sorted(held & trained())


def names_report():
    """How many device names the makers can give on either side, as a printable line."""
    nouns = len({noun for kind in KINDS.values() for noun in kind["nouns"]})
    sides = [names.possible(nouns, held) for held in (False, True)]
    return "names: " + "; ".join(f"{sum(made.values())} {title} ({', '.join(f'{maker} {count}' for maker, count in made.items())})" for title, made in zip(("for training", "held out"), sides))


def report():
    """Printable lines."""
    groups = intents()
    distinct = sorted({blank(line) for lines in groups.values() for line in lines})
    sizes = sorted(len(set(map(blank, lines))) for lines in groups.values())
    alike = sorted(likeness(distinct))
    return [
        names_report(),
        f"wording: {len(distinct)} distinct patterns after blanking the slots, in {len(groups)} intent families, {sum(size >= 20 for size in sizes)} of them with 20 or more (median {sizes[len(sizes) // 2]})",
        f"nearest other pattern by common words: median {alike[len(alike) // 2]:.2f}, ninetieth percentile {alike[len(alike) * 9 // 10]:.2f}, {sum(a == 1 for a in alike)} differ in word order alone",
    ]


def main():
    print("\n".join(report()))
    both = crossing()
    print("on both sides after blanking:", both or "none")
    return 1 if both else 0


if __name__ == "__main__":
    sys.exit(main())
