"""Visual features that the decoder adds to its rows after each of the first layers."""

import torch
from torch import Tensor

from rcp.backbones.base import Arguments, Backbone


class Deepstack(Backbone):
    @property
    def added_layers(self) -> int:
        return len(self.config.vision_config.deepstack_visual_indexes)

    def take_additions(self, arguments: Arguments) -> tuple[Arguments, list[Tensor]]:
        # the model indexes by a mask of the full length: with rows gone it fails, or, where one
        # sample keeps everything, silently adds features to the wrong rows
        features = arguments.get("deepstack_visual_embeds")
        if features is None:
            return arguments, []
        embeds = arguments["inputs_embeds"]
        where = arguments["visual_pos_masks"].to(embeds.device)[..., None]
        nothing = torch.zeros_like(embeds)
        dense = [nothing.masked_scatter(where, feature.to(embeds)) for feature in features]
        taken = {"deepstack_visual_embeds": None, "visual_pos_masks": None}
        return arguments | taken, dense
