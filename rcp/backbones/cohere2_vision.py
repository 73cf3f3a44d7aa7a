"""Command A Vision: a SigLIP tower, a Cohere 2 decoder."""

from torch import Tensor

from rcp.backbones.base import Backbone, Rope


class Cohere2Vision(Backbone):
    model_types = ("cohere2_vision",)  # what config.model_type says
    title = "Command A Vision"
    limits = (
        "each tile counts as an image: marker tokens between tiles are ordinary text; "
        "positions are not repacked"
    )

    def rotated(
        self, layer: int, query: Tensor, key: Tensor, rope: Rope
    ) -> tuple[Tensor, Tensor]:
        if self.window(layer) is None:
            return query, key  # its full-attention layers know no positions
        return super().rotated(layer, query, key, rope)
