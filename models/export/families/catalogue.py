"""The families: one row each, with what makes it different."""
from dataclasses import dataclass, field

from export.families.checkpoint import SMALL

MOE = dict(num_experts=8, num_experts_per_tok=2, moe_intermediate_size=32, intermediate_size=96, norm_topk_prob=True)
DENSE = dict(intermediate_size=128)
LLAMA3 = dict(rope_type="llama3", rope_theta=5e5, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64)
DEEPSEEK = dict(moe_intermediate_size=32, intermediate_size=96, n_routed_experts=8, n_shared_experts=1, num_experts_per_tok=2, first_k_dense_replace=1, n_group=1, topk_group=1,
                norm_topk_prob=True, routed_scaling_factor=2.5, sliding_window=None)
GRANITE = dict(intermediate_size=32, shared_intermediate_size=64, num_local_experts=8, num_experts_per_tok=2, layer_types=["attention", "attention"], position_embedding_type="rope")
LINEAR = dict(linear_num_value_heads=4, linear_num_key_heads=2, linear_key_head_dim=16, linear_value_head_dim=16, linear_conv_kernel_dim=4)


@dataclass(frozen=True)
class Family:
    """What to make and how."""

    name: str
    architecture: str
    config_class: str
    config: dict
    seed: int
    about: str = ""
    stock: bool = True
    options: dict = field(default_factory=dict)  # of the exporter
    precision: str = "fp32"
    provider: str = "cpu"  # the stock exporter's target
    hugging_face: bool = False  # `onnx/model.onnx` and `config.json` instead of `genai_config.json`
    external: str = ""  # name of the file that holds the weights, if they are not in the graph's
    shares: bool = True  # past and present may be one buffer
    generator: bool = True  # onnxruntime-genai's generator runs it
    flat: bool = True  # the config has no nested text config
    eos: tuple = (258, 256)
    tolerance: float = 1e-4  # largest logit difference to PyTorch
    gain: float = 6.0  # spread of the logits: wide enough that the best token leads clearly
    margin: float = 1e-3  # the best token's least lead at every step of every reference


