"""The default model as a lean PyTorch module.

Same arithmetic and the same weight names as transformers' `Qwen3MoeForCausalLM`; written
again because on two CPU cores the dispatch of tokens to experts decides the speed.
`distil.checkpoint.as_transformers` moves the weights over, and a test compares logits.
"""
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import nn


@dataclass(frozen=True)
class Shape:
    """Sizes of the network; names follow transformers' Qwen3MoeConfig."""

    vocab_size: int = 4096
    hidden_size: int = 256
    num_hidden_layers: int = 8
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    head_dim: int = 64
    num_experts: int = 8
    num_experts_per_tok: int = 2
    moe_intermediate_size: int = 256
    rope_theta: float = 1e6
    rms_norm_eps: float = 1e-6
    max_position_embeddings: int = 2048

    def as_dict(self):
        return asdict(self)


class _Dispatch(torch.autograd.Function):
    """Copies each token's row to its place in the expert-sorted order, and sums back in backward."""

    @staticmethod
    def forward(ctx, rows, source, place, choices):
        ctx.save_for_backward(place)
        ctx.choices = choices
        return rows.index_select(0, source)

    @staticmethod
    def backward(ctx, grad):
        (place,) = ctx.saved_tensors
        back = grad.index_select(0, place).view(-1, ctx.choices, grad.shape[1])
        return back.sum(1), None, None, None


class _Collect(torch.autograd.Function):
    """Brings expert-sorted rows back to (token, choice) order; the inverse permutation in backward."""

    @staticmethod
    def forward(ctx, rows, place, order):
        ctx.save_for_backward(order)
        return rows.index_select(0, place)

    @staticmethod
    def backward(ctx, grad):
        (order,) = ctx.saved_tensors
        return grad.index_select(0, order), None, None


class _Pad(torch.autograd.Function):
    """Rows [N, C] -> rows of units padded to one length, and back in backward; what stands on padding has no gradient."""

    @staticmethod
    def forward(ctx, rows, source, place):
        ctx.save_for_backward(place)
        return rows.index_select(0, source)

    @staticmethod
    def backward(ctx, grad):
        (place,) = ctx.saved_tensors
        return grad.index_select(0, place), None, None


class _Unpad(torch.autograd.Function):
    """Padded rows -> the real ones; padding gets a gradient of zero."""

    @staticmethod
    def forward(ctx, rows, place):
        ctx.save_for_backward(place)
        ctx.rows = rows.shape[0]
        return rows.index_select(0, place)

    @staticmethod
    def backward(ctx, grad):
        (place,) = ctx.saved_tensors
        return grad.new_zeros(ctx.rows, grad.shape[1]).index_copy_(0, place, grad), None


