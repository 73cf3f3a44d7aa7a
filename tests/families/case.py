"""What a test needs of one model family: a tiny random model and inputs for it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

PAD, BOS, EOS = 0, 1, 2
FIRST_WORD, LAST_WORD = 10, 99
IMAGE, VIDEO, START, END = 100, 101, 102, 103
VOCABULARY = 128
HIDDEN, HEADS, KV_HEADS, HEAD_DIM, LAYERS = 48, 4, 2, 16, 6


@dataclass(frozen=True)
class Sample:
    """One row of a batch: some text, ``images`` images, then ``question`` words.

    ``seed`` fixes its words, its pixels and, where a family has them, the shapes of its images:
    a sample is the same alone and in any batch. With ``video`` each image is a short clip.
    """

    seed: int = 0
    images: int = 1
    question: int = 6
    video: bool = False


@dataclass(frozen=True)
class Case:
    """``inputs(samples, padding="left")`` gives the keyword arguments of the model's forward.

    ``never`` lists the token ids a random model must not generate: it would ask for an image.
    ``videos`` says whether ``Sample.video`` is understood, ``mixed`` whether beside images in one
    batch.
    """

    model: Any
    inputs: Callable[..., dict[str, Tensor]]
    never: tuple[int, ...] = (IMAGE, VIDEO, START, END)
    videos: bool = False
    mixed: bool = True


@dataclass(frozen=True)
class Media:
    """One image as a row of the prompt: its ``tokens``, and its ``pixels`` and shape facts."""

    tokens: list[int]
    pixels: Tensor
    facts: Tensor | None = None


def batch(
    samples: Sequence[Sample],
    media: Callable[[Sample, int, torch.Generator], Media],
    padding: str = "left",
) -> tuple[dict[str, Tensor], list[list[Media]]]:
    """``input_ids`` and ``attention_mask`` of ``samples``, and what each row shows."""
    rows, shown = [], []
    for sample in samples:
        generator = torch.Generator().manual_seed(sample.seed)
        row = [BOS, *_words(generator, 2 + sample.seed % 3)]
        shown.append([media(sample, number, generator) for number in range(sample.images)])
        for image in shown[-1]:
            row += [*image.tokens, *_words(generator, 1)]
        rows.append(row + _words(generator, sample.question))
    width = max(map(len, rows))
    fill = [[PAD] * (width - len(row)) for row in rows]
    left = padding == "left"
    ids = torch.tensor([f + r if left else r + f for f, r in zip(fill, rows)])
    return {"input_ids": ids, "attention_mask": (ids != PAD).long()}, shown


def stacked(shown: list[list[Media]]) -> Tensor | None:
    """The pixels of all images of a batch in one tensor, None where there is no image."""
    pixels = [image.pixels for row in shown for image in row]
    return torch.cat(pixels) if pixels else None


def by_kind(
    samples: Sequence[Sample], shown: list[list[Media]]
) -> tuple[list[list[Media]], list[list[Media]]]:
    """Of what the rows of a batch show, the images and the videos."""
    pairs = list(zip(samples, shown))
    return [row for sample, row in pairs if not sample.video], [
        row for sample, row in pairs if sample.video
    ]


def given(**arguments: Tensor | None) -> dict[str, Tensor]:
    """Only the arguments that are there."""
    return {name: value for name, value in arguments.items() if value is not None}


def facts(shown: list[list[Media]]) -> Tensor | None:
    """The shape facts of all images of a batch, stacked."""
    found = [image.facts for row in shown for image in row if image.facts is not None]
    return torch.stack(found) if found else None


def with_large_weights(model: nn.Module, gain: float = 1.2) -> Any:
    """Weights large enough that attention is far from flat: dropping a token must be felt."""
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.dim() > 1:
            parameter.data = noise * (gain / parameter[0].numel() ** 0.5)
        else:
            parameter.data += 0.1 * noise
    embedding = model.get_input_embeddings().weight  # type: ignore[operator]
    embedding.data = torch.randn(embedding.shape, generator=generator)
    return model.eval()


def sizes(**changes: Any) -> dict[str, Any]:
    """Keyword arguments of a tiny decoder's config: GQA, head_dim other than width / heads."""
    return {
        "vocab_size": VOCABULARY,
        "hidden_size": HIDDEN,
        "intermediate_size": 96,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD_DIM,
        "max_position_embeddings": 512,
        "pad_token_id": PAD,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
    } | changes


def noise(generator: torch.Generator, *shape: int) -> Tensor:
    """Random pixels."""
    return torch.randn(shape, generator=generator)


def _words(generator: torch.Generator, count: int) -> list[int]:
    return torch.randint(FIRST_WORD, LAST_WORD + 1, (count,), generator=generator).tolist()
