"""Proof that packs change the cost of training and nothing else: logits and gradients equal those of every unit on its own.

    python -m distil.check
"""
import random
import sys

import torch
import torch.nn.functional as F

from corpus.scenes import choosing, pack
from distil.network import Network, Shape
from distil.packs import batch
from distil.stream import TOKENIZER, encode_pack

SMALL = Shape(hidden_size=64, num_hidden_layers=3, head_dim=16, moe_intermediate_size=32, num_experts=4)
TOLERANCE = 1e-4  # of float32 sums in another order


def samples(tokenizer):
    """Encoded packs: of single and of longer units, and a lesson with shortened answers."""
    made = [encode_pack(tokenizer, *pack(random.Random(seed), count=5)[:3]) for seed in range(3)]
    return made + [encode_pack(tokenizer, *choosing(random.Random(9), count=6), brief=True)]


def apart(network, packs):
    """Loss and logits with every unit run alone behind its prefix; units in the order of `batch`."""
    loss, logits = 0.0, []
    for prefix, units in packs:
        for ids, weights in sorted(units, key=lambda unit: len(unit[0])):
            rows = [at for at in range(len(ids) - 1) if weights[at + 1]]
            logits.append(network(torch.tensor([prefix + ids]), torch.tensor(rows) + len(prefix)))
            loss = loss + F.cross_entropy(logits[-1], torch.tensor(ids)[torch.tensor(rows) + 1], reduction="sum")
    return loss, torch.cat(logits)


def gradients(network, loss):
    network.zero_grad()
    loss.backward()
    return {name: weight.grad.clone() for name, weight in network.named_parameters()}


def main():
    from tokenizers import Tokenizer

    torch.manual_seed(3)
    network = Network(SMALL)
    with torch.no_grad():
        for weight in network.parameters():
            weight.mul_(4 if weight.dim() > 1 else 1)  # sharp enough that attention and routing differ from token to token
    packs = samples(Tokenizer.from_file(str(TOKENIZER)))
    whole = batch(packs)
    together = network.over_packs(whole)
    loss, alone = apart(network, packs)
    faults = [(together - alone).abs().max().item() / alone.abs().max().item()]
    wanted = gradients(network, loss)
    got = gradients(network, F.cross_entropy(network.over_packs(whole), whole.targets, reduction="sum"))
    faults.append(max(((got[name] - wanted[name]).norm() / (wanted[name].norm() + 1e-9)).item() for name in wanted))
    print(f"{sum(len(units) for _, units in packs)} units in {len(packs)} packs: logits differ by {faults[0]:.1e}, gradients by {faults[1]:.1e} of their size")
    return 1 if max(faults) > TOLERANCE else 0


if __name__ == "__main__":
    sys.exit(main())
