"""Gemma 3n: several hidden states side by side, layers that reuse keys, embeddings by layer."""

from rcp.backbones.before_decoder import BeforeDecoder


class Gemma3n(BeforeDecoder):
    model_types = ("gemma3n",)
    title = "Gemma 3n"
    only_before = (
        "has layers that reuse the keys of an earlier layer, which may hold other tokens, and "
        "several hidden states side by side"
    )
    repairable = False
    by_row = ("per_layer_inputs",)

    def attends(self, layer: int) -> bool:
        """What an attention is given is predicted from all hidden states, not the embeddings."""
        return False