FAMILIES = [
    Family("qwen3", "Qwen3ForCausalLM", "Qwen3Config", DENSE | dict(head_dim=16, rope_theta=1e6), 1, "dense, norms of query and key"),
    Family("qwen2", "Qwen2ForCausalLM", "Qwen2Config", DENSE, 2, "dense, biases (the Qwen distills of DeepSeek-R1)"),
    Family("llama", "LlamaForCausalLM", "LlamaConfig", DENSE | dict(rope_parameters=LLAMA3), 3,
           "dense, scaled rotary positions (the Llama distills of DeepSeek-R1), five end tokens, some of them met", eos=(258, 256, 44, 101, 200)),
    Family("llama-fp16", "LlamaForCausalLM", "LlamaConfig", DENSE, 4, "the stock exporter's graph for CUDA: weights, caches and logits in half precision",
           precision="fp16", provider="cuda", tolerance=1e-1, margin=1e-1),
    Family("qwen3-pruned", "Qwen3ForCausalLM", "Qwen3Config", DENSE | dict(head_dim=16), 15, "pruned head: logits [B, 1, V] of the last position only", options=dict(prune_lm_head="true")),
    Family("gpt-oss", "GptOssForCausalLM", "GptOssConfig", dict(head_dim=16, intermediate_size=32, num_local_experts=8, num_experts_per_tok=2, sliding_window=16), 6,
           "attention sinks, experts with biases, a window cache beside a full one"),
    Family("lfm2-moe", "Lfm2MoeForCausalLM", "Lfm2MoeConfig",
           MOE | dict(moe_intermediate_size=16, num_hidden_layers=3, num_dense_layers=1, layer_types=["conv", "full_attention", "conv"], use_expert_bias=True), 7,
           "convolution states beside a key/value cache, sigmoid router with bias"),
    Family("qwen35-moe", "Qwen3_5MoeForConditionalGeneration", "Qwen3_5MoeConfig",
           dict(text_config=SMALL | MOE | LINEAR | dict(head_dim=16, shared_expert_intermediate_size=32, layer_types=["linear_attention", "full_attention"],
                                                        rope_parameters=dict(rope_type="default", rope_theta=1e6, partial_rotary_factor=0.5, mrope_section=[2, 1, 1], mrope_interleaved=True)),
                vision_config=dict(depth=1, hidden_size=32, intermediate_size=64, num_heads=2, out_hidden_size=64)), 37,
           "convolution and recurrent states, shared expert, `position_ids` [3, B, S]", flat=False, gain=4.0),
    Family("concat", "LlamaForCausalLM", "LlamaConfig", DENSE, 8, "Hugging Face layout; concatenating cache, `position_ids` [B, S], `num_logits_to_keep`",
           stock=False, options=dict(concat=True, positions=2, keep=True), hugging_face=True, shares=False),
    Family("concat-external", "Qwen2ForCausalLM", "Qwen2Config", DENSE | dict(tie_word_embeddings=True), 9, "Hugging Face layout; concatenating half-precision cache, weights in `model.onnx_data`, tied embeddings",
           stock=False, options=dict(concat=True, positions=2, cache="FLOAT16"), hugging_face=True, shares=False, external="model.onnx_data", tolerance=5e-2, margin=5e-2),
    Family("qwen3-moe", "Qwen3MoeForCausalLM", "Qwen3MoeConfig", MOE | dict(head_dim=16), 10, "softmax router, 2 of 8 experts, `query_seqlens`",
           stock=False, options=dict(query_seqlens=True), generator=False),
    Family("deepseek-routing", "Dots1ForCausalLM", "Dots1Config", DEEPSEEK | dict(head_dim=16), 11,
           "DeepSeek's routing on grouped-query attention: sigmoid gate with balancing bias, shared expert, first layer dense; `query_seqlens`",
           stock=False, options=dict(query_seqlens=True), generator=False),
    Family("granite-moe", "GraniteMoeHybridForCausalLM", "GraniteMoeHybridConfig", GRANITE | dict(embedding_multiplier=2.0, residual_multiplier=0.75, attention_multiplier=0.3, logits_scaling=1.25), 18,
           "Granite's routed and shared experts (the stock exporter drops the routed ones), its multipliers; `query_seqlens`",
           stock=False, options=dict(query_seqlens=True), generator=False),
    Family("mistral-window", "MistralForCausalLM", "MistralConfig", DENSE | dict(head_dim=16, sliding_window=16), 12, "every layer looks back 16 tokens, in a buffer of full length; `query_seqlens`",
           stock=False, options=dict(query_seqlens=True), generator=False),
    Family("qwen2-vl", "Qwen2VLForConditionalGeneration", "Qwen2VLConfig",
           dict(text_config=SMALL | DENSE | dict(rope_parameters=dict(rope_type="default", rope_theta=1e6, mrope_section=[2, 3, 3])),
                vision_config=dict(depth=1, embed_dim=32, hidden_size=64, num_heads=2), tie_word_embeddings=False), 16,
           "the text part; `position_ids` [3, B, S] with a shared buffer and `query_seqlens`", stock=False, options=dict(positions=3, query_seqlens=True), flat=False, generator=False),
    Family("qwen3-fp16-cache", "Qwen3ForCausalLM", "Qwen3Config", DENSE | dict(head_dim=16), 13, "float32 graph around half-precision caches",
           stock=False, options=dict(cache="FLOAT16"), tolerance=5e-2, margin=5e-2),
    Family("qwen3-bf16-cache", "Qwen3ForCausalLM", "Qwen3Config", DENSE | dict(head_dim=16), 14, "float32 graph around bfloat16 caches",
           stock=False, options=dict(cache="BFLOAT16"), tolerance=4e-1, margin=2e-1),
]
