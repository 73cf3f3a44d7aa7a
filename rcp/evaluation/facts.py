"""The sizes of a model's decoder, as the cost model wants them."""

from rcp.backbones import Backbone
from rcp.cost import DecoderFacts


def decoder_facts(backbone: Backbone) -> DecoderFacts:
    """Read off the text configuration; whether the MLP is gated shows in its modules only."""
    config = backbone.text_config
    heads = config.num_attention_heads
    return DecoderFacts(
        hidden=config.hidden_size,
        intermediate=config.intermediate_size,
        heads=heads,
        kv_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
        vocab=config.vocab_size,
        gated=any("gate" in name for name, _ in backbone.layers[0].named_modules()),
        windows=tuple(backbone.window(layer) for layer in range(len(backbone.layers))),
    )
