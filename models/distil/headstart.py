"""A head start for copying: sets a few attention heads of a young run to a copying circuit.

    python -m distil.headstart [--run xs]

Copying needs two heads in a row: one that brings the previous token's identity along, and one that looks
for the place where the current token was the previous one. Random initialisation finds the pair late
(nothing of it was there after 1.8M tokens). So both are
written by hand into layers 0, 1 and 2, fitted to the run's own activations; training goes on from there and is free to change them.
"""
import argparse
import random

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer

from corpus.copying import lesson
from corpus.scenes import conversation
from distil import network as parts
from distil.checkpoint import RUNS, as_network
from distil.kinds import KINDS, kind_of
from distil.network import normed
from distil.optimiser import Optimiser
from distil.stream import TOKENIZER, encode

PREVIOUS_LAYER, MATCH_LAYERS = 0, (1, 2)
SHARP = 2.6        # norm weights on the dimensions that find the previous token
MATCH_SHARP = 1.45  # norm weights on the dimensions that compare tokens
RIDGE = 1e-2


def inputs_of(model, ids):
    """Normed input of every layer's attention and the residual, for ids [S]: lists of [S, H]."""
    hidden = model.embed_tokens(ids[None])
    cosine, sine = model.cosine[: len(ids)], model.sine[: len(ids)]
    before, residual = [], []
    for layer in model.layers:
        residual.append(hidden[0])
        before.append(normed(layer.input_layernorm, hidden)[0])
        hidden = hidden + layer.self_attn(before[-1][None], cosine, sine)
        flat = normed(layer.post_attention_layernorm, hidden).reshape(-1, hidden.shape[-1])
        hidden = hidden + layer.mlp(flat).view(hidden.shape)
    return before, residual + [hidden[0]]


def share_embeddings(model, coder, generator):
    """Tokens that differ only in case or a leading blank begin nearly alike, at the usual spread."""
    table, shared = model.embed_tokens.weight, {}
    for token in range(len(table)):
        text = coder.decode([token], skip_special_tokens=False)
        plain = text.strip().lower() or text
        if plain not in shared:
            shared[plain] = torch.randn(table.shape[1], generator=generator)
        table[token] = 0.02 * (0.85 * shared[plain] + 0.53 * torch.randn(table.shape[1], generator=generator))


def turn(vector, frequencies, steps):
    """Rotates a head vector [D] by `steps` positions (half-split form)."""
    angles = torch.cat((frequencies, frequencies)) * steps
    return parts.rotate(vector, angles.cos(), angles.sin())


def ridge(inputs, targets):
    """Matrix W with W x close to the target for inputs [N, H], targets [N, D]."""
    size = inputs.shape[1]
    gram = inputs.T @ inputs / len(inputs) + RIDGE * torch.eye(size)
    return torch.linalg.solve(gram, inputs.T @ targets / len(inputs)).T