class Experts(nn.Module):
    """SwiGLU experts, stacked: gate_up_proj [E, 2I, H] (gate rows first), down_proj [E, H, I]."""

    def __init__(self, shape):
        super().__init__()
        experts, inner, hidden = shape.num_experts, shape.moe_intermediate_size, shape.hidden_size
        self.gate_up_proj = nn.Parameter(torch.empty(experts, 2 * inner, hidden))
        self.down_proj = nn.Parameter(torch.empty(experts, hidden, inner))

    def forward(self, rows, chosen):
        """rows [T, H], chosen [T, k] expert ids -> outputs [T, k, H] before weighting."""
        tokens, choices = chosen.shape
        order = chosen.reshape(-1).argsort(stable=True)
        place = torch.empty_like(order)
        place[order] = torch.arange(order.numel())
        counts = torch.bincount(chosen.reshape(-1), minlength=self.gate_up_proj.shape[0]).tolist()
        gathered = _Dispatch.apply(rows, order // choices, place, choices)
        # unbind, not indexing: its backward stacks once instead of filling E whole tensors
        wide, narrow = self.gate_up_proj.unbind(0), self.down_proj.unbind(0)
        pieces = [F.linear(part, wide[e]) for e, part in enumerate(gathered.split(counts))]
        inner = swiglu(torch.cat(pieces)).split(counts)
        parts = [F.linear(part, narrow[e]) for e, part in enumerate(inner)]
        return _Collect.apply(torch.cat(parts), place, order).view(tokens, choices, -1)


class MoeBlock(nn.Module):
    """Softmax router over all experts, top-k, weights renormalised over the chosen ones."""

    def __init__(self, shape):
        super().__init__()
        self.choices = shape.num_experts_per_tok
        self.gate = nn.Linear(shape.hidden_size, shape.num_experts, bias=False)
        self.experts = Experts(shape)
        self.router_loss = None  # (balance, z, load) of the last forward, for the training loop

    def forward(self, rows):
        with torch.autocast("cpu", enabled=False):
            logits = F.linear(rows.float(), self.gate.weight)
            probabilities = logits.softmax(-1)
            weights, chosen = probabilities.topk(self.choices, dim=-1)
            weights = weights / weights.sum(-1, keepdim=True)
        if self.training:
            experts = probabilities.shape[1]
            load = torch.bincount(chosen.reshape(-1), minlength=experts).float() / chosen.numel()
            balance = experts * (load * probabilities.mean(0)).sum()
            self.router_loss = (balance, logits.logsumexp(-1).square().mean(), load)
        return weigh(self.experts(rows, chosen), weights)


class Attention(nn.Module):
    """Grouped-query attention with RMS norm on every query and key head, and rotary positions."""

    def __init__(self, shape):
        super().__init__()
        self.shape = shape
        queries = shape.num_attention_heads * shape.head_dim
        keys = shape.num_key_value_heads * shape.head_dim
        self.q_proj = nn.Linear(shape.hidden_size, queries, bias=False)
        self.k_proj = nn.Linear(shape.hidden_size, keys, bias=False)
        self.v_proj = nn.Linear(shape.hidden_size, keys, bias=False)
        self.o_proj = nn.Linear(queries, shape.hidden_size, bias=False)
        self.q_norm = nn.RMSNorm(shape.head_dim, eps=shape.rms_norm_eps)
        self.k_norm = nn.RMSNorm(shape.head_dim, eps=shape.rms_norm_eps)

    def forward(self, hidden, cosine, sine):
        """hidden [B, S, H]; cosine and sine [S, head_dim]."""
        batch, length, _ = hidden.shape
        split = (batch, length, -1, self.shape.head_dim)
        eps, scale = self.shape.rms_norm_eps, self.shape.head_dim**-0.5
        query = head_norm_rotate(self.q_proj(hidden).view(split), self.q_norm.weight, eps, cosine, sine, scale)
        key = head_norm_rotate(self.k_proj(hidden).view(split), self.k_norm.weight, eps, cosine, sine, 1.0)
        value = self.v_proj(hidden).view(split).transpose(1, 2)
        # plain products, not the fused kernel, whose backward is the slower one on CPU at these
        # lengths; the query heads of a group lie under one another, so keys are not repeated
        rows = batch * self.shape.num_key_value_heads
        query = query.view(rows, -1, self.shape.head_dim)
        key, value = (t.reshape(rows, length, -1) for t in (key, value))
        scores = torch.bmm(query, key.transpose(1, 2)).view(-1, length, length)
        weights = causal_softmax(scores).view(rows, -1, length)
        mixed = torch.bmm(weights, value).view(batch, -1, length, self.shape.head_dim)
        return self.o_proj(mixed.transpose(1, 2).reshape(batch, length, -1))


    def over_packs(self, hidden, cosine, sine, packs, last):
        """hidden [N, H], cosine and sine [N, 1, head_dim]; every unit sees its pack's prefix and itself.

        `last`: nobody reads what the prefixes come to, so they ask nothing.
        """
        shape, size = self.shape, self.shape.head_dim
        keyed, eps = shape.num_key_value_heads, shape.rms_norm_eps
        query = rows_norm_rotate(self.q_proj(hidden).view(len(hidden), -1, size), self.q_norm.weight, eps, cosine, sine, size**-0.5)
        key = rows_norm_rotate(self.k_proj(hidden).view(len(hidden), -1, size), self.k_norm.weight, eps, cosine, sine, 1.0)
        query, key, value = query.flatten(1), key.flatten(1), self.v_proj(hidden)
        widths = [part for pack in packs for part in (pack.prefix, *(len(group.place) for group in pack.groups))]
        pieces = iter(zip(query.split(widths), key.split(widths), value.split(widths)))
        mixed = []
        for pack in packs:
            asked, known, told = next(pieces)
            length = pack.prefix
            known = known.view(length, keyed, size).transpose(0, 1).contiguous()
            told = told.view(length, keyed, size).transpose(0, 1).contiguous()
            if last:
                mixed.append(torch.zeros_like(asked))
            else:
                asked = asked.view(length, -1, size).transpose(0, 1).reshape(keyed, -1, size)
                weights = causal_softmax(torch.bmm(asked, known.transpose(1, 2)).view(-1, length, length)).view(keyed, -1, length)
                mixed.append(torch.bmm(weights, told).view(-1, length, size).transpose(0, 1).reshape(length, -1))
            for group in pack.groups:
                mixed.append(self._units(*next(pieces), known, told, group))
        return self.o_proj(torch.cat(mixed))

    def _units(self, query, key, value, known, told, group):
        """Rows [M, ...] of one group's units; known and told [K, P, D] of their prefix."""
        keyed, size, (units, length) = self.shape.num_key_value_heads, self.shape.head_dim, group.shape
        query, key, value = (_Pad.apply(rows, group.source, group.place) for rows in (query, key, value))
        query = query.view(units, length, keyed, -1, size).permute(2, 0, 3, 1, 4).contiguous()  # [K, U, G, T, D]
        shared = query.shape[2]
        key, value = (rows.view(units, length, keyed, size).permute(2, 0, 1, 3).reshape(-1, length, size) for rows in (key, value))
        far = torch.bmm(query.view(keyed, -1, size), known.transpose(1, 2))
        near = torch.bmm(query.view(-1, shared * length, size), key.transpose(1, 2))
        far, near = two_part_softmax(far.view(-1, length, far.shape[-1]), near.view(-1, length, length))
        mixed = torch.bmm(far.view(keyed, -1, far.shape[-1]), told).view(-1, shared * length, size) + torch.bmm(near.view(-1, shared * length, length), value)
        mixed = mixed.view(keyed, units, shared, length, size).permute(1, 3, 0, 2, 4).reshape(units * length, -1)
        return _Unpad.apply(mixed, group.place)


def fused(function):
    """Compiled where training asks for it (see `compile_pieces`); plain otherwise."""
    def call(*arguments):
        return _pieces.get(function.__name__, function)(*arguments)
    call.plain = function
    return call


_pieces = {}


def compile_pieces():
    """Fuses the element-wise pieces; the matrix products between them stay with the library."""
    for piece in (head_norm_rotate, rows_norm_rotate, causal_softmax, two_part_softmax, swiglu, weigh, rms_norm):
        _pieces[piece.plain.__name__] = torch.compile(piece.plain, dynamic=True)


@fused
def rms_norm(hidden, weight, eps):
    wide = hidden.float()
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)).to(weight.dtype) * weight


