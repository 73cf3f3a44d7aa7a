"""LLaVA-NeXT and LLaVA-OneVision in vLLM: tiles at any resolution, dropped before the decoder."""

from collections.abc import Mapping
from typing import Any

from vllm.config import VllmConfig
from vllm.model_executor.models.interfaces import SupportsMRoPE, SupportsMultiModalPruning
from vllm.model_executor.models.llava import LlavaDummyInputsBuilder
from vllm.model_executor.models.llava_next import (
    LlavaNextForConditionalGeneration,
    LlavaNextMultiModalProcessor,
    LlavaNextProcessingInfo,
)
from vllm.model_executor.models.llava_onevision import (
    LlavaOnevisionDummyInputsBuilder,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionMultiModalProcessor,
    LlavaOnevisionProcessingInfo,
)
from vllm.multimodal import MULTIMODAL_REGISTRY

from rcp.serving.vllm.decoder import TiledDecoder
from rcp.serving.vllm.llava import CLIP_NAMES, OneAxis, refuse_tower
from rcp.serving.vllm.processor import PrunedProcessor
from rcp.serving.vllm.pruned import refuse_videos
from rcp.serving.vllm.start import Started


class TiledInfo:
    """An image may keep all of its tokens, at any of the model's resolutions: the engine's own room
    is sized by that."""

    def get_mm_max_tokens_per_item(
        self, seq_len: int, mm_counts: Mapping[str, int]
    ) -> Mapping[str, int]:
        info: Any = self
        sizes = info.get_hf_config().image_grid_pinpoints
        most = [info.get_num_image_tokens(image_width=width, image_height=height)
                for height, width in sizes]
        return {"image": max(info.get_max_image_tokens(), *most)}


class TiledProcessor(PrunedProcessor):
    def full_tokens(self, width: int, height: int) -> int:
        return self.info.get_num_image_tokens(image_width=width, image_height=height)


class PrunedTiles(OneAxis, Started):
    decoder = TiledDecoder

    @classmethod
    def refuse_engine(cls, vllm_config: VllmConfig) -> None:
        config = vllm_config.model_config.hf_config
        refuse_tower(config)
        super().refuse_engine(vllm_config)
        if hasattr(config, "video_token_index"):
            refuse_videos(vllm_config)

    def embed_multimodal(self, **kwargs: Any) -> Any:
        keys = self.keys_in(kwargs)
        image = self._parse_and_validate_image_input(**kwargs)  # type: ignore[attr-defined]
        if image is None:
            return []
        of_images = self._process_image_input(image)  # type: ignore[attr-defined]
        return [
            self.pruning.left_of(features, key, {})
            for features, key in zip(of_images, keys, strict=True)
        ]


class PrunedNextInfo(TiledInfo, LlavaNextProcessingInfo):
    pass


class PrunedNextProcessor(TiledProcessor, LlavaNextMultiModalProcessor):
    pass


@MULTIMODAL_REGISTRY.register_processor(
    PrunedNextProcessor, info=PrunedNextInfo, dummy_inputs=LlavaDummyInputsBuilder
)
class PrunedLlavaNext(
    PrunedTiles, LlavaNextForConditionalGeneration, SupportsMRoPE, SupportsMultiModalPruning
):
    hf_to_vllm_mapper = LlavaNextForConditionalGeneration.hf_to_vllm_mapper | CLIP_NAMES


class PrunedOnevisionInfo(TiledInfo, LlavaOnevisionProcessingInfo):
    pass


class PrunedOnevisionProcessor(TiledProcessor, LlavaOnevisionMultiModalProcessor):
    pass


@MULTIMODAL_REGISTRY.register_processor(
    PrunedOnevisionProcessor,
    info=PrunedOnevisionInfo,
    dummy_inputs=LlavaOnevisionDummyInputsBuilder,
)
class PrunedLlavaOnevision(
    PrunedTiles, LlavaOnevisionForConditionalGeneration, SupportsMRoPE, SupportsMultiModalPruning
):
    hf_to_vllm_mapper = LlavaOnevisionForConditionalGeneration.hf_to_vllm_mapper | CLIP_NAMES
