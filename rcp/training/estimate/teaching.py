"""What a sample costs in each phase of a training, and what keeping its teacher takes."""

from collections.abc import Sequence
from dataclasses import dataclass

from rcp.base_model.cost import DecoderSizes, layer_flops, prefill_flops
from rcp.training.phases import GuideOptions, PolicyOptions, teacher_alone

GIGA = 1e9
BOTH = "student forward and backward"
UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


@dataclass(frozen=True)
class Steps:
    """Which passes the steps of a training make.

    ``full`` and ``student``: tokens in each decoder layer of teacher and student; ``first``: the
    first layer of the student with something trained in or before it. ``answers``: whether a term
    compares with the teacher's; ``learns``: whether anything learns from the student while the
    guide teaches, which an online guide then has beside it. ``drawn``: tokens in each layer under
    a ``policy``, at the plug-in's own budget.
    """

    facts: DecoderSizes
    full: Sequence[int]
    student: Sequence[int]
    first: int
    guide: GuideOptions | None
    answers: bool
    learns: bool
    policy: PolicyOptions | None = None
    drawn: Sequence[int] = ()

    @property
    def label(self) -> int:
        """FLOPs of what the guide teaches with: a forward to its layer, or there and back."""
        assert self.guide is not None
        if self.guide.layer is None:
            return 2 * prefill_flops(self.facts, self.full)  # frozen weights have no gradient
        return sum(layer_flops(self.facts, rows) for rows in self.full[: self.guide.layer])

    @property
    def end_to_end(self) -> int:
        """FLOPs of the student's two passes, and of the teacher's where it is asked."""
        backward = prefill_flops(self.facts, self.student[self.first :])
        teacher = prefill_flops(self.facts, self.full) * self.answers
        return teacher + prefill_flops(self.facts, self.student) + backward

    def lines(self) -> list[str]:
        """A line for each phase."""
        found = [] if self.guide is None else [self._guided(self.guide)]
        if self.policy is not None:
            passes = f"{self.policy.group} forwards with tokens dropped"
            total = self.policy.group * prefill_flops(self.facts, self.drawn)
            found.append(_line("by draws", total, passes))
        guide = self.guide
        online_alone = guide is not None and guide.online and guide.share == 1
        if not online_alone and not teacher_alone(guide, self.policy):
            asked = "teacher forward, " if self.answers else ""
            found.append(_line("end to end", self.end_to_end, f"{asked}{BOTH}"))
        return found

    def _guided(self, guide: GuideOptions) -> str:
        taught = "forward and backward" if guide.layer is None else "forward to the guide layer"
        if guide.online and self.learns:
            # one pass of the teacher tells both, but for one that would end at the guide layer
            shared = 0 if guide.layer is None or not self.answers else self.label
            once = prefill_flops(self.facts, self.full) * self.answers * (guide.layer is None)
            total = self.label + self.end_to_end - shared - once
            passes = "forward" if shared else taught
            return _line("with the guide beside", total, f"teacher {passes}, {BOTH}")
        return _line("with the guide alone", self.label, f"teacher {taught}")


def kept_bytes(
    facts: DecoderSizes, visual: int, answers: int, value_bytes: int, masks: bool = True
) -> dict[str, int]:
    """Bytes that the teacher's cache holds of one sample, by part.

    ``visual`` tokens of one image as they enter the decoder; of all layers the ``answers`` rows
    that predict an answer, with their logits; the relevance of each token in fp16, in each
    layer or, without ``masks``, to the decoder as a whole.
    """
    return {
        "images": visual * facts.hidden * value_bytes,
        "answers": answers * (facts.layers * facts.hidden + facts.vocab) * value_bytes,
        "relevance": (facts.layers if masks else 1) * visual * 2,
    }


def cache_line(parts: dict[str, int], samples: int, used: bool) -> str:
    """What a cache of these ``parts`` takes, for one sample and for all; ``used`` by the training,
    or not."""
    each, total = sum(parts.values()), sum(parts.values()) * samples
    named = ", ".join(f"{name} {_size(size)}" for name, size in parts.items())
    then = "read in every step" if used else "where model.teacher_cache names one"
    size = f"{_size(each)} ({named}); of {samples} samples {_size(total)}"
    return f"Teacher cache, a sample: {size}, {then}"


def _line(phase: str, flops: int, passes: str) -> str:
    return f"Training, a sample, {phase}: {flops / GIGA:.4g} GFLOPs ({passes})"


def _size(size: float) -> str:
    unit = 0
    while size >= 1024 and unit < len(UNITS) - 1:
        size, unit = size / 1024, unit + 1
    return f"{size:.4g} {UNITS[unit]}"
