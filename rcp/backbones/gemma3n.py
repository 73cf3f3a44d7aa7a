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

    def flops_beside(self, layer: int) -> int:
        """Of each row: the map beside the attention, the hidden states mixed before a layer and
        corrected behind it, the embeddings of the layer, and what the decoder does at its ends."""
        config, last = self.text_config, len(self.layers) - 1
        width, states = self.hidden_size, config.altup_num_inputs
        columns = 2 * config.laurel_rank + 2 * states + states**2
        columns += 3 * config.hidden_size_per_layer_input  # made, gated, taken in
        columns += (states - 1) * width * ((layer == 0) + (layer == last))
        return 2 * width * columns + 2 * (states**3 + states**2)

    def attends(self, layer: int) -> bool:
        """What an attention is given is predicted from all hidden states, not the embeddings."""
        return False
