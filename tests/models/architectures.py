"""Small models of mlx-lm with random weights: one of each kind that its users run.

`build("llama")` gives a model as mlx-lm makes it from a configuration, with few weights.
docs/generate_models.py builds them too.
"""

from __future__ import annotations

import importlib
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_map

VOCABULARY = 64
LLAMA_LIKE: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "vocab_size": VOCABULARY,
}
GEMMA_LIKE = {**LLAMA_LIKE, "head_dim": 16, "query_pre_attn_scalar": 16}
# What a configuration has beside, or instead of, LLAMA_LIKE.
CONFIGURATIONS: dict[str, dict[str, Any]] = {
    "llama": LLAMA_LIKE,
    "apertus": {
        **LLAMA_LIKE,
        **dict.fromkeys(("mlp_bias", "attention_bias", "tie_word_embeddings"), False),
        **dict.fromkeys(("post_norm", "qk_norm"), True),
        "max_position_embeddings": 128,
        "rope_theta": 1000.0,
    },
    "cohere2": {**LLAMA_LIKE, "head_dim": 8, "sliding_window": 4, "sliding_window_pattern": 2},
    "deepseek_v3": {
        **LLAMA_LIKE,
        "num_key_value_heads": 4,
        "moe_intermediate_size": 32,
        "n_shared_experts": 1,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "n_group": 2,
        "first_k_dense_replace": 1,
        "q_lora_rank": 32,
        "kv_lora_rank": 32,
        "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 32,
        "v_head_dim": 8,
    },
    "gemma2": GEMMA_LIKE,
    "gemma3_text": {**GEMMA_LIKE, "sliding_window": 4, "sliding_window_pattern": 2},
    "gpt2": {
        "n_ctx": 64,
        "n_embd": 32,
        "n_head": 4,
        "n_layer": 2,
        "n_positions": 64,
        "layer_norm_epsilon": 1e-5,
        "vocab_size": VOCABULARY,
    },
    "gpt_oss": {
        **LLAMA_LIKE,
        "head_dim": 8,
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "sliding_window": 4,
        "rope_scaling": None,
        "layer_types": ["sliding_attention", "full_attention"],
    },
    "mamba2": {
        "num_heads": 4,
        "head_dim": 16,
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 64,
        "state_size": 16,
        "num_hidden_layers": 2,
        "layer_norm_epsilon": 1e-5,
        "conv_kernel": 3,
        "n_groups": 2,
        "use_bias": False,
        "use_conv_bias": True,
        "tie_word_embeddings": True,
        "time_step_limit": (0.01, 10.0),
        "time_step_rank": "auto",
    },
    "mixtral": {**LLAMA_LIKE, "num_local_experts": 4, "num_experts_per_tok": 2},
    "nemotron": {**LLAMA_LIKE, "hidden_act": "relu2", "norm_eps": 1e-5},
    "olmo2": LLAMA_LIKE,
    "phi3": LLAMA_LIKE,
    "qwen2_moe": {
        **LLAMA_LIKE,
        "num_experts_per_tok": 2,
        "num_experts": 4,
        "moe_intermediate_size": 32,
        "shared_expert_intermediate_size": 32,
    },
    "qwen3": {
        **LLAMA_LIKE,
        "max_position_embeddings": 128,
        "head_dim": 16,
        "tie_word_embeddings": True,
        "rope_theta": 1000.0,
    },
    "qwen3_next": {
        **LLAMA_LIKE,
        "linear_num_value_heads": 2,
        "linear_num_key_heads": 2,
        "linear_key_head_dim": 32,
        "linear_value_head_dim": 16,
        "linear_conv_kernel_dim": 3,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "decoder_sparse_step": 1,
        "shared_expert_intermediate_size": 32,
        "mlp_only_layers": [0],
        "moe_intermediate_size": 32,
        "head_dim": 16,
        "rope_theta": 1000.0,
        "partial_rotary_factor": 0.5,
        "max_position_embeddings": 128,
        "full_attention_interval": 2,
    },
    "recurrent_gemma": {
        **LLAMA_LIKE,
        "num_key_value_heads": 1,
        "attention_bias": False,
        "conv1d_width": 4,
        "logits_soft_cap": 30.0,
        "rope_theta": 1000.0,
        "attention_window_size": 4,
        "block_types": ["recurrent", "attention"],
    },
    "rwkv7": {
        "vocab_size": VOCABULARY,
        "hidden_size": 32,
        "intermediate_size": 64,
        "norm_eps": 1e-5,
        "head_dim": 16,
        "num_hidden_layers": 2,
        "a_low_rank_dim": 8,
        "v_low_rank_dim": 8,
        "gate_low_rank_dim": 8,
        "decay_low_rank_dim": 8,
    },
    "stablelm": {
        **LLAMA_LIKE,
        "rope_theta": 1000.0,
        "use_qkv_bias": True,
        "partial_rotary_factor": 0.25,
        "layer_norm_eps": 1e-5,
    },
    "starcoder2": LLAMA_LIKE,
}
NAMES = tuple(CONFIGURATIONS)


def build(name: str, **other: Any) -> nn.Module:
    """The model, the same at every call, with `other` settings: no weight is 0, nor a gradient."""
    module = importlib.import_module(f"mlx_lm.models.{name}")
    settings = {"model_type": name, **CONFIGURATIONS[name], **other}
    mx.random.seed(7)
    model: nn.Module = module.Model(module.ModelArgs.from_dict(settings))
    if not hasattr(model, "_no_grad"):
        nn.Module.__init__(model)  # recurrent_gemma leaves it out, and cannot be trained
    model.update(tree_map(_drawn, model.parameters()))
    model.eval()
    mx.eval(model.state)
    return model


def _drawn(weight: mx.array) -> mx.array:
    if not mx.issubdtype(weight.dtype, mx.floating):
        return weight
    return weight + 0.1 * mx.random.normal(weight.shape, dtype=weight.dtype)


def tokens(length: int, rows: int = 2, seed: int = 0) -> mx.array:
    return mx.random.randint(0, VOCABULARY, (rows, length), key=mx.random.key(seed))