@fused
def head_norm_rotate(heads, weight, eps, cosine, sine, scale):
    """heads [B, S, N, D] -> normed, rotated, scaled [B, N, S, D]."""
    wide = heads.float()
    wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps) * weight * scale
    return rotate(wide.transpose(1, 2), cosine, sine).to(heads.dtype).contiguous()


@fused
def causal_softmax(scores):
    """scores [R, S, S]: softmax over the past and present of every row."""
    length = scores.shape[-1]
    steps = torch.arange(length)
    wide = scores.float().masked_fill(steps[None, :] > steps[:, None], float("-inf"))
    return wide.softmax(-1).to(scores.dtype)


@fused
def rows_norm_rotate(heads, weight, eps, cosine, sine, scale):
    """heads [N, h, D], cosine and sine [N, 1, D] -> normed, rotated, scaled."""
    wide = heads.float()
    wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps) * weight * scale
    return rotate(wide, cosine, sine).to(heads.dtype)


@fused
def two_part_softmax(far, near):
    """far [R, T, P] seen whole, near [R, T, T] seen up to the diagonal: one softmax over both, in two parts."""
    length = near.shape[-1]
    steps = torch.arange(length)
    near = near.float().masked_fill(steps[None, :] > steps[:, None], float("-inf"))
    wide = far.float()
    top = torch.maximum(wide.amax(-1, keepdim=True), near.amax(-1, keepdim=True))
    wide, near = (wide - top).exp(), (near - top).exp()
    share = 1.0 / (wide.sum(-1, keepdim=True) + near.sum(-1, keepdim=True))
    return (wide * share).to(far.dtype), (near * share).to(far.dtype)


@fused
def swiglu(gate_up):
    gate, up = gate_up.chunk(2, dim=-1)
    return (F.silu(gate.float()) * up).to(gate_up.dtype)


