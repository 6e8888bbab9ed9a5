"""Built: a model of a module like mlx_lm.models.llama, of chosen sizes, with random weights.

Comes in: the module's name and sizes. Goes out: the model. Such a module has `Model` and a
dataclass `ModelArgs`; its fields are filled by their usual names. `python -m zmlx model` calls it.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn

HEAD = 64  # width of a head
_DIM = ("hidden_size", "n_embd", "d_model", "dim", "model_dim")
_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
_HEADS = ("num_attention_heads", "n_head", "n_heads")
_EPSILON = ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_eps")
_LENGTH = ("max_position_embeddings", "n_ctx", "n_positions")
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")


def sizes(dim: int, layers: int, vocabulary: int) -> dict[str, Any]:
    """Fields that follow from a model's width and depth, by their usual names."""
    heads = max(1, dim // HEAD)
    return {
        **dict.fromkeys(_DIM, dim),
        **dict.fromkeys(_LAYERS, layers),
        **dict.fromkeys(_HEADS, heads),
        "num_key_value_heads": max(1, heads // 4) if heads % 4 == 0 else heads,
        "vocab_size": vocabulary,
        "intermediate_size": 4 * dim,
        "rope_theta": 10000.0,
        **dict.fromkeys(("head_dim", "query_pre_attn_scalar"), HEAD),
        # One layer in so many attends to all tokens: there has to be one.
        **dict.fromkeys(("sliding_window_pattern", "full_attention_interval"), min(layers, 4)),
    }


def usual(dim: int) -> dict[str, Any]:
    """What fields without a default of their own get."""
    return {
        **dict.fromkeys(_EPSILON, 1e-5),
        **dict.fromkeys(_LENGTH, 4096),
        **dict.fromkeys(_EXPERTS, 8),
        **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 2 * dim),
        **dict.fromkeys(("q_lora_rank", "kv_lora_rank"), max(32, dim // 4)),
        **dict.fromkeys(("tie_word_embeddings", "use_bias", "mlp_bias", "attention_bias"), False),
        **dict.fromkeys(("post_norm", "qk_norm", "use_conv_bias"), True),
        **{"num_experts_per_tok": 2, "sliding_window": 512, "use_qkv_bias": False},
        **{"state_size": 64, "conv_kernel": 4, "n_groups": 1, "num_heads": 2 * dim // HEAD},
        **{"time_step_rank": "auto", "time_step_limit": (0.001, 100.0), "hidden_act": "silu"},
        **{"decoder_sparse_step": 1, "mlp_only_layers": []},
    }


def built(module: str, dim: int, layers: int, vocabulary: int, others: Mapping[str, Any]) -> Any:
    """The model, evaluated, in float32; the same weights at every call.

    Raises:
        ValueError: the module cannot be imported or has no Model, or fields stay empty.
    """
    try:
        found: Any = importlib.import_module(module)
    except ImportError as error:
        raise ValueError(
            f"[zmlx.models] {module} cannot be imported: {error}. Install its package, or name a "
            "module such as mlx_lm.models.llama."
        ) from error
    if not (hasattr(found, "Model") and dataclasses.is_dataclass(getattr(found, "ModelArgs", 0))):
        raise ValueError(
            f"[zmlx.models] {module} has no Model with a dataclass ModelArgs; name a module such "
            "as mlx_lm.models.llama. Any model of your own is measured by zmlx.patch(model)."
        )
    settings = _settings(found, module, dim, layers, vocabulary, others)
    mx.random.seed(0)
    model: nn.Module = found.Model(found.ModelArgs(**settings))
    if not hasattr(model, "_no_grad"):  # a model that leaves out nn.Module's own
        nn.Module.__init__(model)
    model.eval()
    mx.eval(model.parameters())
    return model


def _settings(
    found: Any,
    module: str,
    dim: int,
    layers: int,
    vocabulary: int,
    others: Mapping[str, Any],
) -> dict[str, Any]:
    fields = {field.name: field for field in dataclasses.fields(found.ModelArgs)}
    unknown = sorted(set(others) - set(fields))
    if unknown:
        raise ValueError(
            f"[zmlx.models] {module}.ModelArgs has no {', '.join(unknown)}; it has "
            f"{', '.join(fields)}."
        )
    given = {**sizes(dim, layers, vocabulary), "model_type": module.rpartition(".")[2], **others}
    settings = {name: value for name, value in given.items() if name in fields}
    filled, empty = usual(dim), []
    for name, field in fields.items():
        has_default = (
            field.default is not dataclasses.MISSING
            or field.default_factory is not dataclasses.MISSING
        )
        if name in settings or has_default:
            continue
        if name in filled:
            settings[name] = filled[name]
        else:
            empty.append(name)
    if empty:
        raise ValueError(
            f"[zmlx.models] {module}.ModelArgs wants {', '.join(empty)}, which no size says. Give "
            f"--set {empty[0]}=VALUE."
        )
    return settings


def parsed(settings: Sequence[str]) -> dict[str, Any]:
    """`name=value` with values in JSON; what is no JSON is a string.

    Raises:
        ValueError: a setting without "=".
    """
    found: dict[str, Any] = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not (name and equals):
            raise ValueError(f"[zmlx.models] --set {setting!r}: wanted NAME=VALUE.")
        try:
            found[name] = json.loads(text)
        except ValueError:
            found[name] = text
    return found
