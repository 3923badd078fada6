"""Compares a graph with its source and with the references: whole, in chunks, alone, together."""
import numpy as np
import torch

from export.families.drive import Driver

CAPACITY = 128
ROWS = 10


def drivers(family, graph, config):
    """Every way to hold the caches of a graph; the first is the one to decode with. Raises ValueError where one buffer for past and present is taken but should not be."""
    text = config.get_text_config()
    size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    def one(**lengths):
        return Driver(graph, text.num_key_value_heads, size, **lengths)
    if not family.shares:
        if takes_one_buffer(one(capacity=CAPACITY)):
            raise ValueError("a concatenating graph takes past and present as one buffer")
        return [one()]
    found = [one(capacity=CAPACITY)]
    if "tensor(bfloat16)" not in {value.type for value in found[0].inputs.values()}:  # NumPy cannot take such outputs
        found.append(one())
    if "window" in found[0].kinds():
        found.append(one(capacity=CAPACITY, window=text.sliding_window))
    return found


def takes_one_buffer(run):
    """Whether a run with past and present bound to the same memory goes through."""
    try:
        run.run([[1, 2, 3]], run.empty())
    except RuntimeError:
        return False
    return True


def largest_difference(run, model, prompts):
    """Largest logit difference to PyTorch, each prompt read whole and in chunks of at least two tokens."""
    worst = 0.0
    for prompt in prompts:
        with torch.no_grad():
            wanted = model(input_ids=torch.tensor([prompt])).logits[0].numpy()
        whole = run.run([prompt], run.empty())[0]
        worst = max(worst, float(np.abs(whole - wanted[-len(whole):]).max()))
        state, place = run.empty(), 0
        while place < len(prompt):
            end = len(prompt) if len(prompt) - place < 9 else place + 7
            chunk = run.run([prompt[place:end]], state, past=place)[0]
            worst = max(worst, float(np.abs(chunk - wanted[end - len(chunk):end]).max()))
            place = end
    return worst


def turned(run, model, prompt):
    """Largest difference where the three rows of `position_ids` are not the same, as behind a picture."""
    place = np.arange(len(prompt))
    positions = np.stack([place, place // 3, place % 5])[:, None]
    with torch.no_grad():
        wanted = model(input_ids=torch.tensor([prompt]), position_ids=torch.from_numpy(positions.copy())).logits[0].numpy()
    return float(np.abs(run.run([prompt], run.empty(), positions=positions)[0] - wanted).max())


def alone(run, rows):
    """Rows whose greedy tokens differ from the reference, decoded one at a time."""
    return [index for index, row in enumerate(rows) if run.greedy(row["prompt"], len(row["greedy"])) != row["greedy"]]


def together(run, rows):
    """The same, decoded `ROWS` at a time: each prompt is read alone, then all rows decode in one ragged batch."""
    wrong = []
    for first in range(0, len(rows), ROWS):
        group = rows[first:first + ROWS]
        state, past, next_tokens = (stacked if run.capacity else padded)(run, group)
        found = [[token] for token in next_tokens]
        while len(found[0]) < len(group[0]["greedy"]):
            ids = np.array([tokens[-1:] for tokens in found])
            if run.capacity:
                logits = run.run(ids, state, past=past)
            else:  # shorter rows have unused positions at their front
                width = state[next(iter(run.caches))].shape[2] + 1
                logits = run.run(ids, state, past=past, mask=np.arange(width)[None] >= (width - past - 1)[:, None])
            past = past + 1
            for tokens, row in zip(found, logits[:, -1]):
                tokens.append(int(row.argmax()))
        wrong += [first + index for index, (tokens, row) in enumerate(zip(found, group)) if tokens != row["greedy"]]
    return wrong


def stacked(run, group):
    """Each prompt read alone; then the rows' buffers side by side."""
    states, best = [], []
    for row in group:
        states.append(run.empty())
        best.append(int(run.run([row["prompt"]], states[-1])[0, -1].argmax()))
    state = {name: np.concatenate([one[name] for one in states]) for name in run.caches}
    return state, np.array([len(row["prompt"]) for row in group]), best


def padded(run, group):
    """All prompts read in one run, the shorter ones padded at their front: what a concatenating cache allows."""
    past = np.array([len(row["prompt"]) for row in group])
    width = int(past.max())
    ids = np.array([[0] * (width - len(row["prompt"])) + row["prompt"] for row in group])
    unused = (width - past)[:, None]
    places = np.arange(width)[None]
    state = run.empty(len(group))
    logits = run.run(ids, state, mask=places >= unused, positions=np.maximum(places - unused, 0))
    return state, past, logits[:, -1].argmax(-1).tolist()


def mixed(run, model, rows):
    """Largest difference where chunks, single tokens and idle rows share a run (`query_seqlens`)."""
    texts = [row["prompt"] + row["greedy"] for row in rows]
    with torch.no_grad():
        wanted = [model(input_ids=torch.tensor([text])).logits[0].numpy() for text in texts]
    plan = [[8, 3, 1, 5], [8, 1, 1, 8], [4, 1, 0, 8], [8, 1, 1, 1], [1, 1, 0, 1], [1, 8, 8, 1], [1, 1, 0, 2]]
    state, past, worst = run.empty(4), np.zeros(4, int), 0.0
    for new in np.array(plan):
        ids = np.zeros((4, new.max()), int)
        for row in range(4):
            ids[row, :new[row]] = texts[row][past[row]:past[row] + new[row]]
        logits = run.run(ids, state, past=past, new=new)
        for row in np.nonzero(new)[0]:
            worst = max(worst, float(np.abs(logits[row, :new[row]] - wanted[row][past[row]:past[row] + new[row]]).max()))
        past = past + new
    return worst
