"""VideoLLaMA 3: images and frames of any shape, a Qwen2 decoder with plain positions."""

from torch import Tensor

from rcp.backbones.base import Backbone
from rcp.backbones.places import Places, unplaced


class VideoLlama3(Backbone):
    model_types = ("video_llama_3",)
    title = "VideoLLaMA 3"
    videos = True
    limits = (
        "its visual tokens have no place: nothing in the prompt tells an image's width; its head "
        "runs over the whole prompt"
    )

    def places(self, image: Tensor, embeds: Tensor, positions: Tensor | None) -> Places:
        return unplaced(image)
