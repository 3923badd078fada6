"""Muon for the matrices, AdamW for embedding, router and norms; float32 masters of a bfloat16 network."""
import torch

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # quintic Newton-Schulz iteration
ROUNDS = 3  # five come nearer, but cost a tenth of the time more here


def orthogonalise(stack, rounds=ROUNDS):
    """Nearest semi-orthogonal matrices, roughly, of a stack [N, rows, columns] with rows <= columns."""
    a, b, c = COEFFICIENTS
    x = (stack / (stack.norm(dim=(1, 2), keepdim=True) + 1e-7)).bfloat16()
    for _ in range(rounds):
        gram = torch.bmm(x, x.transpose(1, 2))
        poly = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, poly, x, beta=a)
    return x.float()


class Optimiser:
    """Steps a bfloat16 network; `state` is a plain dict of tensors for checkpoints."""

    def __init__(self, network, matrix_rate=0.02, vector_rate=3e-3, momentum=0.95, decay=0.01):
        self.rates, self.momentum, self.decay = (matrix_rate, vector_rate), momentum, decay
        self.named = dict(network.named_parameters())
        self.state = {"master": {n: p.detach().float().clone() for n, p in self.named.items()}}
        self.state["first"] = {n: torch.zeros_like(w) for n, w in self.state["master"].items()}
        self.matrices = [n for n in self.named if n.endswith(("_proj", "_proj.weight"))]
        self.vectors = [n for n in self.named if n not in self.matrices]
        self.state["second"] = {n: torch.zeros_like(self.state["master"][n]) for n in self.vectors}
        self.state["steps"] = 0

    @torch.no_grad()
    def take(self, arrays):
        """Sets every weight to the array of its name; the moments stay as they are."""
        for name, weight in self.named.items():
            self.state["master"][name].copy_(torch.tensor(arrays[name]))
            weight.copy_(self.state["master"][name])

    def step(self, scale, spread=map):
        """One step at `scale` of the full rates; gradients are cleared. Returns the gradient norm.

        `spread` maps the jobs of the step, for example over a pool of threads.
        """
        self.state["steps"] += 1
        norm = torch.stack([p.grad.float().norm() for p in self.named.values()]).norm().item()
        clip = min(1.0, 1.0 / (norm + 1e-6))
        jobs = [(self._vectors, scale * self.rates[1], clip, self.vectors)] + [(self._matrices, scale * self.rates[0], 1.0, self.matrices[part::2]) for part in range(2)]
        for _ in spread(self._do, jobs):
            pass
        return norm

    @torch.no_grad()
    def _do(self, job):
        rule, rate, clip, names = job
        rule(rate, clip, names)
        for name in names:
            self.named[name].copy_(self.state["master"][name])
            self.named[name].grad = None

    def _vectors(self, rate, clip, names):
        steps, (slow, fast) = self.state["steps"], (0.9, 0.95)
        for name in names:
            grad = self.named[name].grad.float() * clip
            first, second = self.state["first"][name], self.state["second"][name]
            first.lerp_(grad, 1 - slow)
            second.lerp_(grad.square(), 1 - fast)
            step = (first / (1 - slow**steps)) / ((second / (1 - fast**steps)).sqrt() + 1e-8)
            self.state["master"][name].sub_(step, alpha=rate)

    def _matrices(self, rate, _, names):
        groups = {}
        for name in names:
            grad, moment = self.named[name].grad.float(), self.state["first"][name]
            moment.lerp_(grad, 1 - self.momentum)
            update = grad.lerp(moment, self.momentum)  # Nesterov
            rows, columns = update.shape[-2:]
            if rows > columns:  # gate over up: two square maps, not one tall one
                update = update.view(-1, rows // 2, columns)
            groups.setdefault(update.shape[-2:], []).append((name, update.reshape(-1, *update.shape[-2:])))
        for members in groups.values():
            turned = orthogonalise(torch.cat([update for _, update in members]))
            for (name, update), part in zip(members, turned.split([u.shape[0] for _, u in members])):
                master = self.state["master"][name]
                master.mul_(1 - rate * self.decay).sub_(part.view(master.shape), alpha=rate)
