"""One call of a model, as far as pruning reads it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rcp.attaching.cache_names import cache_in
from rcp.attaching.generation_state import has_fixed_length
from rcp.choosing.schedule import Schedule
from rcp.errors import UserError

IMAGES = ("pixel_values", "pixel_values_images", "pixel_values_videos", "mm_encoder_outputs")


@dataclass(frozen=True)
class Call:
    """What one call of the model was given.

    ``ids`` (B, T) long or ``embeds`` (B, T, D), or both; ``mask`` what came as attention mask;
    ``labels`` (B, T) long or None; ``cache`` and ``use_cache`` as given, None where they were not;
    ``has_images``: whether pixels or encoded images came along. ``prompt`` is where the prompt
    ends, an int or (B,) long, None if the caller has not said so; ``predicting``: how many of the
    last columns `generate` asks predictions of, 0 outside it and where it asks for chosen ones.
    ``budgets``: schedules that `generate` was asked for, none where it was not.
    """

    ids: Tensor | None
    embeds: Tensor | None
    mask: Any
    labels: Tensor | None
    cache: Any
    use_cache: bool | None
    has_images: bool
    prompt: int | Tensor | None
    predicting: int
    budgets: Sequence[Schedule]

    @classmethod
    def of(
        cls,
        arguments: dict[str, Any],
        prompt: int | Tensor | None,
        generating: bool,
        budgets: Sequence[Schedule],
    ) -> "Call":
        """From the model's ``arguments`` by name; ``generating`` says that `generate` calls."""
        asked = arguments.get("logits_to_keep") if generating else None
        return cls(
            ids=arguments.get("input_ids"),
            embeds=arguments.get("inputs_embeds"),
            mask=arguments.get("attention_mask"),
            labels=arguments.get("labels"),
            cache=cache_in(arguments),
            use_cache=arguments.get("use_cache"),
            has_images=any(
                arguments.get(name) is not None and len(arguments[name]) > 0 for name in IMAGES
            ),
            prompt=prompt,
            predicting=asked if isinstance(asked, int) else 0,
            budgets=budgets,
        )

    @property
    def rows(self) -> Tensor:
        """Token ids (B, T) or embeddings (B, T, D); raises ``UserError`` if neither was given."""
        rows = self.ids if self.ids is not None else self.embeds
        if rows is None:
            raise UserError("A forward needs input_ids or inputs_embeds. Pass one of them.")
        return rows

    def padding(self, past: int) -> Tensor | None:
        """The 2-D padding mask (B, ``past`` + T) of the call, or None; ``past`` columns are cached.

        `generate` makes a 4-D one for a cache of fixed length: of a prompt its last row tells what
        is padding, later ones tell nothing more. Raises ``UserError`` for any other mask.
        """
        mask = self.mask
        if has_fixed_length(self.cache):
            mask = mask.get("full_attention") if isinstance(mask, dict) else mask
            if isinstance(mask, Tensor) and mask.dim() == 4:
                return None if past else _padding_in(mask, self.rows)
        if mask is None:
            return None
        if not isinstance(mask, Tensor) or mask.dim() != 2:
            raise UserError(
                "A plug-in needs the 2-D attention mask (batch, tokens) to tell padding from text, "
                "not a ready-made 4-D or per-layer one. Pass the mask the processor returns."
            )
        expected = self.rows.shape[1] + past
        if mask.shape[1] != expected:
            raise UserError(
                f"The attention mask has {mask.shape[1]} columns, but this forward ends at column "
                f"{expected}: prefill in chunks is not supported under a plug-in. Pass the whole "
                f"prompt at once (prefill_chunk_size=None)."
            )
        return mask


def _padding_in(mask: Tensor, rows: Tensor) -> Tensor:
    """What the last row of ``mask`` (B or 1, 1, T, K) sees of the T columns of ``rows`` (B, T)."""
    seen = mask[:, 0, -1, : rows.shape[1]].expand(len(rows), -1)
    return seen if seen.dtype == torch.bool else seen > torch.finfo(seen.dtype).min / 2
