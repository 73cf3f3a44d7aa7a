"""Dropping inside the vision tower: what describes it, and what stands for it at layer 0."""

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor

from rcp.backbones import Backbone
from rcp.backbones.tower import SURVIVORS
from rcp.choosing.view import View
from rcp.errors import UserError
from rcp.pruners import Pruner
from rcp.repair import RepairAdapter

OF_WHOLE_TOWER = frozenset({"encoder_tokens", "vision_cls_attention", "encoder_keys",
                            "encoder_attention", "encoder_attended", "encoder_levels",
                            "full_attention"})
"""Facts of a view that only a model tells whose tower has dropped nothing."""


@dataclass
class TowerSpec:
    """Patches dropped inside the vision tower by EViT (arXiv 2202.07800), which needs no training.

    Args:
        blocks: 0-based blocks of the tower between whose attention and feed-forward part patches
            are dropped; the paper's are a quarter, a half and three quarters of the way, 3, 6 and
            9 of 12.
        keep: Share of its patches that each of these blocks keeps, in (0, 1); the paper's is 0.7.
    """

    blocks: list[int]
    keep: float = 0.7

    @property
    def ratio(self) -> float:
        """Share of the patches that is left behind the last block."""
        return self.keep ** len(self.blocks)

    def check(self, stages: list[int]) -> None:
        """Raise ``UserError`` for what no tower can do, or not with ``stages`` at these layers."""
        if not self.blocks or self.blocks != sorted({max(0, block) for block in self.blocks}):
            raise UserError(
                f"tower.blocks is {self.blocks}: name at least one block of the vision tower, "
                f"counted from 0, rising and each once; or leave tower out."
            )
        if not 0 < self.keep < 1:
            raise UserError(
                f"tower.keep is {self.keep}: give the share of its patches that each block keeps, "
                f"above 0 and below 1; or leave tower out."
            )
        if 0 in stages:
            raise UserError(
                f"The stages are at the layers {stages}, but at layer 0 stands what the vision "
                f"tower keeps. Put the first one at layer 1 or later, or leave tower out."
            )

    def check_on(self, backbone: Backbone) -> None:
        """Raise ``UserError`` if patches cannot go in these blocks of the model's tower."""
        reason = "hides its vision tower"
        if backbone.tower is not None:
            reason = backbone.tower.stays_whole(self.blocks) or ""
        if reason:
            raise UserError(
                f"Nothing can be dropped inside the vision tower with tower.blocks {self.blocks}: "
                f"{type(backbone.model).__name__} {reason}. Change them, or leave tower out, and "
                f"drop before the decoder by a stage at layer 0."
            )

    def check_beside(self, parts: Iterable[Pruner | RepairAdapter]) -> None:
        """Raise ``UserError`` if one of ``parts`` needs what a shorter tower cannot tell."""
        for part in parts:
            if asked := sorted(part.needs & OF_WHOLE_TOWER):
                raise UserError(
                    f"'{part.name}' needs '{asked[0]}' of every visual token, but tower drops some "
                    f"of them inside the vision tower. Choose a method that does not need it "
                    f"(`python -m rcp pruners` lists what each needs), or leave tower out."
                )


class TowerSurvivors(Pruner):
    """Keeps what the vision tower has kept, at the first stage of a plug-in whose tower drops."""

    needs = frozenset({SURVIVORS})
    reads_question = False

    def select(self, view: View, counts: Tensor) -> Tensor:
        return view.given(SURVIVORS) & view.alive
