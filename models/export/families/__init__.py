"""Tiny random models of the families that the daemon drives: checkpoints, exports, references and their proof.

    python -m export.families [--write] [--only NAME ...]

Everything is made again from seeds: the checkpoint, the graph, the greedy answers of PyTorch. Without `--write` the
committed folders under `families/` must come out the same; with it they are replaced, each only after its graph was compared with
its source.
"""
