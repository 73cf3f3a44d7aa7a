"""What Qwen's vision-language models have in common in vLLM: places, and images of any size."""

from typing import Any

from torch import Tensor

from rcp.serving.vllm.decoder import PlacedDecoder
from rcp.serving.vllm.placed import PlacedModel
from rcp.serving.vllm.processor import PrunedProcessor
from rcp.serving.vllm.start import Started


class QwenProcessor(PrunedProcessor):
    @property
    def placeholder(self) -> int:
        return self.info.get_hf_config().image_token_id

    def full_tokens(self, width: int, height: int) -> int:
        return self.info.get_num_image_tokens(
            image_width=width,
            image_height=height,
            image_processor=self.info.get_image_processor(),
            mm_kwargs={},
        )

    def lengthened(self, made: Any, sizes: Any) -> int:
        return len(made["prompt_token_ids"])  # an image spans no more positions than it has tokens


class PrunedQwen(PlacedModel, Started):
    decoder = PlacedDecoder
    placeholder = "image_token_id"

    def grid(self, feature: Any) -> tuple[int, int]:
        return self._on_grid(feature.data["image_grid_thw"].data)

    def _on_grid(self, patches: Tensor) -> tuple[int, int]:
        side = self.config.vision_config.spatial_merge_size
        _, rows, columns = patches.tolist()
        return rows // side, columns // side

    def embed_multimodal(self, **kwargs: Any) -> Any:
        keys = self.keys_in(kwargs)
        image = self._parse_and_validate_image_input(**kwargs)  # type: ignore[attr-defined]
        if image is None:
            return []
        of_images = self._process_image_input(image)  # type: ignore[attr-defined]
        grids = [self._on_grid(patches) for patches in image["image_grid_thw"]]
        return [
            self.placed(features, key, grid)
            for features, key, grid in zip(of_images, keys, grids, strict=True)
        ]
