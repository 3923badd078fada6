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
TAUGHT = 0.5  # the teacher's share of the loss on assistant tokens, at temperature 1: its targets are nearly certain
PATIENCE = 600  # seconds until a worker that does not answer ends the run


def loss_of(network, batch, teacher=None):
    """(loss to minimise, plain assistant cross-entropy, share of assistant tokens right, expert load [L, E]).

    With a teacher, half of the loss on assistant tokens is the divergence of the network's distribution from the teacher's.
    """
    logits = network.over_packs(batch)
    each = plain = F.cross_entropy(logits, batch.targets, reduction="none")
    told = batch.weights == 1.0
    if teacher is not None:
        with torch.no_grad():
            known = teacher.over_packs(batch).log_softmax(-1)
        apart = F.kl_div(logits.log_softmax(-1), known, log_target=True, reduction="none").sum(-1)
        each = torch.where(told, (1 - TAUGHT) * plain + TAUGHT * apart, plain)
    loss = (each * batch.weights).sum() / batch.weights.sum()
    routers = [layer.mlp.router_loss for layer in network.layers]
    if network.router == "learned":
        loss = loss + sum(BALANCE * balance + ROUTER_Z * z for balance, z, _ in routers) / len(routers)
    right = (logits.detach().argmax(-1) == batch.targets)[told].float().mean()
    return loss, plain.detach()[told].mean(), right, torch.stack([load for _, _, load in routers])


class Share:
    """One worker's share of a step: its stream, and the network's gradients on the next batch of it."""

    def __init__(self, network, stream, teacher=None):
        self.network, self.stream, self.teacher = network, stream, teacher and teacher.eval()

    def gradients(self, shares):
        """Gradients into the network; (loss, share right, tokens, assistant tokens, packs made so far), expert load [L, E]."""
        self.stream.copy_share, self.stream.choice_share = shares
        batch = self.stream.next()
        loss, plain, right, load = loss_of(self.network, batch, self.teacher)
        loss.backward()
        if self.network.router != "learned":
            for layer in self.network.layers:
                layer.mlp.gate.weight.grad.zero_()
        return [plain.item(), right.item(), len(batch.ids), int((batch.weights == 1.0).sum()), self.stream.made], load


def _serve(network, stream, teacher, buffers, orders):
    """A worker's life: a pair of shares in, figures and load out, the gradients in `buffers`; ends with the pipe."""
    torch.set_num_threads(1)
    compile_pieces()
    share = Share(network, stream, teacher)
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
    """`count` processes, this one among them; `made` [count]: packs that each has made before. The network's weights move into shared memory."""

    def __init__(self, network, count, seed, batch_tokens, made, teacher=None):
        streams = [Stream(f"{seed}-{rank}", batch_tokens, made[rank]) for rank in range(count)]
        for shared in (network, teacher):
            if shared is not None:
                shared.share_memory()
        self.own, self.others = Share(network, streams[0], teacher), []
        context = multiprocessing.get_context("spawn")
        for stream in streams[1:]:
            buffers = [torch.zeros_like(weight).share_memory_() for weight in network.parameters()]
            orders, far = context.Pipe()
            context.Process(target=_serve, args=(network, stream, teacher, buffers, far), daemon=True).start()
            far.close()
            self.others.append((orders, buffers))

    def gradients(self, shares):
        """Mean gradients into the network; (loss, share right), tokens, assistant tokens, the packs that each worker has made, expert load."""
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
        return (sum(losses) / len(results), sum(rights) / len(results)), sum(tokens), sum(told), list(made), load
