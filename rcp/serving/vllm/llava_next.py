"""LLaVA-NeXT and LLaVA-OneVision in vLLM: tiles at any resolution, dropped before the decoder."""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor
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
from vllm.platforms import current_platform

from rcp.serving.vllm.cpu_runner import ask_whether_models_prune
from rcp.serving.vllm.decoder import TiledDecoder
from rcp.serving.vllm.llava import CLIP_NAMES, OneAxis, refuse_tower
from rcp.serving.vllm.processor import PrunedProcessor
from rcp.serving.vllm.pruned import PrunedModel, Pruning, refuse_videos
from rcp.serving.vllm.settings import Settings


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


class PrunedTiles(OneAxis, PrunedModel):
    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        config = vllm_config.model_config.hf_config
        refuse_tower(config)
        self.refuse_engine(vllm_config)
        if hasattr(config, "video_token_index"):
            refuse_videos(vllm_config)
        super().__init__(vllm_config=vllm_config, prefix=prefix)  # type: ignore[call-arg]
        self.pruning = Pruning(
            TiledDecoder(self), Settings.of(config), placeholder=config.image_token_index
        )
        if current_platform.is_cpu():
            ask_whether_models_prune()

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        loaded = super().load_weights(weights)  # type: ignore[misc]
        self.pruning.check_base()
        return loaded

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
