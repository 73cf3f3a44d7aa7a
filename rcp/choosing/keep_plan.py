"""What was kept where: pure tensors, savable, replayable by either mode."""

import os
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from rcp.atomic_write import atomic
from rcp.errors import UserError


@dataclass(frozen=True)
class KeepPlan:
    """Which original positions are alive from each stage on.

    ``layers``: the pruning layers, ascending. ``alive`` (S, B, T) bool: valid text and surviving
    image columns after each stage. ``visual`` (B, T) bool: the image columns. ``merges``: for the
    stages that fold dropped tokens into kept ones, weights (B, K, N) over the N visual tokens a
    sample began with, one row a kept token.
    """

    layers: tuple[int, ...]
    alive: Tensor
    visual: Tensor
    merges: dict[int, Tensor] = field(default_factory=dict)

    @property
    def kept(self) -> Tensor:
        """(S, B) how many visual tokens each sample has left after each stage."""
        return (self.alive & self.visual).sum(-1)

    def check(self, image: Tensor) -> None:
        """Raise ``UserError`` unless ``image`` (B, T) bool has the image columns of this plan."""
        planned, columns = self.visual.to(image.device), image.shape[1]
        if len(planned) != len(image):
            raise UserError(
                f"The plan is of {len(planned)} samples, this forward has {len(image)}. Replay it "
                f"on the batch it was made for."
            )
        common = min(columns, planned.shape[1])
        beyond = planned[:, common:].any() | image[:, common:].any()
        if not torch.equal(planned[:, :common], image[:, :common]) or beyond:
            raise UserError(
                "The plan's image tokens are in other columns than this forward's. Replay it on "
                "the batch it was made for, padded as it was."
            )

    def after(self, earlier: "KeepPlan | None", start: int) -> "KeepPlan":
        """This plan of the columns from ``start`` on, behind ``earlier``: one plan of them all.

        Columns that neither plan speaks of were generated or typed since, and are alive.
        """
        seen = 0 if earlier is None else earlier.visual.shape[1]
        alive = self.alive.new_ones(*self.alive.shape[:2], start - seen)
        visual = self.visual.new_zeros(len(self.visual), start - seen)
        alive, visual = torch.cat([alive, self.alive], 2), torch.cat([visual, self.visual], 1)
        if earlier is not None:
            alive = torch.cat([earlier.alive, alive], 2)
            visual = torch.cat([earlier.visual, visual], 1)
        return replace(self, alive=alive, visual=visual)

    def spread(self, rows: int) -> "KeepPlan":
        """The one sample's plan for each of ``rows`` samples."""
        return replace(
            self,
            alive=self.alive.expand(-1, rows, -1),
            visual=self.visual.expand(rows, -1),
            merges={at: weights.expand(rows, -1, -1) for at, weights in self.merges.items()},
        )

    def save(self, path: str | Path) -> None:
        """Write one safetensors file; raises ``UserError`` where it cannot be written."""
        tensors = {
            "layers": torch.tensor(self.layers, dtype=torch.long),
            "alive": self.alive.contiguous(),
            "visual": self.visual.contiguous(),
        }
        tensors |= {f"merge.{stage}": value.contiguous() for stage, value in self.merges.items()}
        with atomic(Path(path)) as unfinished:
            save_file(tensors, str(unfinished))

    @classmethod
    def load(cls, path: str | Path) -> "KeepPlan":
        """Read what :meth:`save` wrote; raises ``UserError`` if there is no such file.

        What else is in the file is passed over: earlier versions wrote tensors nobody read.
        """
        if not os.path.isfile(path):
            raise UserError(f"There is no plan file '{path}'. Write one with KeepPlan.save first.")
        with safe_open(str(path), framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        return cls(
            layers=tuple(tensors["layers"].tolist()),
            alive=tensors["alive"],
            visual=tensors["visual"],
            merges={
                int(name.removeprefix("merge.")): value
                for name, value in tensors.items()
                if name.startswith("merge.")
            },
        )
