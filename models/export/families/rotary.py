"""Rotary position tables, as GroupQueryAttention or a spelled-out attention takes them."""
import numpy as np


def tables(graph):
    """Adds `cos_cache` and `sin_cache` [positions, d / 2]; with a position input also `cosines` and `sines` [B, 1, S, d] of the new tokens."""
    kind = graph.shape.rope.get("rope_type", "default")
    if kind not in ("default", "mrope"):
        raise ValueError(f"positions of type `{kind}` are not written")
    graph.rotary()
    if graph.form.positions == 2:
        for table, name in (("cos_cache", "cosines"), ("sin_cache", "sines")):
            _both_halves(graph, graph.node("Gather", [table, "position_ids"], f"/rotary/{name}"), name)
    elif graph.form.positions == 3:
        _sections(graph)


def _sections(graph):
    """Rank 3: of each head's pairs the first few turn by the first row of positions (time), then the second (height), then the third (width)."""
    sizes = graph.shape.rope["mrope_section"]
    if sum(sizes) != graph.shape.head_dim // 2:
        raise ValueError(f"`mrope_section` {sizes} does not cover {graph.shape.head_dim // 2} pairs")
    rows = ["/rotary/time", "/rotary/height", "/rotary/width"]
    graph.node("Split", ["position_ids"], "/rotary/rows", rows, axis=0, num_outputs=3)
    for table, name in (("cos_cache", "cosines"), ("sin_cache", "sines")):
        parts, first = [], 0
        for row, size in zip(rows, sizes):
            flat = graph.node("Squeeze", [row, graph.numbers(0)], f"{row}/{name}/flat")
            taken = graph.node("Gather", [table, flat], f"{row}/{name}")
            parts.append(graph.node("Slice", [taken, graph.numbers(first), graph.numbers(first + size), graph.numbers(2)], f"{row}/{name}/pairs"))
            first += size
        _both_halves(graph, graph.node("Concat", parts, f"/rotary/{name}", axis=-1), name)


def _both_halves(graph, angles, name):
    """[B, S, d / 2] -> `name` [B, 1, S, d]."""
    twice = graph.node("Concat", [angles, angles], f"/rotary/{name}/twice", axis=-1)
    graph.node("Unsqueeze", [twice, graph.numbers(1)], f"/rotary/{name}/wide", [name])
