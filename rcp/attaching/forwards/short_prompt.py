"""A plug-in whose only stage lies before the decoder, which is then given a shorter prompt."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from rcp.attaching.cache_names import cache_in
from rcp.attaching.forwards.at_entry import entry_rope, with_positions
from rcp.attaching.forwards.drop import DropForward
from rcp.attaching.forwards.forward import Arguments
from rcp.attaching.generation_state import has_fixed_length
from rcp.backbones import Backbone
from rcp.backbones.base import Rope
from rcp.errors import UserError
from rcp.plugin import Plugin


class ShortPrompt(DropForward):
    """Chooses among the decoder's inputs and hands over fewer of them, with their positions.

    No layer knows of it, and all layers cache the same columns: what works on a shorter prompt
    works, static caches among it. The model's own masks fit, too, but where rows are padded.
    """

    def enter(self, arguments: Arguments) -> Arguments:
        arguments = super().enter(arguments)
        self.cache = cache_in(arguments)
        if self.tokens.has_images:
            arguments = with_positions(arguments, self.past_length)
            given = arguments | {"attention_mask": None}  # padding is known, the rest is causal
            hidden = self._begin_stage(0, 0, arguments["inputs_embeds"], given)
            self._refuse_fillers_behind_a_state()
            arguments |= {"inputs_embeds": hidden, "position_ids": self._left(arguments)}
            arguments |= {
                name: self.inputs.rows.take(arguments[name])
                for name in self.backbone.by_row if arguments.get(name) is not None
            }
        else:
            self.segments[0] = self._segment(0)
            if has_fixed_length(self.cache):
                arguments = with_positions(arguments, self.past_length)
        mask = self._mask_2d(arguments)
        return arguments if mask is None else arguments | {"attention_mask": mask}

    def rope_maker(self, arguments: Arguments) -> Callable[[], Rope]:
        return entry_rope(self.backbone, arguments)

    def _refuse_fillers_behind_a_state(self) -> None:
        """A state begins behind fillers that stand first; one that is there they would change."""
        if self.past is None or self.inputs.rows.real is None or not self.backbone.only_before:
            return
        raise UserError(
            f"{type(self.backbone.model).__name__} cannot pass over padding on a filled cache, and "
            f"{self.survivors.counts[0]} visual tokens would be kept of the samples of this later "
            f"turn, whose texts or images differ in length. Continue each of them by itself."
        )

    def _left(self, arguments: Arguments) -> Tensor:
        """The positions of the rows left."""
        repacking, index = self.inputs.repacking, self.inputs.rows.index
        positions = arguments["position_ids"] if repacking is None else repacking.positions
        if index is None:
            return positions
        index = index.to(positions.device).expand(*positions.shape[:-2], -1, -1)
        return positions.expand(*index.shape[:-1], -1).gather(-1, index)

    def _mask_2d(self, arguments: Arguments) -> Tensor | None:
        """Which of the cached and new rows are real, where the mask that was given does not fit.

        A model reads it at the places that its caches report: behind as many columns as are gone.
        """
        keys, rows = self.segments[0], self.inputs.rows
        if keys is None:
            return None
        whole = not self.padded and keys.listed_valid is None
        if whole and self.past is None:
            # before any cache, gaps in positions alone would be taken for document borders
            return None if rows.index is None else torch.ones_like(rows.current)
        if whole and not self.backbone.only_before:
            return None
        columns, valid = keys.columns, keys.valid
        if self.padding is not None:
            padding = self.padding.bool().gather(1, columns)
            valid = padding if valid is None else padding & valid
        if valid is None:  # chunks are counted from the first column that a mask calls real
            valid = torch.ones_like(columns, dtype=torch.bool)
        gone = self.past_length - (columns.shape[1] - rows.count)
        fixed = has_fixed_length(self.cache)
        return valid.long() if fixed else functional.pad(valid, (gone, 0)).long()


def runs_before_decoder(backbone: Backbone, plugin: Plugin) -> bool:
    """Whether all that ``plugin`` drops can be left out of the decoder's input.

    Not so where something besides the rotary embedding counts original columns, or where a method
    looks into the decoder.
    """
    if plugin.schedule.layers != (0,) or backbone.attention not in ("sdpa", "eager"):
        return False
    return backbone.takes_shorter_prompts and "full_attention" not in plugin.pruner(0).needs
