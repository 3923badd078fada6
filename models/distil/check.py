"""Proof that packs change the cost of training and nothing else: logits and gradients equal those of every unit on its own.
Also: a teacher who is the network itself teaches nothing, another one does; and a dense network is what its name says.

    python -m distil.check
"""
import random
import sys

import torch
import torch.nn.functional as F

from corpus.scenes import choosing, pack
from distil.network import MoeBlock, Network, Shape
from distil.packs import batch, stretched
from distil.stream import TOKENIZER, encode_pack
from distil.workers import TAUGHT, loss_of

SMALL = Shape(hidden_size=64, num_hidden_layers=3, head_dim=16, moe_intermediate_size=32, num_experts=4)
TOLERANCE = 1e-4  # of float32 sums in another order


def samples(tokenizer):
    """Encoded packs: of single and of longer units, one with places left out, and a lesson with shortened answers."""
    made = [encode_pack(tokenizer, *pack(random.Random(seed), count=5)[:3]) for seed in range(3)]
    made[1] = (*made[1], stretched(random.Random(5), len(made[1][0]), 300))
    return made + [encode_pack(tokenizer, *choosing(random.Random(9), count=6), brief=True)]


def apart(network, packs):
    """Loss and logits with every unit run alone behind its prefix; units in the order of `batch`."""
    loss, logits = 0.0, []
    for prefix, units, *places in packs:
        places = places[0] if places else list(range(len(prefix) + 1))
        for ids, weights in sorted(units, key=lambda unit: len(unit[0])):
            rows = [at for at in range(len(ids) - 1) if weights[at + 1]]
            stand = torch.tensor(places[:-1] + list(range(places[-1], places[-1] + len(ids))))
            logits.append(network(torch.tensor([prefix + ids]), torch.tensor(rows) + len(prefix), stand))
            loss = loss + F.cross_entropy(logits[-1], torch.tensor(ids)[torch.tensor(rows) + 1], reduction="sum")
    return loss, torch.cat(logits)


def gradients(network, loss):
    network.zero_grad()
    loss.backward()
    return {name: weight.grad.clone() for name, weight in network.named_parameters()}


def taught(network, whole):
    """(loss that the network as its own teacher takes away, share of it; the same of a teacher with other weights): (0.5, less)."""
    torch.manual_seed(4)
    other = Network(SMALL, "even").eval()
    network.router = "even"  # no router's loss
    plain, own, others = (loss_of(network, whole, teacher)[0].item() for teacher in (None, network, other))
    told = whole.weights == 1.0
    each = F.cross_entropy(network.over_packs(whole), whole.targets, reduction="none")
    expected = plain - TAUGHT * (each * told).sum().item() / whole.weights.sum().item()
    return abs(own - expected) / plain, others > own + 1e-3


def dense(rows):
    """How far experts that all take part at equal weights are from one network of their width: relative."""
    block = MoeBlock(Shape(hidden_size=64, moe_intermediate_size=32, num_experts=4, num_experts_per_tok=4)).eval()
    for weight in block.parameters():
        torch.nn.init.normal_(weight, std=0.1)
    torch.nn.init.zeros_(block.gate.weight)
    wide, narrow = block.experts.gate_up_proj, block.experts.down_proj
    gate, up = wide[:, :32].reshape(-1, 64), wide[:, 32:].reshape(-1, 64)
    wanted = (F.silu(rows @ gate.T) * (rows @ up.T)) @ narrow.permute(0, 2, 1).reshape(-1, 64) / 4
    return ((block(rows) - wanted).abs().max() / wanted.abs().max()).item()


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
    print(f"{sum(len(units) for _, units, *_ in packs)} units in {len(packs)} packs: logits differ by {faults[0]:.1e}, gradients by {faults[1]:.1e} of their size")
    itself, another = taught(network, whole)
    print(f"its own teacher: loss off by {itself:.1e} of its size; another teacher's loss is {'larger' if another else 'NOT larger'}")
    faults += [itself, dense(torch.randn(50, 64)), 0.0 if another else 1.0]
    for places in (stretched(random.Random(seed), 40, 60) for seed in range(200)):
        if len(places) != 41 or places[0] != 0 or places[-1] > 100 or any(b <= a for a, b in zip(places, places[1:])):
            faults.append(1.0)
            print("stretched places out of order:", places)
    print(f"experts that all take part: off by {faults[3]:.1e} from one dense network")
    return 1 if max(faults) > TOLERANCE else 0


if __name__ == "__main__":
    sys.exit(main())
