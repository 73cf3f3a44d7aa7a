"""What an evaluation was asked, of whom and with what: to go on with it, and to record it."""

import argparse
import hashlib
import json
import platform
from collections.abc import Sequence
from typing import Any

import torch
import transformers

from rcp.base_model.fingerprint import fingerprint, of_weights
from rcp.evaluation.contestants import Contestant
from rcp.evaluation.generation import Questions
from rcp.evaluation.options import command
from rcp.evaluation.preparation import sees_the_middle
from rcp.evaluation.report.rows import ResultRow
from rcp.version import __version__


def versions() -> dict[str, str]:
    """Of what computes the answers, by name."""
    return {
        "rcp": __version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }


def asked(
    options: argparse.Namespace, questions: Questions, contestants: Sequence[Contestant]
) -> dict[str, str]:
    """All that answers depend on, in short strings, by what each is called in a message.

    ``contestants`` are those with a plug-in that were asked for: the controls follow from them.
    """
    model: Any = questions.backbone.model
    imported = [hashlib.sha256(file.read_bytes()).hexdigest() for file in options.imports]
    settings = {
        "plug-ins": [_of_contestant(contestant) for contestant in contestants],
        "imported files": imported,
        "limit": options.limit,
        "batch size": questions.batch_size,
        "longest answer": questions.max_new_tokens,
        "controls": options.controls,
        "seeds": options.seeds,
        "precision": options.dtype,
        "device": model.device.type,
        "versions": versions(),
    }
    return fingerprint(model, questions.processor, questions.dataset, **settings)


def recorded(
    options: argparse.Namespace, questions: Questions, rows: Sequence[ResultRow]
) -> dict[str, str]:
    """The metadata of the answers' files: text, and JSON under ``versions``, ``budgets``
    and ``center_crop``, which says whether models see but the middle square of an image.

    ``budgets`` has both conventions by method: tokens as a mean over the layers, and entering.
    """
    budgets = {
        row.method: {"mean_tokens": row.mean_tokens, "entering_tokens": row.entering_tokens}
        for row in rows
    }
    return {
        "command": command(options),
        "versions": json.dumps(versions()),
        "data": str(options.data),
        "image_folder": str(questions.dataset.source.folder),
        "center_crop": json.dumps(sees_the_middle(questions.processor)),
        "base": str(questions.backbone.config.name_or_path),
        "budgets": json.dumps(budgets),
    }


def _of_contestant(contestant: Contestant) -> str:
    assert contestant.plugin is not None
    spec = json.dumps(contestant.plugin.spec.to_dict(), sort_keys=True)
    return f"{contestant.method} {spec} {of_weights(contestant.plugin)}"
