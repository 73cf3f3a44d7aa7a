"""Sizes and schedule of the embedded model: the one place where its numbers are."""

from __future__ import annotations

from dataclasses import dataclass

WIDTH = 96
HEADS = 4
TOWER_LAYERS = 4
TRUNK_LAYERS = 8  # decoder layers that learn the task from scratch
DECODER_LAYERS = 24  # after growth
DECODER_MLP = 256
TOWER_MLP = 384
# Slow rotary frequencies leave most of a head's dimensions free to match content at any distance.
ROPE_THETA = 1_000_000.0


@dataclass(frozen=True)
class Stage:
    """A stage of supervised training: how long, how fast, images a step."""

    steps: int
    rate: float
    images: int
    warmup: int = 50


TOWER = Stage(steps=1200, rate=2e-3, images=32)
ALIGNMENT = Stage(steps=350, rate=1e-3, images=32, warmup=20)

LOOKUP = ("attribute", "region", "reading", "odd_one_out", "largest")
RELATIONS = (*LOOKUP, "existence", "relation", "reading_relation")
EVERYTHING = (*RELATIONS, "counting", "comparison")


@dataclass(frozen=True)
class Phase:
    """A phase of the decoder's curriculum; it ends at its goal or after its steps."""

    name: str
    layers: int
    types: tuple[str, ...]
    steps: int
    rate: float
    goal: float  # accuracy that every type must have reached over the last steps
    short_share: float  # of questions cut down to their key words, the most telling one last
    guided: bool = False  # see guide.py
    tower_rate: float = 0.0  # 0 freezes tower and projector
    images: int = 16
    questions: int = 16
    warmup: int = 30
    final_rate: float = 1.0  # share of the rate that is left at the last step


PHASES = (
    Phase("key words", TRUNK_LAYERS, LOOKUP, 300, 1.5e-3, 0.85, short_share=1.0),
    Phase("relations", TRUNK_LAYERS, RELATIONS, 900, 1.5e-3, 0.88, short_share=0.35, guided=True),
    Phase("everything", TRUNK_LAYERS, EVERYTHING, 800, 1.2e-3, 0.95, short_share=0.2, guided=True,
          tower_rate=1e-4, final_rate=0.5),
    Phase("deep", DECODER_LAYERS, EVERYTHING, 400, 6e-4, 1.01, short_share=0.0, tower_rate=1e-4,
          images=12, warmup=30, final_rate=0.03),
    Phase("two steps", DECODER_LAYERS, EVERYTHING, 600, 1e-3, 0.96, short_share=0.15, guided=True,
          tower_rate=1e-4, images=12, warmup=20, final_rate=0.05),
)
