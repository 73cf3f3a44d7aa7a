"""The sizes of a model's decoder, as the cost model wants them."""

from dataclasses import replace
from typing import Any

from rcp.backbones import Backbone
from rcp.base_model.cost import AttentionSizes, DecoderSizes
from rcp.errors import UserError

EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")


def decoder_sizes(backbone: Backbone) -> DecoderSizes:
    """Read off the text configuration, and off a layer where configurations differ or keep silent.

    Layers may differ in their windows, attentions and MLPs; those with experts are taken to be
    alike. Raises ``UserError`` for layers that the cost model does not know.
    """
    if backbone.only_before:
        raise UserError(
            f"{type(backbone.model).__name__} {backbone.only_before}, and what such layers cost is "
            f"not known: it can be pruned, by rcp.attach, and not be evaluated yet. Choose a model "
            f"of another family to measure costs."
        )
    config: Any = backbone.text_config
    attentions = tuple(_attention(backbone.blocks(at)[0]) for at in range(len(backbone.layers)))
    first = attentions[0]
    mlps: list[Any] = [backbone.blocks(at)[1] for at in range(len(backbone.layers))]
    mixture = next((mlp for mlp in mlps if hasattr(mlp, "experts")), None)
    width = config.intermediate_size
    dense = tuple(None if hasattr(mlp, "experts") else width for mlp in mlps)
    sizes = DecoderSizes(
        hidden=config.hidden_size,
        intermediate=width if mixture is None else _visited(mixture, config),
        heads=first.heads,
        kv_heads=first.kv_heads,
        head_dim=first.head_dim,
        vocab=config.vocab_size,
        gated=any("gate" in name for name, _ in mlps[0].named_parameters()),
        windows=backbone.windows,
        experts=0 if mixture is None else _named(config, *EXPERTS),
        dense=() if mixture is None else dense,
    )
    plain = all(found == sizes.attention(0) for found in attentions)
    return sizes if plain else replace(sizes, attentions=attentions)


def _attention(attention: Any) -> AttentionSizes:
    """Linear layers tell their sizes even where their weights are elsewhere, or packed."""
    dim = attention.head_dim
    queries, keys = (attention.q_proj.out_features, attention.k_proj.out_features)
    values = keys if getattr(attention, "v_proj", None) is not None else 0  # or keys are values
    gate = getattr(attention, "g_proj", None)
    gates = 0 if gate is None else gate.out_features
    return AttentionSizes(queries // dim, keys // dim, dim, 2 * queries + keys + values + gates)


def _visited(mixture: Any, config: Any) -> int:
    """The width of all experts that one token visits, shared ones included."""
    width = _named(config, "moe_intermediate_size", "intermediate_size")
    shared = getattr(mixture, "shared_experts", None)
    more = 0 if shared is None else shared.down_proj.in_features
    return width * _named(config, "num_experts_per_tok", "moe_topk") + more


def _named(config: Any, *names: str) -> int:
    """The first of ``names`` that ``config`` has: configurations call the same differently."""
    return next(getattr(config, name) for name in names if hasattr(config, name))