@fused
def weigh(outputs, weights):
    """outputs [T, k, H] times weights [T, k], summed over k."""
    return (outputs.float() * weights.unsqueeze(-1)).sum(1).to(outputs.dtype)


def rotate(heads, cosine, sine):
    """Rotary embedding in the half-split form: heads [B, N, S, D]."""
    first, second = heads.chunk(2, dim=-1)
    turned = torch.cat((-second, first), dim=-1)
    return heads * cosine + turned * sine


def rotary_tables(shape, length, dtype=torch.float32):
    """Cosine and sine, each [length, head_dim], halves repeated."""
    exponent = torch.arange(0, shape.head_dim, 2, dtype=torch.float32) / shape.head_dim
    angles = torch.arange(length, dtype=torch.float32)[:, None] / shape.rope_theta**exponent
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def normed(norm, hidden):
    return rms_norm(hidden, norm.weight, norm.eps)


class Layer(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.input_layernorm = nn.RMSNorm(shape.hidden_size, eps=shape.rms_norm_eps)
        self.self_attn = Attention(shape)
        self.post_attention_layernorm = nn.RMSNorm(shape.hidden_size, eps=shape.rms_norm_eps)
        self.mlp = MoeBlock(shape)


class Network(nn.Module):
    """Embedding, layers, final norm; the head is the embedding (tied)."""

    def __init__(self, shape=Shape(), router="learned"):
        """router: `learned`, or what `distil.kinds` says of others."""
        super().__init__()
        self.shape, self.router = shape, router
        self.embed_tokens = nn.Embedding(shape.vocab_size, shape.hidden_size)
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.num_hidden_layers))
        self.norm = nn.RMSNorm(shape.hidden_size, eps=shape.rms_norm_eps)
        cosine, sine = rotary_tables(shape, shape.max_position_embeddings)
        self.register_buffer("cosine", cosine, persistent=False)
        self.register_buffer("sine", sine, persistent=False)
        self.initialise()

    def initialise(self):
        for name, weight in self.named_parameters():
            if weight.dim() > 1:
                spread = 0.02
                if name.endswith(("o_proj.weight", "down_proj")):
                    spread /= (2 * self.shape.num_hidden_layers) ** 0.5
                nn.init.normal_(weight, std=spread)
        if self.router == "even":
            for layer in self.layers:
                nn.init.zeros_(layer.mlp.gate.weight)

    def half_width(self):
        """In bfloat16, but for the routers."""
        self.bfloat16()
        for layer in self.layers:
            layer.mlp.gate.float()
        return self

    def forward(self, ids, wanted=None, places=None):
        """ids [B, S]; wanted: flat positions whose logits are needed (all when None); places [S]: where the tokens stand, one behind the other when None.

        Returns logits [len(wanted) or B*S, V] in float32. The last layer's experts and the
        head run on the wanted positions only: nobody reads the others.
        """
        length = ids.shape[1]
        hidden = self.embed_tokens(ids)
        width = hidden.shape[-1]
        places = slice(length) if places is None else places
        cosine, sine = self.cosine[places], self.sine[places]
        for layer in self.layers:
            hidden = hidden + layer.self_attn(normed(layer.input_layernorm, hidden), cosine, sine)
            if layer is self.layers[-1]:
                hidden = hidden.reshape(-1, width)
                hidden = hidden if wanted is None else hidden.index_select(0, wanted)
            flat = normed(layer.post_attention_layernorm, hidden).reshape(-1, width)
            hidden = hidden + layer.mlp(flat).view(hidden.shape)
        return F.linear(normed(self.norm, hidden), self.embed_tokens.weight).float()

    def over_packs(self, batch):
        """Logits [len(batch.wanted), V] of a `distil.packs.Batch`: the same arithmetic as `forward` on every unit behind its prefix."""
        hidden = self.embed_tokens(batch.ids)
        cosine, sine = self.cosine[batch.positions][:, None], self.sine[batch.positions][:, None]
        for layer in self.layers:
            last = layer is self.layers[-1]
            hidden = hidden + layer.self_attn.over_packs(normed(layer.input_layernorm, hidden), cosine, sine, batch.packs, last)
            hidden = hidden.index_select(0, batch.wanted) if last else hidden
            hidden = hidden + layer.mlp(normed(layer.post_attention_layernorm, hidden))
        return F.linear(normed(self.norm, hidden), self.embed_tokens.weight).float()
