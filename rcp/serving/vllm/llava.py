"""LLaVA-1.5 in vLLM, its visual tokens dropped before the decoder."""

from collections.abc import Mapping
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

from rcp.attaching.encoder_watch import VisionFacts
from rcp.errors import UserError
from rcp.serving.vllm.decoder import FusedDecoder
from rcp.serving.vllm.processor import PrunedProcessor
from rcp.serving.vllm.start import Started


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
    OneAxis, Started, LlavaForConditionalGeneration, SupportsMRoPE, SupportsMultiModalPruning
):
    hf_to_vllm_mapper = LlavaForConditionalGeneration.hf_to_vllm_mapper | CLIP_NAMES

    decoder = FusedDecoder

    @classmethod
    def refuse_engine(cls, vllm_config: VllmConfig) -> None:
        refuse_tower(vllm_config.model_config.hf_config)
        super().refuse_engine(vllm_config)

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
