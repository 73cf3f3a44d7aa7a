"""What a training step holds on each GPU, from sizes alone. An estimate, term by term. [ours]"""

from collections.abc import Sequence
from dataclasses import dataclass

from rcp.base_model.cost import DecoderSizes

CONTEXT = 2**30
"""Bytes that CUDA and its libraries take once a process has multiplied on a GPU."""

SPLIT = 0.05
"""Share of everything else that PyTorch's allocator holds and cannot give out."""

BUCKET, LIVE = 200_000_000, 1_000_000_000
"""Values in one of DeepSpeed's buckets, as Lightning sets them, and in the parameters that its
stage 3 keeps together at most; both in two bytes."""


@dataclass(frozen=True)
class StepSizes:
    """The sizes of one training step on one GPU.

    ``rows``: tokens present in each decoder layer of the student, per sample; ``first``: the
    first layer whose output depends on something trained; ``answers``: rows with logits, per
    sample; ``value_bytes``: bytes of one activation, 4 in fp32 and 2 in bf16; ``base`` and
    ``plugin``: numbers of parameters, ``base_bytes`` each of the base's; ``sharded`` (ZeRO-2) and
    ``base_sharded`` (ZeRO-3): over how many GPUs the optimiser and the base are spread;
    ``zero``: DeepSpeed's stage, 0 without it; ``checkpointing``: only the inputs of layers are
    kept for the backward pass; ``relevant``: tokens present in each layer from the first one that
    a guide takes relevance of, none where it takes none; ``masks``: from biases on masks, and not
    from the decoder's input alone; ``group``: draws of a policy for each sample, none without one,
    with ``present`` tokens as they enter the decoder and ``drawn`` in each of its layers, and
    ``seen`` visual tokens in the views of all stages together.
    """

    facts: DecoderSizes
    rows: Sequence[int]
    first: int
    answers: int
    batch: int
    value_bytes: int
    base: int
    base_bytes: int
    plugin: int
    sharded: int = 1
    base_sharded: int = 1
    zero: int = 0
    checkpointing: bool = False
    relevant: Sequence[int] = ()
    masks: bool = True
    group: int = 0
    present: int = 0
    drawn: Sequence[int] = ()
    seen: int = 0


def kept_per_row(facts: DecoderSizes, value_bytes: int) -> int:
    """Bytes that the backward pass of one frozen decoder layer needs of each of its rows.

    Frozen linear layers need nothing of their inputs. There remain both norms' inputs, which are
    fp32 (2 · 4h), query, key, value and the output of attention (2q + 2k), and the three operands
    of a gated MLP (3m), or the activation's alone.
    """
    queries, keys = facts.heads * facts.head_dim, facts.kv_heads * facts.head_dim
    operands = 3 if facts.gated else 1
    inner = 2 * queries + 2 * keys + operands * facts.intermediate
    return 2 * 4 * facts.hidden + value_bytes * inner


def memory(step: StepSizes) -> dict[str, int]:
    """Bytes by what they are for, as the GPU itself would count them.

    - base: parameters, over the GPUs that share them
    - plug-in: fp32 weights and gradients, 4 + 4 bytes a parameter
    - optimiser: two fp32 moments, 8 bytes a parameter, over the GPUs that share them
    - student: ``batch · Σ rows · kept_per_row`` over the layers from the first trained one on;
      with checkpointing the layers' inputs, and one layer whole
    - relevance: what the teacher's pass for it holds beyond the student's, which comes after it.
      Rows as for a student of all tokens, and of each layer three biases in fp32 (the leaf, its
      gradient, the mask it is added to) and the mask that the attention takes
    - policy: what its forward of all draws holds beyond student and logits, which are those of
      other steps: the decoder's input, one layer at work, the views of the stages, and fp32 logits
      beside their own; what the pruners keep of the views for their backward pass is not counted
    - attention bias: its gradient by head in the longest layer, ``batch · heads · rows²``
    - logits: student's and teacher's, the fp32 copy the loss takes and its gradient
    - DeepSpeed: buckets for gradients, filled and sent in turn, and in stage 2 one to gather in; in
      stage 3 the parameters of the layers at work, and of those that are fetched meanwhile
    - runtime: :data:`CONTEXT`, and :data:`SPLIT` of all others

    The last two are made to fit what an H100 showed (LLaVA-1.5-7B's shape, batch 8, 2026-11-26):
    36.8 GiB in use with stage 2 and 41.8 with stage 3, where the others come to 33.3.
    """
    facts, size = step.facts, step.value_bytes
    rows = list(step.rows[step.first :])
    student = _kept_of_layers(step, rows)
    biases = sum(count**2 for count in step.relevant) * (3 * 4 + size) * step.masks
    teacher = _kept_of_layers(step, step.relevant) + biases
    longest = max([*rows, *step.relevant], default=0)
    logits = step.batch * step.answers * facts.vocab
    answered = logits * (2 * size + 8)
    gathered = {0: 0, 2: 3 * BUCKET, 3: 2 * BUCKET + 2 * LIVE}[step.zero]
    parts = {
        "base": step.base * step.base_bytes // step.base_sharded,
        "plug-in": step.plugin * 8 // step.base_sharded,
        "optimiser": step.plugin * 8 // step.sharded,
        "student": step.batch * student,
        "relevance": step.batch * max(0, teacher - student),
        "policy": max(0, _held_by_draws(step) - step.batch * student - answered),
        "attention bias": step.batch * facts.heads * longest**2 * size,
        "logits": answered,
        "DeepSpeed": gathered * 2,
    }
    return parts | {"runtime": CONTEXT + int(SPLIT * sum(parts.values()))}


def _held_by_draws(step: StepSizes) -> int:
    """Bytes of a policy's forward, which has no graph."""
    facts, size = step.facts, step.value_bytes
    rows = (step.present + step.seen) * facts.hidden * size
    layer = max(step.drawn, default=0) * kept_per_row(facts, size)
    logits = step.answers * facts.vocab * (size + 4)
    return step.batch * step.group * (rows + layer + logits)


def _kept_of_layers(step: StepSizes, rows: Sequence[int]) -> int:
    """Bytes that the backward pass through layers of so many ``rows`` needs, for one sample."""
    whole = kept_per_row(step.facts, step.value_bytes)
    if not step.checkpointing:
        return sum(rows) * whole
    return sum(rows) * step.facts.hidden * step.value_bytes + max(rows, default=0) * whole
