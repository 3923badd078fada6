"""Proves the shipped folder and writes what the daemon's tests compare with.

    python -m export.check [--folder default] [--prompts 200] [--checkpoint FILE]

1. The same emitter without quantisation gives transformers' logits (5e-6 of the largest).
2. Whole = chunked bit for bit, token by token and shared buffers agree, ragged rows = rows alone,
   and rows that read chunks of different lengths in one Run give what each gives alone.
3. Greedy answers of the shipped graph against transformers in float32; the agreement is printed.
4. reference/default.json: prompts, greedy tokens and top logits of the shipped graph on this CPU.

Without a checkpoint the weights are read back from the graph, so 1 and 3 need nothing but the folder.
"""
import argparse
import json
import pathlib
import sys

import numpy as np
import torch

from distil.checkpoint import as_transformers, shippable
from distil.network import Shape
from export.graph import Graph
from export.prompts import FOLDER, prompts
from export.restore import weights_of
from export.session import Session

REFERENCE = FOLDER.parent / "reference" / "default.json"
TOLERANCE = 5e-6
RAGGED_AGREE = 0.97  # attention of one new token sums in another order, which 8-bit activations can turn into another step


def same_as_transformers(named, model, samples):
    """Largest logit difference of the float32 export, as a part of the largest logit: with sharper models both grow."""
    plain = Session(Graph(Shape(), named, quantised=False).model().SerializeToString(), Shape())
    worst = 0.0
    for _, ids, _ in samples:
        with torch.no_grad():
            wanted = model(torch.tensor([ids])).logits[0].numpy()
        worst = max(worst, float(np.abs(plain.run([ids], plain.empty())[0][0] - wanted).max() / np.abs(wanted).max()))
    return worst


def chunked(session, ids, size):
    """Logits of all positions, read in chunks of `size`; no chunk is left with one token."""
    past, parts, place = session.empty(), [], 0
    while place < len(ids):
        end = len(ids) if len(ids) - place - size < 2 else place + size
        logits, past = session.run([ids[place:end]], past)
        parts.append(logits[0])
        place = end
    return np.concatenate(parts)


def shared_rows(session, samples, steps, room=512):
    """Prefill each row alone into its slot of shared buffers, then decode all rows together; and each alone."""
    together, alone = [], []
    rows = len(samples)
    big = session.buffers(rows, room)
    single = [session.buffers(1, room) for _ in samples]
    lengths = [len(ids) for _, ids, _ in samples]
    nexts = []
    for row, (_, ids, _) in enumerate(samples):
        logits = session.run_shared([ids], np.ones((1, len(ids))), single[row])
        nexts.append(int(logits[0, -1].argmax()))
        for name in session.past_names:
            big[name].numpy()[row] = single[row][name].numpy()[0]
    for step in range(steps):
        mask = np.zeros((rows, room))
        for row, length in enumerate(lengths):
            mask[row, : length + step + 1] = 1
        joint = session.run_shared([[n] for n in nexts], mask, big)[:, 0]
        apart = np.stack([session.run_shared([[nexts[r]]], np.ones((1, lengths[r] + step + 1)), single[r])[0, 0] for r in range(rows)])
        together.append(joint)
        alone.append(apart)
        nexts = [int(row.argmax()) for row in apart]
    return np.stack(together), np.stack(alone)


def ragged_chunks(session, samples, room=512, plans=((40, 7, 1, 64), (3, 64, 64, 0), (0, 1, 17, 64), (64, 64, 1, 1))):
    """(largest difference, share of equal best tokens) between rows of one Run with different numbers of new tokens and each prompt read whole."""
    prompts = [ids[:140] for _, ids, _ in samples[: len(plans[0])]]
    wanted = [session.run([ids], session.empty())[0][0] for ids in prompts]
    buffers, read, worst = session.buffers(len(prompts), room), [0] * len(prompts), 0.0
    same = []
    for plan in plans:
        fresh = [min(size, len(ids) - done) for size, ids, done in zip(plan, prompts, read)]
        rows = [(ids[done : done + size] + [0] * max(plan))[: max(plan)] for ids, done, size in zip(prompts, read, fresh)]
        lengths = [done + size for done, size in zip(read, fresh)]
        mask = (np.arange(max(*lengths, max(plan)))[None] < np.array(lengths)[:, None]).astype(np.int64)
        logits = session.run_shared(rows, mask, buffers, fresh)
        for row, size in enumerate(fresh):
            if size:
                alone = wanted[row][read[row] : read[row] + size]
                worst = max(worst, float(np.abs(logits[row, :size] - alone).max()))
                same.append(logits[row, :size].argmax(-1) == alone.argmax(-1))
        read = lengths
    return worst, float(np.concatenate(same).mean())


