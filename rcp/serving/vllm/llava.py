"""LLaVA-1.5 in vLLM, its visual tokens dropped before the decoder."""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor
from vllm.config import VllmConfig
from vllm.model_executor.models.interfaces import SupportsMRoPE, SupportsMultiModalPruning
from vllm.model_executor.models.llava import (
    LlavaDummyInputsBuilder,
    LlavaForConditionalGeneration,
    LlavaMultiModalProcessor,
    LlavaProcessingInfo,
)
from vllm.model_executor.models.utils import WeightsMapper
from vllm.multimodal import MULTIMODAL_REGISTRY
from vllm.platforms import current_platform

from rcp.attaching.encoder_watch import VisionFacts
from rcp.errors import UserError
from rcp.serving.vllm.cpu_runner import ask_whether_models_prune
from rcp.serving.vllm.decoder import FusedDecoder
from rcp.serving.vllm.processor import PrunedProcessor
from rcp.serving.vllm.pruned import PrunedModel, Pruning
from rcp.serving.vllm.settings import Settings


class PrunedInfo(LlavaProcessingInfo):
    """An image may keep all of its tokens: the engine's own room is sized by that."""

    def get_mm_max_tokens_per_item(
        self, seq_len: int, mm_counts: Mapping[str, int]
    ) -> Mapping[str, int]:
        return {"image": self.get_max_image_tokens()}


class PrunedLlavaProcessor(PrunedProcessor, LlavaMultiModalProcessor):
    def full_tokens(self, width: int, height: int) -> int:
        return self.info.get_max_image_tokens()


CLIP_NAMES = WeightsMapper(
    orig_to_new_prefix={
        f"vision_tower.{name}": f"vision_tower.vision_model.{name}"
        for name in ("embeddings.", "encoder.", "pre_layrnorm.", "post_layernorm.")
    }
)
"""transformers 5.23 writes a CLIP tower without the wrapper's name."""


class OneAxis:
    """Mixed into a model that an engine hands three axes of positions, of which it has one."""

    def forward(
        self,
        input_ids: Tensor | None,
        positions: Tensor,
        intermediate_tensors: Any = None,
        inputs_embeds: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        if positions.dim() == 2:  # three axes, of which the decoder has one
            positions = positions[0]
        return super().forward(  # type: ignore[misc]
            input_ids, positions, intermediate_tensors, inputs_embeds, **kwargs
        )


@MULTIMODAL_REGISTRY.register_processor(
    PrunedLlavaProcessor, info=PrunedInfo, dummy_inputs=LlavaDummyInputsBuilder
)
class PrunedLlava(
    OneAxis, PrunedModel, LlavaForConditionalGeneration, SupportsMRoPE, SupportsMultiModalPruning
):
    hf_to_vllm_mapper = LlavaForConditionalGeneration.hf_to_vllm_mapper | CLIP_NAMES

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        config = vllm_config.model_config.hf_config
        refuse_tower(config)
        self.refuse_engine(vllm_config)
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        self.pruning = Pruning(
            FusedDecoder(self), Settings.of(config), placeholder=config.image_token_index
        )
        if current_platform.is_cpu():
            ask_whether_models_prune()

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        loaded = super().load_weights(weights)
        self.pruning.check_base()
        return loaded

    def embed_multimodal(self, **kwargs: Any) -> Any:
        keys = self.keys_in(kwargs)
        image = self._parse_and_validate_image_input(**kwargs)
        if image is None:
            return []
        encoded, facts = self._encode(image["pixel_values"])
        features = self.multi_modal_projector(encoded)
        of_image = [{name: fact[at] for name, fact in facts.items()} for at in range(len(keys))]
        return [
            self.pruning.left_of(features[at], key, of_image[at])
            for at, key in enumerate(keys)
        ]

    def _encode(self, pixels: Tensor) -> tuple[Tensor, VisionFacts]:
        """Rows to project, (images, N, C), and the facts about them that are asked for."""
        tower = self.pruning.backbone.tower
        assert tower is not None
        depth = len(tower.encoder.encoder.layers)
        both = self.vision_tower(
            pixels, select_layers=[depth - 1, depth], feature_select_strategy="full"
        )
        before, last = both.chunk(2, dim=-1)
        encoded = last[:, 1:] if tower.crops else last
        makers = {
            "encoder_tokens": lambda _: encoded,
            "patch_entropy": lambda _: tower.entropy(pixels),
            **tower.of_attention,
        }
        asked = self.pruning.facts & makers.keys()
        normed = tower.encoder.encoder.layers[-1].layer_norm1(before) if asked else before
        return encoded, {name: makers[name](normed) for name in asked}


def refuse_tower(config: Any) -> None:
    """Raise ``UserError`` for a vision tower of which the engine projects something else."""
    kind = config.vision_config.model_type
    if kind not in ("clip_vision_model", "siglip_vision_model"):
        raise UserError(
            f"A LLaVA with a vision tower of type '{kind}' is not served yet: CLIP and SigLIP "
            f"are. `rcp.attach` prunes it in transformers."
        )
    if not isinstance(config.vision_feature_layer, int):
        raise UserError(
            f"vision_feature_layer is {config.vision_feature_layer}: vLLM projects one layer's "
            f"output. `rcp.attach` prunes this model in transformers."
        )
