"""Pruners that learn from the answers through a noise gate, and the denoiser they learn with."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from rcp.errors import UserError
from rcp.plugin import Plugin
from rcp.training.options import OptimizerOptions


@dataclass
class NoiseGateOptions:
    """Pruners learn from the answers while no token is dropped: each is mixed with noise instead.

    A token has as much of itself as it is kept, by a soft top-k whose shares add up to the count;
    model.temperature falls as the choice hardens (AutoSelect and DiffPrune [note, arXiv 2603.07135
    and 2605.28051]). A denoiser, which sees one token at a time, learns beside the pruner to make
    of the mixed what the decoder can read. It is not exported: at inference nothing is mixed.

    Attributes:
        inner: inner width of the denoiser
    """

    inner: int = 256

    def check(
        self, plugin: Plugin, optimizer: OptimizerOptions, others: Mapping[str, object]
    ) -> None:
        """Raise ``UserError`` for a training that the gate has no place in.

        ``others``: by name what else ``model`` says, of which the gate goes with none.
        """
        if self.inner < 1:
            raise UserError(f"noise_gate.inner is {self.inner}, but it is a width: give 1 or more.")
        stages = plugin.spec.stages
        if [stage.layer for stage in stages] != [0] or not plugin.pruner(0).learned:
            named = ", ".join(f"{stage.method} at {stage.layer}" for stage in stages)
            raise UserError(
                "model.noise_gate mixes the rows that enter the decoder, by the scores of a "
                f"pruner that learns; the stages are {named or 'none'}. Give one learned stage at "
                "layer 0."
            )
        if plugin.spec.selection != "top_k":
            raise UserError(
                f"model.noise_gate keeps as many tokens as a stage does, which selection: "
                f"{plugin.spec.selection} leaves open. Set plugin.selection to top_k."
            )
        if plugin.repair is not None or plugin.lora is not None:
            raise UserError(
                "model.noise_gate trains a pruner alone: a repair or low-rank adapters would learn "
                "to live with noise. Train these after it, with model.pruners_from."
            )
        if optimizer.pruners == 0:
            raise UserError(
                "model.noise_gate trains the pruner, which optimizer.pruners: 0 keeps still. Give "
                "a number above 0."
            )
        for name, said in others.items():
            if said is not None:
                raise UserError(
                    f"model.noise_gate is a training of its own, and model.{name} is given beside "
                    f"it. Set one of them to null; model.pruners_from starts from what another "
                    "training has taught."
                )


class Denoiser(nn.Module):
    """A transformer's block in which a token attends to itself alone (AutoSelect [note]).

    So attention is one linear map of the token. (..., D) fp32 → the same shape; at the start what
    enters leaves.
    """

    def __init__(self, hidden_size: int, inner: int) -> None:
        super().__init__()
        self.attention = _block(hidden_size, nn.Linear(hidden_size, inner))
        self.feedforward = _block(hidden_size, nn.Linear(hidden_size, inner), nn.GELU())
        self.out = nn.ModuleList(nn.Linear(inner, hidden_size) for _ in range(2))
        for out in self.out:
            assert isinstance(out, nn.Linear)
            nn.init.zeros_(out.weight)
            nn.init.zeros_(out.bias)

    def forward(self, rows: Tensor) -> Tensor:
        rows = rows + self.out[0](self.attention(rows))
        return rows + self.out[1](self.feedforward(rows))


def _block(hidden_size: int, *modules: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.LayerNorm(hidden_size), *modules)