def invariance(session, samples):
    """Faults found, as sentences; prints the figures."""
    faults = []
    ids = samples[0][1]
    whole = session.run([ids], session.empty())[0][0]
    for size in (2, 3, 8, 17, 64):
        if not np.array_equal(chunked(session, ids, size), whole):
            faults.append(f"chunks of {size} differ from the whole prompt by {np.abs(chunked(session, ids, size) - whole).max():.2e}")
    past, singles = session.empty(), []
    for token in ids:
        logits, past = session.run([[token]], past)
        singles.append(logits[0, 0])
    agree = float((np.stack(singles).argmax(-1) == whole.argmax(-1)).mean())
    print(f"token by token: largest difference {np.abs(np.stack(singles) - whole).max():.3f}, same best token {100 * agree:.1f} %")
    if agree < 0.97:
        faults.append("token by token differs from the whole prompt")
    joint, apart = shared_rows(session, samples[:4], 8)
    if not np.array_equal(joint, apart):
        faults.append(f"ragged rows differ from rows alone by {np.abs(joint - apart).max():.2e}")
    worst, agree = ragged_chunks(session, samples)
    print(f"rows with different numbers of new tokens in one Run: largest difference {worst:.2e}, same best token {100 * agree:.1f} %")
    if agree < RAGGED_AGREE:
        faults.append("rows with different numbers of new tokens differ from rows alone")
    shared = session.run_shared([ids], np.ones((1, len(ids))), session.buffers(1, 512))[0]
    if not np.array_equal(shared, whole):
        faults.append("a shared buffer changes the logits")
    return faults


def agreement(session, model, samples, most=48):
    """(answers that transformers would give too, answers equal to the corpus') as counts.

    One forward over prompt and answer decides: the greedy answers are equal exactly when transformers' best
    token is ours at every step along our own answer.
    """
    from export.prompts import tokenizer

    coder, same, right = tokenizer(), 0, 0
    for _, ids, answer in samples:
        ours, _, _ = session.greedy(ids, most)
        with torch.no_grad():
            best = model(torch.tensor([ids + ours])).logits[0].argmax(-1).tolist()
        same += best[len(ids) - 1 : -1] == ours
        right += coder.decode(ours, skip_special_tokens=False) == answer
    return same, right


def write_reference(session, samples, path, length=32):
    """Prompts with greedy tokens (the stop token ends them) and the five best logits after the prompt."""
    rows = []
    for text, ids, _ in samples:
        tokens, margin, logits = session.greedy(ids, length)
        best = np.argsort(-logits)[:5]
        rows.append({"text": text, "prompt": ids, "greedy": tokens, "smallest_margin": round(margin, 3), "top_logits": [[int(t), round(float(logits[t]), 4)] for t in best]})
    path.parent.mkdir(exist_ok=True)
    path.write_text("[\n" + ",\n".join(json.dumps(r, ensure_ascii=False) for r in rows) + "\n]\n", encoding="utf-8")


def main():
    options = argparse.ArgumentParser()
    options.add_argument("--folder", type=pathlib.Path, default=FOLDER)
    options.add_argument("--checkpoint", type=pathlib.Path)
    options.add_argument("--prompts", type=int, default=200)
    options.add_argument("--reference", type=pathlib.Path, default=REFERENCE)
    options = options.parse_args()
    graph = options.folder / "model.onnx"
    named = shippable(options.checkpoint)[0] if options.checkpoint else weights_of(graph)
    print("weights:", options.checkpoint or "read back from the graph")
    model, session = as_transformers(named), Session(str(graph), Shape())
    samples = prompts(max(20, options.prompts), "reference")
    worst = same_as_transformers(named, model, samples[:4])
    print(f"float32 export against transformers: largest difference {worst:.2e} of the largest logit")
    faults = [f"float32 export differs by {worst} of the largest logit"] if worst > TOLERANCE else []
    faults += invariance(session, samples)
    if options.prompts:
        same, right = agreement(session, model, samples[: options.prompts])
        print(f"greedy answers equal to transformers float32: {same}/{options.prompts}; equal to the corpus: {right}")
    write_reference(session, samples[:20], options.reference)
    print("\n".join("FAULT: " + fault for fault in faults) or "no faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
