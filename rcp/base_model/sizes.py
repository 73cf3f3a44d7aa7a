"""The sizes of a model's decoder, as the cost model wants them."""

from dataclasses import replace
from typing import Any

from torch import nn

from rcp.backbones import Backbone
from rcp.base_model.cost import AttentionSizes, DecoderSizes, TowerSizes
from rcp.base_model.mixers import mixer_sizes

EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")


def decoder_sizes(backbone: Backbone) -> DecoderSizes:
    """Read off the text configuration, and off a layer where configurations differ or keep silent.

    Layers may differ in their windows, attentions and MLPs; those with experts are taken to be
    alike.
    """
    config: Any = backbone.text_config
    attentions = tuple(_mixer(backbone, at) for at in range(len(backbone.layers)))
    first = next((found for found in attentions if found.heads), attentions[0])
    mlps: list[Any] = [backbone.blocks(at)[1] for at in range(len(backbone.layers))]
    mixture = next((mlp for mlp in mlps if hasattr(mlp, "experts")), None)
    dense = tuple(None if hasattr(mlp, "experts") else _width(mlp, config) for mlp in mlps)
    width = _width(mlps[0], config) if mixture is None else _visited(mixture, config)
    sizes = DecoderSizes(
        hidden=config.hidden_size,
        intermediate=width,
        heads=first.heads,
        kv_heads=first.kv_heads,
        head_dim=first.head_dim,
        vocab=config.vocab_size,
        gated=any("gate" in name or "w3" in name for name, _ in mlps[0].named_parameters()),
        windows=backbone.cached,
        experts=0 if mixture is None else _named(config, *EXPERTS),
        dense=() if set(dense) == {width} else dense,
    )
    plain = all(found == sizes.attention(0) for found in attentions)
    return sizes if plain else replace(sizes, attentions=attentions)


def tower_sizes(backbone: Backbone) -> TowerSizes:
    """Likewise of the vision tower and the projector of a model in whose tower patches can go."""
    config: Any = backbone.config.vision_config
    assert backbone.tower is not None, "TowerSpec.check_on comes first"
    maps = [part for part in backbone.tower.projector.modules() if isinstance(part, nn.Linear)]
    return TowerSizes(
        hidden=config.hidden_size,
        intermediate=config.intermediate_size,
        blocks=config.num_hidden_layers,
        pixels=config.num_channels * config.patch_size**2,
        projector=sum(part.in_features * part.out_features for part in maps),
    )


def _mixer(backbone: Backbone, layer: int) -> AttentionSizes:
    sizes = mixer_sizes(backbone.blocks(layer)[0], backbone.hidden_size)
    return replace(sizes, beside=sizes.beside + backbone.flops_beside(layer))


def _width(mlp: Any, config: Any) -> int:
    """The width of a plain MLP: the length of its way back, where it has one of these names."""
    back = getattr(mlp, "down_proj", None) or getattr(mlp, "w2", None)
    return config.intermediate_size if back is None else back.in_features


def _visited(mixture: Any, config: Any) -> int:
    """The width of all experts that one token visits, shared ones included."""
    width = _named(config, "moe_intermediate_size", "intermediate_size")
    shared = getattr(mixture, "shared_experts", None) or getattr(mixture, "shared_expert", None)
    more = 0 if shared is None else shared.down_proj.in_features
    return width * _named(config, "num_experts_per_tok", "moe_topk") + more


def _named(config: Any, *names: str) -> int:
    """The first of ``names`` that ``config`` has: configurations call the same differently."""
    return next(getattr(config, name) for name in names if hasattr(config, name))
