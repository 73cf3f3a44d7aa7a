"""The sizes of a model's decoder, as the cost model wants them."""

from typing import Any

from rcp.backbones import Backbone
from rcp.base_model.cost import DecoderSizes


def decoder_sizes(backbone: Backbone) -> DecoderSizes:
    """Read off the text configuration, and off a layer where configurations differ or keep silent.

    Every layer is taken to be like the first but for its window.
    """
    config: Any = backbone.text_config
    layer: Any = backbone.layers[0]
    heads = config.num_attention_heads
    experts = getattr(config, "num_experts", 0)
    visited = config.moe_intermediate_size * config.num_experts_per_tok if experts else None
    return DecoderSizes(
        hidden=config.hidden_size,
        intermediate=visited or config.intermediate_size,
        heads=heads,
        kv_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_dim=layer.self_attn.head_dim,
        vocab=config.vocab_size,
        gated=any("gate" in name for name, _ in layer.mlp.named_parameters()),
        windows=backbone.windows,
        experts=experts,
    )
