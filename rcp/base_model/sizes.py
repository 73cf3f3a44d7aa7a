"""The sizes of a model's decoder, as the cost model wants them."""

from typing import Any

from rcp.backbones import Backbone
from rcp.base_model.cost import DecoderSizes

CHOSEN = ("num_experts_per_tok", "moe_topk")
"""What configurations call the number of experts that a token visits."""


def decoder_sizes(backbone: Backbone) -> DecoderSizes:
    """Read off the text configuration, and off a layer where configurations differ or keep silent.

    Every layer is taken to be like the first but for its window and its MLP; those with experts
    are taken to be alike.
    """
    config: Any = backbone.text_config
    layer: Any = backbone.layers[0]
    heads = config.num_attention_heads
    mlps: list[Any] = [backbone.blocks(at)[1] for at in range(len(backbone.layers))]
    mixture = next((mlp for mlp in mlps if hasattr(mlp, "experts")), None)
    width = config.intermediate_size
    dense = tuple(None if hasattr(mlp, "experts") else width for mlp in mlps)
    return DecoderSizes(
        hidden=config.hidden_size,
        intermediate=width if mixture is None else _visited(mixture, config),
        heads=heads,
        kv_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_dim=layer.self_attn.head_dim,
        vocab=config.vocab_size,
        gated=any("gate" in name for name, _ in layer.mlp.named_parameters()),
        windows=backbone.windows,
        experts=0 if mixture is None else mixture.experts.num_experts,
        dense=() if mixture is None else dense,
    )


def _visited(mixture: Any, config: Any) -> int:
    """The width of all experts that one token visits, shared ones included."""
    chosen = next(getattr(config, name) for name in CHOSEN if hasattr(config, name))
    shared = getattr(mixture, "shared_experts", None)
    width = mixture.experts.intermediate_dim * chosen
    return width if shared is None else width + shared.down_proj.in_features
