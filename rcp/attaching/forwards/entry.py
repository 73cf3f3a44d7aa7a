"""What images and question were when they entered the decoder, for the methods that ask."""

from collections.abc import Callable, Iterable
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from rcp.attaching.encoder_watch import VisionFacts
from rcp.attaching.forwards.slots import Slots
from rcp.backbones import Backbone
from rcp.backbones.tower import SURVIVORS, VISION_FACTS
from rcp.choosing.positions import Positions
from rcp.choosing.several import frame_numbers, prompt_text
from rcp.choosing.tokens import TokenMap
from rcp.choosing.view import View
from rcp.errors import UserError
from rcp.plugin import Plugin
from rcp.plugin.tower import OF_WHOLE_TOWER

INPUT_FACTS = ("projected", "question_embeds", "text_embeds", "frame_index")
"""What the decoder's input tells; the vision side tells the others."""

OF_TEXT = ("question_embeds", "text_embeds")


def entry_facts(backbone: Backbone, plugin: Plugin, replayed: bool = False) -> frozenset[str]:
    """Which facts of the entry the methods of ``plugin`` read: needed, or used and to be had.

    Where a plan is ``replayed`` the repair alone reads any. Raises ``UserError`` for a needed one
    that the model cannot give, or that nobody knows.
    """
    known = [field.name for field in fields(View)]
    asked = set(of_repair(plugin))
    for fact in asked:
        backbone.check_fact(fact)
    for layer in () if replayed else plugin.schedule.layers:
        pruner = plugin.pruner(layer)
        if strange := sorted(pruner.needs.difference(known)):
            raise UserError(
                f"The pruner '{pruner.name}' needs '{strange[0]}', which no view has. A view has "
                f"{', '.join(known)}. Correct the name in its `needs`."
            )
        for fact in pruner.needs.intersection(VISION_FACTS):
            backbone.check_fact(fact)
        asked |= pruner.needs
        asked |= {name for name in pruner.uses if _to_be_had(backbone, name)}
    if plugin.spec.tower is not None:
        asked -= OF_WHOLE_TOWER
    return frozenset(asked.intersection((*INPUT_FACTS, *VISION_FACTS, SURVIVORS)))


def of_repair(plugin: Plugin) -> frozenset[str]:
    """What the repair of ``plugin`` needs to know of the vision side."""
    return frozenset() if plugin.repair is None else plugin.repair.needs


def _to_be_had(backbone: Backbone, name: str) -> bool:
    try:
        backbone.check_fact(name)
    except UserError:
        return False
    return True


class Entry:
    """Facts over all visual slots a sample began with: each (B, N, ...), by the view's names.

    ``encoded`` is what was taken while images were encoded, ``videos`` whether there are videos,
    of which nothing is; both are set before :meth:`enter`. Beside videos facts that are not
    ``needed`` are left out.
    """

    def __init__(self, backbone: Backbone, names: frozenset[str], plugin: Plugin) -> None:
        self.backbone = backbone
        self.names = names
        pruners = [plugin.pruner(layer) for layer in plugin.schedule.layers]
        self.needed = of_repair(plugin).union(*(pruner.needs for pruner in pruners))
        self.encoded: VisionFacts = {}
        self.videos = False
        self._dense: dict[str, Tensor] = {}

    def enter(self, tokens: TokenMap, embeds: Tensor | None, positions: Tensor | None) -> None:
        """Called once, with the roles of the columns, the decoder's input (B, T, D) and its
        position ids.

        Raises ``UserError`` if a fact is missing or does not fit the visual tokens.
        """
        if embeds is not None:
            self._take_input(tokens, embeds, positions)
        for name in self.names.difference(INPUT_FACTS, ["projector"]):
            if self.videos and name not in self.needed:
                continue
            if name not in self.encoded:
                raise UserError(
                    f"'{name}' is not there: it is taken while images are encoded, and these were "
                    f"encoded without the plug-in attached. Encode them while it is, or pass "
                    f"pixel_values. (Of videos it cannot be had.)"
                )
            self._dense[name] = by_slot(self.encoded[name], tokens)

    def _take_input(self, tokens: TokenMap, embeds: Tensor, positions: Tensor | None) -> None:
        rows: dict[str, Callable[[], Positions]] = {
            "projected": lambda: tokens.visual_at,
            "question_embeds": lambda: tokens.question_at,
            "text_embeds": lambda: prompt_text(tokens),
        }
        for name in self.names.intersection(rows):
            self._dense[name] = rows[name]().take(embeds).detach()
        if "frame_index" in self.names:
            within = self.backbone.frames(tokens.image, embeds, positions)
            self._dense["frame_index"] = frame_numbers(tokens, within)

    def seen(self, names: Iterable[str], slots: Slots, device: torch.device) -> dict[str, Any]:
        """The facts ``names`` of the ``slots`` left, on ``device``."""
        found: dict[str, Any] = {}
        for name in self.names.intersection(names):
            if name == "projector":
                found[name] = self.backbone.tower.projector  # type: ignore[union-attr]
            elif name in self._dense:
                value = self._dense[name]
                value = value if name in OF_TEXT else slots.looked_up(value)
                found[name] = value.to(device)
        return found


def by_slot(facts: Tensor, tokens: TokenMap) -> Tensor:
    """``facts`` (M, F) of all images one after the other → (B, N, F), or (B, N) where F is 1.

    Beams repeat a sample's tokens, not its facts: M is then a fraction of the tokens there are.
    Raises ``UserError`` where it is not.
    """
    counts = list(tokens.host.visual_counts)
    beams = max(1, sum(counts) // max(1, len(facts)))
    if sum(counts[::beams]) != len(facts) or len(counts) % beams:
        raise UserError(
            f"The images encoded give facts about {len(facts)} visual tokens, but the prompt has "
            f"{sum(counts)}. Videos give none: choose a method that does not need "
            f"them, or pass images alone."
        )
    if tokens.visual_at.valid is None and beams == 1:
        dense = facts.unflatten(0, (len(counts), -1))
        return dense.squeeze(-1) if dense.shape[-1] == 1 else dense
    dense = facts.new_zeros(*tokens.visual_columns.shape, facts.shape[-1])
    parts = facts.split(counts[::beams])
    for row, count in enumerate(counts):
        dense[row, :count] = parts[row // beams]
    return dense.squeeze(-1) if dense.shape[-1] == 1 else dense