def previous_heads(model, generator):
    """Layer 0, key head 0: query head 0 looks one token back, query head 1 two back. Returns the tokens' codes [V, 32]."""
    shape, layer = model.shape, model.layers[PREVIOUS_LAYER]
    attention, size = layer.self_attn, model.shape.head_dim
    # one direction that all token rows share; the tied head only shifts every logit alike
    table = model.embed_tokens.weight
    common = F.normalize(torch.randn(shape.hidden_size, generator=generator), dim=0)
    table.sub_((table @ common)[:, None] * common).add_(0.7 * table.norm(dim=1).mean() * common)
    direction = F.normalize(common / layer.input_layernorm.weight, dim=0)
    frequencies = shape.rope_theta ** (-torch.arange(0, size, 2) / size)
    wave = torch.zeros(size)
    used = list(range(8)) + list(range(size // 2, size // 2 + 8))
    wave[used] = torch.tensor([1.3, 1.2, 1.1, 1.0, 0.8, 0.7, 0.6, 0.5] * 2)
    attention.q_norm.weight[used] = SHARP
    attention.k_norm.weight[used] = SHARP
    attention.q_proj.weight[:size] = 3 * torch.outer(turn(wave, frequencies, 0), direction) / wave.norm()
    attention.q_proj.weight[size:2 * size] = 3 * torch.outer(turn(wave, frequencies, -1), direction) / wave.norm()
    attention.k_proj.weight[:size] = 3 * torch.outer(turn(wave, frequencies, 1), direction) / wave.norm()
    basis = torch.linalg.qr(torch.randn(shape.hidden_size, 3 * size, generator=generator))[0]
    attention.v_proj.weight[:size] = basis[:, :size].T
    scale = 1.2 * table.square().mean().sqrt()
    attention.o_proj.weight[:, :size] = scale * 2 * basis[:, size:2 * size]
    attention.o_proj.weight[:, size:2 * size] = scale * 1.2 * basis[:, 2 * size:]
    return F.normalize((table - table.mean(0)) @ basis[:, :32], dim=1)  # what of a token is carried along


def match_heads(model, at, samples, codes):
    """Key head 0 of a layer: the query carries the current token's code, the key the previous token's; the value is the token."""
    shape, attention, size = model.shape, model.layers[at].self_attn, model.shape.head_dim
    seen, here, before, residual_end = [], [], [], []
    for ids in samples:
        inputs, residual = inputs_of(model, ids)
        seen.append(inputs[at][1:])
        here.append(ids[1:])
        before.append(ids[:-1])
        residual_end.append(residual[-1][1:])
    seen, here, before = torch.cat(seen), torch.cat(here), torch.cat(before)
    slow = list(range(16, 32)) + list(range(48, 64))  # dimensions that turn little over a prompt
    for offset, rows in ((0, here), (size, here)):
        matrix = torch.zeros(size, shape.hidden_size)
        matrix[slow] = ridge(seen, codes[rows])
        attention.q_proj.weight[offset:offset + size] = 4 * matrix / matrix.norm(dim=1).max()
    matrix = torch.zeros(size, shape.hidden_size)
    matrix[slow] = ridge(seen, codes[before])
    attention.k_proj.weight[:size] = 4 * matrix / matrix.norm(dim=1).max()
    attention.q_norm.weight[slow] = MATCH_SHARP
    attention.k_norm.weight[slow] = MATCH_SHARP
    def likeness(rows, target):
        return F.cosine_similarity(seen @ rows[slow].T, target, dim=1).mean().item()
    print(f"layer {at}: codes met to {likeness(attention.q_proj.weight[:size], codes[here]):.2f} now, {likeness(attention.k_proj.weight[:size], codes[before]):.2f} before")
    table = model.embed_tokens.weight
    centred = table - table.mean(0)
    main = torch.linalg.svd(centred[3:], full_matrices=False)[2][:2 * size]
    where = main[:size] if at == MATCH_LAYERS[0] else main[size:]
    value = ridge(seen, centred[here] @ where.T)
    attention.v_proj.weight[:size] = value
    push = torch.cat(residual_end).square().mean().sqrt() * 1.2 / (centred @ where.T @ where).square().mean().sqrt()
    attention.o_proj.weight[:, :size] = push * 0.6 * where.T
    attention.o_proj.weight[:, size:2 * size] = push * 0.6 * where.T


def probe(model, generator):
    """Mean loss on the second half of a repeated random sequence: the ability to copy."""
    once = torch.randint(300, 4000, (60,), generator=generator)
    ids = torch.cat((once, once))
    logits = model(ids[None])
    return F.cross_entropy(logits[60:119], ids[61:]).item()


def main():
    options = argparse.ArgumentParser()
    options.add_argument("--run", default="xs")
    options.add_argument("--kind", choices=KINDS, default="xs", help="of a new run")
    options.add_argument("--seed", type=int, default=7, help="of a new run's first weights")
    options = options.parse_args()
    begin(RUNS / options.run / "latest.pt", options.kind, options.seed)


@torch.no_grad()
def begin(path, kind="xs", seed=7):
    """Sets the heads of the run whose checkpoint `path` is; a new one of that kind where there is none."""
    if path.exists():
        stored = torch.load(path, weights_only=True)
    else:
        torch.manual_seed(seed)
        path.parent.mkdir(parents=True, exist_ok=True)
        stored = {"state": Optimiser(parts.Network(KINDS[kind].shape, KINDS[kind].router)).state, "progress": {"tokens": 0, "told": 0, "made": [], "kind": kind}}
    state, kind = stored["state"], kind_of(stored["progress"])
    model = as_network({name: w.numpy() for name, w in state["master"].items()}, kind.shape, kind.router)
    coder, generator = Tokenizer.from_file(str(TOKENIZER)), torch.Generator().manual_seed(4 + seed)
    samples = []
    for number in range(40):
        rng = random.Random(f"head-start-{number}")
        messages, tools = lesson(rng) if number % 3 == 0 else conversation(rng)[:2]
        samples.append(torch.tensor(encode(coder, messages, tools)[0][:700]))
    samples += [torch.randint(300, 4000, (300,), generator=generator) for _ in range(12)]
    if not state["steps"]:
        share_embeddings(model, coder, generator)
    print("loss on a repeated sequence before:", round(probe(model, generator), 2))
    codes = previous_heads(model, generator)
    for at in MATCH_LAYERS:
        match_heads(model, at, samples, codes)
        print(f"after layer {at}:", round(probe(model, generator), 2))
    for name, weight in model.named_parameters():
        if not torch.equal(weight, state["master"][name]):
            state["master"][name].copy_(weight)
            state["first"][name].zero_()
    torch.save(stored, path)


if __name__ == "__main__":
    main()
