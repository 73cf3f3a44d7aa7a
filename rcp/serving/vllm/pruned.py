"""The model's side: images are pruned as they are encoded, and positions corrected by it."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from rcp.attaching.encoder_watch import VisionFacts
from rcp.attaching.forwards.forward import Setup
from rcp.errors import UserError
from rcp.serving.vllm.budgets import at_share
from rcp.serving.vllm.choice import chosen, prepared
from rcp.serving.vllm.decoder import FusedLayer, sampled
from rcp.serving.vllm.mrope_positions import around_grid
from rcp.serving.vllm.positions import Image, after_choice, apart, before_choice, with_ranks
from rcp.serving.vllm.request import KEY, SIZE, ChoiceKey
from rcp.serving.vllm.settings import Settings

ASKING = ("mrope_section", "--video-pruning-rate")

WIDENED = ("default", "linear", "llama3")
"""Kinds of rotary embeddings whose angles do not depend on how long their table is."""


class Pruning:
    """What a model of vLLM holds of its plug-in; no module of it, so that no weights are missed.

    ``facts`` is what must be taken while images are encoded.
    """

    def __init__(self, backbone: FusedLayer, settings: Settings, placeholder: int) -> None:
        self.backbone = backbone
        self.entry = settings.entry()
        backbone.lora = self.entry.lora
        self.placeholder = placeholder
        self.facts = prepared(backbone, self.entry).facts  # or says why not, before requests come
        self._at = lru_cache(maxsize=64)(self._prepared)

    @property
    def keeps_positions(self) -> bool:
        return self.entry.spec.position_policy == "keep"

    def check_base(self) -> None:
        """Raise ``UserError`` unless the weights loaded are those the plug-in was made for."""
        if self.entry.base is not None:
            self.entry.base.check_samples(sampled(self.backbone.model))

    def left_of(self, features: Tensor, key: ChoiceKey, encoded: VisionFacts) -> Tensor:
        """Of an image's ``features`` (N, D) what ``key`` keeps, (k, D); with ranks beside them,
        (k, D + 2), where these tell positions."""
        ranks, rows = self.kept(features, key, encoded)
        return with_ranks(rows, ranks) if self.keeps_positions else rows

    def kept(
        self,
        features: Tensor,
        key: ChoiceKey,
        encoded: VisionFacts,
        grid: tuple[int, int] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Ranks (k,) long and rows (k, D) of what ``key`` keeps of an image's ``features`` (N, D),
        which lie on a ``grid`` (rows, columns) where positions are places."""
        share = key.of_size(len(features), self.entry).share
        if share is None:
            return torch.arange(len(features), device=features.device), features
        before, after = self._around(key.prompt, features)
        positions = None
        if grid is not None:
            positions = around_grid(len(before), grid, len(after)).to(features.device)
        return chosen(self._at(share), features, before, after, encoded, positions)

    def _around(self, prompt: Sequence[int], features: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings of the text before and behind the image."""
        at = prompt.index(self.placeholder) if prompt else 0
        ids = torch.tensor(prompt, dtype=torch.long, device=features.device)
        embed = self.backbone.embed
        return embed(ids[:at]), embed(ids[at + 1 :])

    def _prepared(self, share: float) -> Setup:
        plugin = at_share(self.entry, share)
        plugin.to(device=self.backbone.device(0), dtype=self.backbone.dtype(0))
        return prepared(self.backbone, plugin)


def refuse_parallel(vllm_config: Any) -> None:
    """Raise ``UserError`` for an engine that spreads one layer, or the layers, over devices."""
    parallel = vllm_config.parallel_config
    if parallel.tensor_parallel_size > 1 or parallel.pipeline_parallel_size > 1:
        raise UserError(
            "Pruning looks at all heads of the first layer, which tensor or pipeline parallelism "
            "spreads over devices. Serve on one device, or more replicas with "
            "--data-parallel-size."
        )


def refuse_videos(vllm_config: Any) -> None:
    """Raise ``UserError`` for an engine that would take videos."""
    if vllm_config.model_config.multimodal_config.get_limit_per_prompt("video"):
        raise UserError(
            "The frames of videos are pruned by nothing here. Start the engine with "
            "--limit-mm-per-prompt '{\"video\": 0}', as `python -m rcp serve FOLDER` does; "
            "`rcp.attach` prunes videos in transformers."
        )


class PrunedModel:
    """Mixed into a family's model, in front of it, which sets ``pruning`` once it is built.

    A family whose positions are places has other ones.
    """

    pruning: Pruning
    config: Any

    @classmethod
    def refuse_engine(cls, vllm_config: Any) -> None:
        """Raise ``UserError`` for an engine that cannot prune; also makes room for positions."""
        refuse_parallel(vllm_config)
        model = vllm_config.model_config
        config = model.hf_config
        keeps = Settings.of(config).entry().spec.position_policy == "keep"
        asks = model.uses_mrope, model.multimodal_config.is_multimodal_pruning_enabled()
        if asks != (keeps, keeps):
            given = [word for word, is_given in zip(ASKING, asks) if is_given]
            raise UserError(
                f"The engine was started with {' and '.join(given) or 'none'} of "
                f"{' and '.join(ASKING)}, by which it asks the model for positions: "
                f"position_policy 'keep' wants both, 'repack' none, and this plug-in's is "
                f"'{'keep' if keeps else 'repack'}'. Start it by `python -m rcp serve FOLDER`, "
                f"which prints the command."
            )
        if keeps:
            _widen(config.text_config, model.max_model_len)

    def full_tokens(self, feature: Any) -> int:
        """How many tokens an image of the request's ``feature`` had."""
        return int(feature.data[SIZE].data)

    @staticmethod
    def keys_in(arguments: dict[str, Any]) -> list[ChoiceKey]:
        """The images' keys, taken out of the ``arguments`` that a model is to encode them by."""
        arguments.pop(SIZE, None)
        return [ChoiceKey.read(key) for key in arguments.pop(KEY, ())]

    # -- positions -----------------------------------------------------------------------------

    def get_mrope_input_positions(
        self, input_tokens: list[int], mm_features: list[Any]
    ) -> tuple[Tensor, int]:
        places = [(feature.mm_position, self.full_tokens(feature)) for feature in mm_features]
        images = [Image(place.offset, place.length, full) for place, full in places]
        return before_choice(len(input_tokens), sorted(images))

    def recompute_mrope_positions(
        self,
        input_ids: Any,
        multimodal_embeddings: Sequence[Tensor],
        mrope_positions: Tensor,
        num_computed_tokens: int,
    ) -> tuple[Sequence[Tensor], Tensor, int]:
        parts = [apart(rows) for rows in multimodal_embeddings]
        ids = torch.as_tensor(input_ids, device=mrope_positions.device)
        columns = (ids == self.pruning.placeholder).nonzero()[:, 0]
        ranks = torch.cat([ranks for _, ranks in parts]) if parts else columns[:0]
        ahead = columns[columns >= num_computed_tokens][: len(ranks)]
        return [rows for rows, _ in parts], *after_choice(mrope_positions, ahead, ranks)


def _widen(text_config: Any, max_model_len: int) -> None:
    """Room in the rotary table: a prompt of full length, and as much text behind it."""
    kind = (getattr(text_config, "rope_parameters", None) or {}).get("rope_type", "default")
    if kind not in WIDENED:
        raise UserError(
            f"position_policy 'keep' needs a longer rotary table than the model's own, and with "
            f"rope_type '{kind}' a longer one turns by other angles. Use position_policy 'repack'."
        )
    room = max(text_config.max_position_embeddings, 2 * max_model_len)
    text_config.max_position_embeddings = room
