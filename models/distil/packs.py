"""Packs: requests to one home that do not see one another, each as if it came first, behind one copy of the system text.

A conversation of many turns would hold as many answers, but later turns copy from the earlier calls; a pack teaches
what a device asks for, the first turn, at the price of a long conversation. Positions go on behind the prefix for every unit.
"""
from dataclasses import dataclass

import torch


@dataclass
class Group:
    """Units of like length, padded to one: shape (units, length); source [units * length] rows of the group (padding: any),
    place [rows] where a row stands in the padded order."""

    shape: tuple
    source: torch.Tensor
    place: torch.Tensor


@dataclass
class Pack:
    prefix: int
    groups: list


@dataclass
class Batch:
    """ids and positions [N], packs in that order, wanted rows [M] with their targets and weights."""

    ids: torch.Tensor
    positions: torch.Tensor
    packs: list
    wanted: torch.Tensor
    targets: torch.Tensor
    weights: torch.Tensor


def grouped(lengths):
    """Lengths, sorted, cut into runs in which little is padded: a list of lists."""
    runs = []
    for length in lengths:
        if runs and (length <= 1.25 * runs[-1][0] + 4):
            runs[-1].append(length)
        else:
            runs.append([length])
    return runs


def group(lengths):
    longest = max(lengths)
    starts = [sum(lengths[:at]) for at in range(len(lengths))]
    source = [start + min(step, length - 1) for start, length in zip(starts, lengths) for step in range(longest)]
    place = [at * longest + step for at, length in enumerate(lengths) for step in range(length)]
    return Group((len(lengths), longest), torch.tensor(source), torch.tensor(place))


def stretched(rng, length, spare):
    """Positions of a prefix's tokens and, last, of what follows it: up to `spare` of them left out at one or two places.

    What stands far from a request is then met without the price of all that would stand between.
    """
    places, cuts = list(range(length + 1)), sorted(rng.sample(range(1, length + 1), rng.choice((1, 2))))
    for cut in cuts:
        skipped = rng.randrange(spare // len(cuts) + 1)
        places[cut:] = [place + skipped for place in places[cut:]]
    return places


def batch(samples):
    """Batch of encoded packs: (prefix ids, units as (ids, weights), if any the positions as `stretched` gives them); a unit's weight belongs to
    the token it stands at."""
    ids, positions, packs, wanted, targets, weights = [], [], [], [], [], []
    for prefix, units, *places in samples:
        places = places[0] if places else list(range(len(prefix) + 1))
        units = sorted(units, key=lambda unit: len(unit[0]))
        ids += prefix
        positions += places[:-1]
        packs.append(Pack(len(prefix), [group(run) for run in grouped([len(unit) for unit, _ in units])]))
        for unit, weight in units:
            rows = [at for at in range(len(unit) - 1) if weight[at + 1]]
            wanted += [len(ids) + at for at in rows]
            targets += [unit[at + 1] for at in rows]
            weights += [weight[at + 1] for at in rows]
            ids += unit
            positions += range(places[-1], places[-1] + len(unit))
    return Batch(*(torch.tensor(x) for x in (ids, positions)), packs, *(torch.tensor(x) for x in (wanted, targets)), torch.tensor(weights))
