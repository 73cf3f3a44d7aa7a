"""What becomes of each type of model that transformers lists for images and text."""

from collections.abc import Sequence
from dataclasses import dataclass

import transformers

from rcp.backbones.base import BACKBONES
from rcp.backbones.refused import REFUSED

BEFORE = "before the decoder"
UNKNOWN = "came with a release that nobody has looked at yet"


@dataclass(frozen=True)
class Verdict:
    """``supports``: of "drop", "train" and "videos" what the type is tried with, none if it is
    refused; ``title`` is then empty. "before the decoder" stands for "drop" where nothing can be
    dropped inside. ``note``: its limits, or the reason, to follow its name."""

    model_type: str
    title: str
    supports: tuple[str, ...]
    note: str


def listed_types() -> Sequence[str]:
    """The types that the installed transformers lists for image-text-to-text."""
    from transformers.models.auto import modeling_auto

    return list(modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES)


def verdict(model_type: str) -> Verdict:
    """What becomes of ``model_type``."""
    if model_type not in BACKBONES.names():
        return Verdict(model_type, "", (), REFUSED.get(model_type, UNKNOWN))
    family = BACKBONES.get(model_type)
    drops = BEFORE if family.only_before else "drop"
    has = {drops: True, "train": not family.untrainable, "videos": family.videos}
    supports = tuple(name for name, there in has.items() if there)
    notes = [f"it {family.only_before}"] if family.only_before else []
    notes += [family.limits] if family.limits else []
    if family.untrainable:
        notes.append(f"no training: it {family.untrainable}")
    return Verdict(model_type, family.title, supports, "; ".join(notes))


def verdicts() -> list[Verdict]:
    """Of every type that is listed or supported, sorted by name."""
    return [verdict(name) for name in sorted({*listed_types(), *BACKBONES.names()})]


def as_markdown(found: Sequence[Verdict]) -> str:
    """The text of docs/backbones.md."""
    supported = [one for one in found if one.supports]
    anywhere = [_row(one) for one in supported if BEFORE not in one.supports]
    before = [_row(one) for one in supported if BEFORE in one.supports]
    reasons = [f"| `{one.model_type}` | {one.note} |" for one in found if not one.supports]
    return "\n".join([
        "# Model families",
        "",
        f"Of the {len(found)} types that transformers {transformers.__version__} lists for images "
        f"and text,",
        f"{len(supported)} are supported and {len(reasons)} are not. Written by `{_COMMAND}`.",
        "",
        *_SUPPORTED,
        *anywhere,
        "",
        *_BEFORE,
        *before,
        "",
        "## Not supported",
        "",
        "| `model_type` | why: it |",
        "|---|---|",
        *reasons,
        "",
    ])


_HEADER = ["| `model_type` | models | train | videos | limits |", "|---|---|---|---|---|"]
_COMMAND = "python -m rcp backbones --markdown"
_SUPPORTED = [
    "## Supported",
    "",
    "Tried with a tiny random model of each and inputs made by hand, in fp32 on a CPU: dropping",
    "at any layer equals masking to 1e-5, in the prompt and in decoding, in padded and ragged",
    "batches and with int8 weights; gradients reach the pruners of every stage. Real weights and",
    "processors are not tried. *Train*: no where a processor leaves no answer to train on.",
    "*Videos*: tried with clips too; the others take images alone.",
    "",
    *_HEADER,
]
_BEFORE = [
    "## Supported before the decoder",
    "",
    "One stage, at layer 0: nothing can be dropped inside these decoders, but they can be given a",
    "shorter prompt. Tried likewise: the answer equals to 1e-5 what the decoder alone computes of",
    "the rows left, at their own positions. A chunk or window counts these rows. Training masks",
    "nothing: a guide teaches the pruner by gradients of the embeddings, adapters learn behind it.",
    "",
    *_HEADER,
]


def _row(one: Verdict) -> str:
    marks = f"{_mark('train', one)} | {_mark('videos', one)}"
    return f"| `{one.model_type}` | {one.title} | {marks} | {one.note} |"


def _mark(what: str, one: Verdict) -> str:
    return "yes" if what in one.supports else "no"
