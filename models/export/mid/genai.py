"""The same weights through onnxruntime-genai's own builder, in int4 with its defaults, for genai's row.

    python -m export.mid.genai --out FOLDER

The builder has no Qwen3-MoE; what it has for other families is put together here, and nothing of ours goes in.
"""
import argparse
import os
import pathlib
import shutil
import tempfile

import torch
import transformers

from distil.checkpoint import configuration
from export.mid import checkpoint

os.environ["HF_HUB_OFFLINE"] = "1"


def save(folder, tokenizer):
    """The checkpoint as transformers stores it."""
    shape = checkpoint.SHAPE
    with torch.device("meta"):
        model = transformers.Qwen3MoeForCausalLM(transformers.Qwen3MoeConfig(**configuration(shape) | {"bos_token_id": 0}))
    state = {"model." + name: torch.from_numpy(array).half() for name, array in checkpoint.weights().items()}
    state["lm_head.weight"] = state["model.embed_tokens.weight"]
    model.load_state_dict(state, strict=True, assign=True)
    model.save_pretrained(folder)
    for path in tokenizer.iterdir():
        shutil.copy(path, folder)


def build(source, out):
    """Runs the builder with a class for this family in place of the dense one."""
    from onnxruntime_genai.models import builder
    from onnxruntime_genai.models.builders.qwen import Qwen3Model, Qwen35MoETextModel

    class Qwen3Moe(Qwen3Model):
        def __init__(self, config, *rest):
            super().__init__(config, *rest)
            self.moe_intermediate_size = config.moe_intermediate_size
            self.moe_attrs.update(activation_type="swiglu", swiglu_fusion=1, normalize_routing_weights=bool(config.norm_topk_prob))

        make_moe_router = Qwen35MoETextModel.make_moe_router

        def get_moe_module(self, _, layer):
            return layer.mlp

        def make_moe_preprocessing(self, layer, moe, _):
            moe.gate.exclude_from_quantization = True
            self.make_interleaved_swiglu_moe_preprocessing(layer, moe)

        def make_moe_subgraph(self, layer, moe, root_input):
            base, operator, names = f"/model/layers.{layer}/moe", self.moe_attrs["op_type"], self.make_moe_expert_names(layer)
            scales = {"scales1": names["gate_up_scales"], "scales2": names["down_scales"]} if operator == "QMoE" else {}
            self.make_moe_op(f"{base}/{operator}", root_input=root_input, router_probs=f"{base}/router/Reshape/output_0", weight1=names["gate_up_weight"], bias1=names["gate_up_bias"],
                             weight2=names["down_weight"], bias2=names["down_bias"], **scales)
            self.layernorm_attrs["skip_input"] = f"{base}/{operator}/output_0"

    real = transformers.AutoConfig.from_pretrained

    class AsDense:
        """The builder chooses its class by this name."""

        @staticmethod
        def from_pretrained(*arguments, **options):
            found = real(*arguments, **options)
            config = found[0] if isinstance(found, tuple) else found
            config.architectures = ["Qwen3ForCausalLM"]
            return found

    builder.Qwen3Model, builder.AutoConfig = Qwen3Moe, AsDense
    options = builder.parse_extra_options("", str(source), str(out), "int4", "cpu", str(source / "cache"), [], builder_config_version=None, target_options=None, drafter_options=None,
                                          speculative_options=None, runtime_config=None, search=None)
    builder.create_model("", str(source), str(out), "int4", "cpu", str(source / "cache"), **options)


def main():
    options = argparse.ArgumentParser()
    options.add_argument("--out", type=pathlib.Path, required=True)
    options = options.parse_args()
    with tempfile.TemporaryDirectory(dir=options.out.parent) as folder:
        save(pathlib.Path(folder), options.out.parent / "tokenizer")
        partial = pathlib.Path(folder) / "built"
        build(pathlib.Path(folder), partial)
        partial.rename(options.out)


if __name__ == "__main__":
    main()
