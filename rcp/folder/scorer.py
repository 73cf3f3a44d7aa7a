"""The first stage of a trained plug-in as an ONNX file, for engines that run no Python."""

import copy
import importlib.util
import os
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rcp.atomic_write import atomic
from rcp.choosing.view import View
from rcp.errors import UserError
from rcp.plugin import Plugin
from rcp.pruners import Pruner
from rcp.quoting import plain

INPUTS = ("visual", "alive", "question", "question_valid")
ALSO_READ = {"rcp": "question_attention", "covipal": "grid"}
"""What each trained method reads of a view beside ``INPUTS``."""

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
TOLERANCE = 1e-5
"""Of the largest score, in fp32."""


class Scorer(nn.Module):
    """``pruner``, which is given tensors in place of a view."""

    def __init__(self, pruner: Pruner, layer: int) -> None:
        super().__init__()
        self.pruner = pruner
        self.layer = layer

    @property
    def names(self) -> list[str]:
        """Of the arguments of :meth:`forward`."""
        return [*INPUTS, ALSO_READ[self.pruner.name]]

    def forward(
        self, visual: Tensor, alive: Tensor, question: Tensor, known: Tensor, also: Tensor
    ) -> Tensor:
        """Scores (B, N) fp32; the arguments are fields of :class:`View` by :attr:`names`."""
        unread = torch.zeros_like(alive, dtype=torch.long)
        fields: dict[str, Any] = {"grid": visual[..., :2], ALSO_READ[self.pruner.name]: also}
        view = View(
            layer=self.layer,
            visual=visual,
            alive=alive,
            question=question,
            question_valid=known,
            rank=unread,
            total=alive.sum(1),
            image_index=unread,
            **fields,
        )
        return self.pruner(view)

    def example(self, rows: int, tokens: int, words: int) -> tuple[Tensor, ...]:
        """Arguments of :meth:`forward`, the same every time; in the last row not all is real."""
        generator = torch.Generator().manual_seed(0)
        width = self.pruner.hidden_size
        visual = torch.randn(rows, tokens, width, generator=generator)
        question = torch.randn(rows, words, width, generator=generator)
        alive, known = (torch.ones(rows, n, dtype=torch.bool) for n in (tokens, words))
        alive[-1, 1:2], known[-1, 1:2] = False, False
        also = torch.rand(rows, tokens, 2, generator=generator)
        return visual, alive, question, known, also[..., 0] if self.names[-1] != "grid" else also


def save_scorer(plugin: Plugin, path: str | Path, overwrite: bool = False) -> None:
    """Write what the first stage of ``plugin`` scores by to the file ``path``; whole or not at all.

    Inputs, of any batch B, visual tokens N and question tokens Q: ``visual`` (B, N, D) and
    ``question`` (B, Q, D) fp32, the normed input rows of the stage's layer; ``alive`` (B, N) and
    ``question_valid`` (B, Q) bool; of RCP ``question_attention`` (B, N) fp32, of CoViPAL ``grid``
    (B, N, 2) fp32. Output: ``scores`` (B, N) fp32; the highest are kept. It has been read back by
    onnxruntime with equal scores. Raises ``UserError`` for a first stage that is not trained, for
    a ``path`` where something is (unless with ``overwrite`` it is a file), and where a package is
    missing.
    """
    path = Path(path)
    scorer = _scorer_of(plugin)
    for package in PACKAGES:
        if importlib.util.find_spec(package) is None:
            raise UserError(
                f"ONNX files are written with {', '.join(PACKAGES)}, and {package} is not "
                f"installed. Install them: pip install 'rcp[onnx]'."
            )
    if os.path.lexists(path) and not (overwrite and os.path.isfile(path)):
        raise UserError(
            f"'{path}' exists already. Name another file with --output, or replace it, if it is a "
            f"file, with --overwrite."
        )
    with atomic(path) as unfinished:
        _write(scorer, unfinished)
        _verify(scorer, unfinished)


def _scorer_of(plugin: Plugin) -> Scorer:
    stages = plugin.spec.stages
    if not stages or stages[0].method not in ALSO_READ:
        first = f"its first stage is '{plain(stages[0].method)}'" if stages else "it has no stage"
        raise UserError(
            f"Of this plug-in no scorer can be written: {first}, and ONNX files are of the trained "
            f"methods, {' and '.join(ALSO_READ)}. Others have nothing but a formula, which their "
            f"files in rcp/pruners show."
        )
    layer = stages[0].layer
    return Scorer(copy.deepcopy(plugin.pruner(layer)).float().cpu(), layer).eval()


def _write(scorer: Scorer, file: Path) -> None:
    batch, tokens, words = (torch.export.Dim(name, min=1) for name in ("batch", "tokens", "words"))
    visual, question = {0: batch, 1: tokens}, {0: batch, 1: words}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names of sizes that several inputs share
        torch.onnx.export(
            scorer,
            scorer.example(2, 7, 5),
            str(file),
            input_names=scorer.names,
            output_names=["scores"],
            dynamic_shapes=[visual, visual, question, question, visual],
            dynamo=True,
            external_data=False,
            verbose=False,
        )


@torch.no_grad()
def _verify(scorer: Scorer, file: Path) -> None:
    """Refuse what does not give ``scorer``'s own scores, whatever the sizes."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    for sizes in ((2, 7, 5), (3, 50, 2), (1, 1, 1)):
        given = scorer.example(*sizes)
        named = {name: value.numpy() for name, value in zip(scorer.names, given)}
        found, expected = torch.from_numpy(session.run(["scores"], named)[0]), scorer(*given)
        if not (found - expected).abs().max() <= TOLERANCE * max(1, expected.abs().max()):
            raise RuntimeError(f"the ONNX file does not give the plug-in's scores at {sizes}")
