"""Processes that share one network's weights: each makes batches of its own and takes their gradients, one meeting a step.

Threads inside every product would meet thousands of times a step, and on a machine with other work each meeting waits for
the thread that was put aside. Threads with a replica each wait for the interpreter's lock between the many small pieces
of a step: two of them did 1.2 times the work of one, two processes do 1.8 times.
"""
import torch
import torch.nn.functional as F
from torch import multiprocessing

from distil.network import compile_pieces
from distil.stream import Stream

BALANCE, ROUTER_Z = 0.01, 1e-3
PATIENCE = 600  # seconds until a worker that does not answer ends the run


def loss_of(network, batch):
    """(loss to minimise, plain assistant cross-entropy, share of assistant tokens right, expert load [L, E])."""
    logits = network.over_packs(batch)
    each = F.cross_entropy(logits, batch.targets, reduction="none")
    told = batch.weights == 1.0
    loss = (each * batch.weights).sum() / batch.weights.sum()
    routers = [layer.mlp.router_loss for layer in network.layers]
    extra = sum(BALANCE * balance + ROUTER_Z * z for balance, z, _ in routers) / len(routers)
    right = (logits.detach().argmax(-1) == batch.targets)[told].float().mean()
    return loss + extra, each.detach()[told].mean(), right, torch.stack([load for _, _, load in routers])


class Share:
    """One worker's share of a step: its stream, and the network's gradients on the next batch of it."""

    def __init__(self, network, stream):
        self.network, self.stream = network, stream

    def gradients(self, shares):
        """Gradients into the network; (loss, share right, tokens, assistant tokens, packs made so far), expert load [L, E]."""
        self.stream.copy_share, self.stream.choice_share = shares
        batch = self.stream.next()
        loss, plain, right, load = loss_of(self.network, batch)
        loss.backward()
        return [plain.item(), right.item(), len(batch.ids), int((batch.weights == 1.0).sum()), self.stream.made], load


def _serve(network, stream, buffers, orders):
    """A worker's life: a pair of shares in, figures and load out, the gradients in `buffers`; ends with the pipe."""
    torch.set_num_threads(1)
    compile_pieces()
    share = Share(network, stream)
    try:
        while True:
            figures, load = share.gradients(orders.recv())
            for weight, buffer in zip(network.parameters(), buffers):
                buffer.copy_(weight.grad)
                weight.grad = None
            orders.send((figures, load.tolist()))
    except EOFError:
        pass


class Workers:
    """`count` processes, this one among them. The network's weights move into shared memory."""

    def __init__(self, network, count, seed, batch_tokens, made):
        streams = [Stream(f"{seed}-{rank}", batch_tokens, made) for rank in range(count)]
        network.share_memory()
        self.own, self.others = Share(network, streams[0]), []
        context = multiprocessing.get_context("spawn")
        for stream in streams[1:]:
            buffers = [torch.zeros_like(weight).share_memory_() for weight in network.parameters()]
            orders, far = context.Pipe()
            context.Process(target=_serve, args=(network, stream, buffers, far), daemon=True).start()
            far.close()
            self.others.append((orders, buffers))

    def gradients(self, shares):
        """Mean gradients into the network; (loss, share right), tokens, assistant tokens, the most packs that one worker has made, expert load."""
        for orders, _ in self.others:
            orders.send(shares)
        results = [self.own.gradients(shares)]
        weights = list(self.own.network.parameters())
        for orders, buffers in self.others:
            if not orders.poll(PATIENCE):
                raise TimeoutError(f"a worker has not answered for {PATIENCE} s")
            figures, load = orders.recv()
            results.append((figures, torch.tensor(load)))
            for weight, buffer in zip(weights, buffers):
                weight.grad.add_(buffer)
        for weight in weights:
            weight.grad.div_(len(results))
        losses, rights, tokens, told, made = zip(*(figures for figures, _ in results))
        load = sum(load for _, load in results) / len(results)
        return (sum(losses) / len(results), sum(rights) / len(results)), sum(tokens), sum(told), max(made), load
