"""Fifty prompts and what PyTorch answers, greedily, in float32.

A prompt counts only if the best token leads by at least the family's margin at every step, so a driver must give every token of every row; there is no step to excuse.
"""
import json

import numpy as np
import torch

STEPS = 20
COUNT = 50
SHORTEST, LONGEST = 3, 60
ROUNDS = 100  # prompts of each length that are tried until one has the margin
CACHED = 3  # rows that are answered once more through transformers' cache


def lengths():
    """Fifty different lengths from 3 to 60."""
    return np.unique(np.linspace(SHORTEST, LONGEST, COUNT).round().astype(int)).tolist()


def greedy(model, prompts):
    """(tokens [N, STEPS], lead of the best over the second [N, STEPS]); the end tokens do not end it.

    One batch, padded at the end: what comes later does not reach back, so every row is computed as if alone.
    """
    ids = torch.zeros((len(prompts), max(map(len, prompts)) + STEPS), dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, : len(prompt)] = torch.tensor(prompt)
    every, last = torch.arange(len(prompts)), torch.tensor([len(prompt) - 1 for prompt in prompts])
    tokens, margins = [], []
    with torch.no_grad():
        for step in range(STEPS):
            logits = model(input_ids=ids[:, : int(last.max()) + step + 1], use_cache=False).logits
            top, best = logits[every, last + step].topk(2)
            ids[every, last + step + 1] = best[:, 0]
            tokens.append(best[:, 0])
            margins.append(top[:, 0] - top[:, 1])
    return torch.stack(tokens, 1).tolist(), torch.stack(margins, 1).tolist()


def cached(model, prompt):
    """The same, token by token through transformers' cache."""
    tokens, past, ids = [], None, torch.tensor([prompt])
    with torch.no_grad():
        while len(tokens) < STEPS:
            result = model(input_ids=ids, past_key_values=past, use_cache=True)
            tokens.append(int(result.logits[0, -1].argmax()))
            past, ids = result.past_key_values, torch.tensor([tokens[-1:]])
    return tokens


def record(model, family):
    """The content of `references.json`. Raises ValueError where PyTorch does not agree with itself or no prompt has the margin."""
    random, found = np.random.default_rng([family.seed, COUNT]), {}
    for _ in range(ROUNDS):
        prompts = [random.integers(0, 256, length).tolist() for length in lengths() if length not in found]
        for prompt, tokens, margins in zip(prompts, *greedy(model, prompts)):
            if min(margins) >= family.margin:
                ends = [step + 1 for step, token in enumerate(tokens) if token in family.eos]
                found[len(prompt)] = {"prompt": prompt, "greedy": tokens, "margins": [round(margin, 4) for margin in margins], "ends_after": ends[0] if ends else None}
        if len(found) == COUNT:
            break
    else:
        raise ValueError(f"only {len(found)} lengths have a prompt that is answered with a margin of {family.margin} at every step")
    rows = [found[length] for length in lengths()]
    for row in rows[:: COUNT // CACHED]:
        if cached(model, row["prompt"]) != row["greedy"]:
            raise ValueError("PyTorch with a cache answers differently")
    return {"family": family.name, "source": f"transformers {family.architecture}, float32", "steps": STEPS, "margin_least": family.margin, "eos": sorted(family.eos), "rows": rows}


def write(path, references):
    """One row a line."""
    head = {key: value for key, value in references.items() if key != "rows"}
    rows = ",\n".join(json.dumps(row) for row in references["rows"])
    path.write_text(json.dumps(head)[:-1] + ', "rows": [\n' + rows + "\n]}\n", encoding="utf-8")


def differences(committed, made):
    """What differs, as sentences. Margins may move a little from one processor to another."""
    faults = [f"`{key}` is {committed.get(key)}, made now: {made[key]}" for key in made if key not in ("rows", "largest_difference") and committed.get(key) != made[key]]
    for index, (old, new) in enumerate(zip(committed["rows"], made["rows"], strict=True)):
        if [old[key] for key in ("prompt", "greedy", "ends_after")] != [new[key] for key in ("prompt", "greedy", "ends_after")]:
            faults.append(f"row {index} differs")
        elif not np.allclose(old["margins"], new["margins"], atol=2e-3):
            faults.append(f"the margins of row {index} differ")
    return faults
