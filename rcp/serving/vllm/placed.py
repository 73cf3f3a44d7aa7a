"""The model's side of families whose positions are places."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rcp.errors import UserError
from rcp.serving.vllm.mrope_positions import (
    Placed,
    after_choice,
    ahead,
    apart,
    before_choice,
    places,
    with_places,
)
from rcp.serving.vllm.pruned import PrunedModel, refuse_parallel, refuse_videos
from rcp.serving.vllm.request import ChoiceKey
from rcp.serving.vllm.settings import Settings


class PlacedModel(PrunedModel):
    """Mixed into a family's model, in front of it. ``grid`` says on how many rows and columns of
    tokens the image of a request's ``feature`` lies."""

    @classmethod
    def refuse_engine(cls, vllm_config: Any) -> None:
        """Raise ``UserError`` for an engine that cannot prune."""
        refuse_parallel(vllm_config)
        refuse_videos(vllm_config)
        model = vllm_config.model_config
        if Settings.of(model.hf_config).entry().spec.position_policy != "keep":
            raise UserError(
                "position_policy 'repack' closes gaps of positions, which of this model are "
                "places of an image. Serve a plug-in with position_policy 'keep'."
            )
        if not model.multimodal_config.is_multimodal_pruning_enabled():
            raise UserError(
                "The engine was started without --video-pruning-rate, by which it asks the model "
                "for positions again once images are encoded. Start it by `python -m rcp serve "
                "FOLDER`, which prints the command."
            )

    def grid(self, feature: Any) -> tuple[int, int]:
        raise NotImplementedError

    def placed(self, features: Tensor, key: ChoiceKey, grid: tuple[int, int]) -> Tensor:
        """Of an image's ``features`` (N, F) what ``key`` keeps, beside their places, (k, F + 4).

        What a row has beyond the decoder's width, which later layers are given, stays with it.
        """
        width = self.pruning.entry.hidden_size
        ranks, rows = self.pruning.kept(features[:, :width], key, {}, grid)
        rows = torch.cat([rows, features[ranks, width:]], dim=-1)
        return with_places(rows, places(ranks, grid[1])[:, 1:])

    def get_mrope_input_positions(
        self, input_tokens: list[int], mm_features: list[Any]
    ) -> tuple[Tensor, int]:
        at = [(feature.mm_position, self.grid(feature)) for feature in mm_features]
        images = [Placed(place.offset, place.length, *grid) for place, grid in at]
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
        found = torch.cat([at for _, at in parts]) if parts else columns.new_zeros(0, 2)
        next_ones = columns[columns >= num_computed_tokens][: len(found)]
        positions = after_choice(mrope_positions, next_ones, found)
        return [rows for rows, _ in parts], positions, ahead(positions)
