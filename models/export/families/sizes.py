"""What the graph writer asks of a checkpoint, whatever its family calls it."""
from types import SimpleNamespace


def shape(config):
    """Sizes and factors of a text config."""
    heads = config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    return SimpleNamespace(
        vocab_size=config.vocab_size, hidden_size=config.hidden_size, num_hidden_layers=config.num_hidden_layers, num_attention_heads=heads,
        num_key_value_heads=config.num_key_value_heads, head_dim=size, rms_norm_eps=config.rms_norm_eps, rope=config.rope_parameters, rope_theta=config.rope_parameters["rope_theta"],
        max_position_embeddings=config.max_position_embeddings, num_experts=count(config, "num_experts", "num_local_experts", "n_routed_experts"),
        num_experts_per_tok=count(config, "num_experts_per_tok"), moe_intermediate_size=count(config, "moe_intermediate_size", "intermediate_size"), window=window(config),
        routed_scale=getattr(config, "routed_scaling_factor", 1.0), attention_scale=float(getattr(config, "attention_multiplier", size**-0.5)), embedding_scale=getattr(config, "embedding_multiplier", 1.0),
        residual_scale=getattr(config, "residual_multiplier", 1.0), logits_scale=1 / getattr(config, "logits_scaling", 1.0))


def count(config, *names):
    """The first of these that the config has."""
    return next((value for name in names if (value := getattr(config, name, None))), None)


def window(config):
    """Tokens that every layer looks back, -1: all. Raises ValueError where layers differ."""
    size = getattr(config, "sliding_window", None)
    kinds = set(getattr(config, "layer_types", None) or (["sliding_attention"] if size else ["full_attention"]))
    if len(kinds) > 1:
        raise ValueError(f"layers of several kinds: {sorted(kinds)}")
    if not kinds <= {"sliding_attention", "full_attention", "attention"}:
        raise ValueError(f"layers of type {sorted(kinds)} are not written")
    return size if kinds == {"sliding_attention"} else -1


def weights(model):
    """Name -> float32 array: the text part, without a second copy of tied embeddings, Granite's names turned into the others'."""
    found = {}
    for name, tensor in model.state_dict().items():
        tied = name == "lm_head.weight" and model.config.tie_word_embeddings
        if tied or name.startswith("model.visual."):
            continue
        name = name.removeprefix("model.").removeprefix("language_model.")
        name = name.replace("block_sparse_moe.router.", "mlp.gate.").replace("block_sparse_moe.", "mlp.")
        name = name.replace("shared_mlp.output_linear", "mlp.shared_experts.down_proj")
        array = tensor.float().numpy()
        if "shared_mlp.input_linear" in name:
            half = array.shape[0] // 2
            for which, part in (("gate", array[:half]), ("up", array[half:])):
                found[name.replace("shared_mlp.input_linear", f"mlp.shared_experts.{which}_proj")] = part
        else:
            found[name] = array
    return found
