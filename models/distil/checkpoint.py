"""Reads checkpoints of a training run and turns them into the transformers model.

    python -m distil.checkpoint --save DIR [--checkpoint FILE]   # safetensors, config, tokenizer, template
"""
import argparse
import pathlib
import shutil

import numpy as np
import torch

from corpus.tokenizer import write_configuration
from distil.kinds import KINDS, kind_of
from distil.network import Network, Shape

RUNS = pathlib.Path(__file__).parents[1] / ".runs"


def weights(path):
    """(name -> float32 array, progress) of a checkpoint of distil.train."""
    stored = torch.load(path, weights_only=True)
    return {name: tensor.float().numpy() for name, tensor in stored["state"]["master"].items()}, stored["progress"]


def shippable(path):
    """As `weights`, of a checkpoint of the default model; SystemExit for a control, whose tensors may look the same and mean another network."""
    named, progress = weights(path)
    if kind_of(progress) is not KINDS["xs"]:
        raise SystemExit(f"{path} is a control of kind {progress['kind']}, which is not exported")
    return named, progress


def restore(path):
    """The network of a checkpoint, in float32."""
    named, progress = weights(path)
    kind = kind_of(progress)
    return as_network(named, kind.shape, kind.router)


def random_weights(seed=1):
    """Weights of the real shapes with nothing learned, for tests of the machinery."""
    torch.manual_seed(seed)
    return {name: p.detach().float().numpy() for name, p in Network().named_parameters()}


def newest(run="xs"):
    """final.pt if the run has ended, else latest.pt."""
    final = RUNS / run / "final.pt"
    return final if final.exists() else RUNS / run / "latest.pt"


def configuration(shape=Shape()):
    """Arguments of transformers' Qwen3MoeConfig."""
    sizes = shape.as_dict()
    return sizes | dict(intermediate_size=2 * sizes["moe_intermediate_size"], norm_topk_prob=True, tie_word_embeddings=True, decoder_sparse_step=1, mlp_only_layers=[],
                        use_sliding_window=False, attention_bias=False, hidden_act="silu", bos_token_id=None, eos_token_id=2, pad_token_id=0, router_aux_loss_coef=0.01)


def as_transformers(named, shape=Shape()):
    """Qwen3MoeForCausalLM in float32 with these weights; every weight must find its place."""
    import transformers

    model = transformers.Qwen3MoeForCausalLM(transformers.Qwen3MoeConfig(**configuration(shape)))
    state = {("model." + name): torch.from_numpy(np.array(array)) for name, array in named.items()}
    state["lm_head.weight"] = state["model.embed_tokens.weight"]
    model.load_state_dict(state, strict=True)
    return model.float().eval()


def as_network(named, shape=Shape(), router="learned"):
    """The lean module in float32 with these weights."""
    network = Network(shape, router)
    network.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in named.items()}, strict=True)
    return network.eval()


def main():
    options = argparse.ArgumentParser()
    options.add_argument("--save", type=pathlib.Path, required=True)
    options.add_argument("--checkpoint", type=pathlib.Path)
    options = options.parse_args()
    as_transformers(shippable(options.checkpoint or newest())[0]).save_pretrained(options.save)
    shutil.copy(RUNS.parent / "default" / "tokenizer.json", options.save / "tokenizer.json")
    write_configuration(options.save)


if __name__ == "__main__":
    main()
