"""What the frozen model gives for each sample, kept on disk: it is the same in every run."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm
from transformers.modeling_outputs import BaseModelOutputWithPooling

from rcp.attaching.given_images import given_images
from rcp.attaching.trace import Trace
from rcp.choosing.tokens import predicting
from rcp.conversations import (
    Batch,
    ConversationCollator,
    ConversationDataset,
    Sample,
    on_device,
)
from rcp.conversations.sample import ImageSource
from rcp.conversations.unreadable import Filling, WithStandIns, read
from rcp.errors import UserError
from rcp.quoting import quoted
from rcp.training.teacher.fingerprint import check_fingerprint
from rcp.training.teacher.shards import Shards

SHARD = 256
"""Samples in one file."""

FINGERPRINT = "fingerprint.json"

LAYOUT = 2
"""Counts up with what things are called in the files: read by other names, they would be others."""

STACKED = "stacked"
"""Written beside features that the family hands over as one tensor, not as a list."""

Encode = Callable[[dict[str, Tensor]], Any]
"""From the inputs of a batch to the features of its images, as :func:`encode_images` gives them."""

Keep = Callable[[Batch], dict[str, Tensor]]
"""From a batch to what is to be kept of it, each tensor named by its kind and its sample."""


class TeacherCache:
    """Image features of each sample, the teacher's answer rows, the relevance of its tokens.

    Answer rows are kept of all layers, with their logits, so that one folder serves every choice
    of repair layers and losses. Samples of one file share the features of the images they share.
    Samples that training would pass over are not in it. Raises ``UserError`` if ``folder`` was made
    with another ``fingerprint``.
    """

    def __init__(
        self, folder: Path, fingerprint: dict[str, str], dataset: ConversationDataset
    ) -> None:
        self.samples = dataset.samples
        self.number = {sample.id: number for number, sample in enumerate(self.samples)}
        check_fingerprint(folder / FINGERPRINT, {**fingerprint, "layout": str(LAYOUT)})
        self.image_names = _image_names(self.samples)
        self.dataset = dataset
        self.shards = Shards(folder)

    @torch.no_grad()
    def build(
        self,
        model: nn.Module,
        collate: ConversationCollator,
        batch_size: int,
        keep: Keep | None = None,
        encode: Encode | None = None,
        rank: int = 0,
        ranks: int = 1,
        together: bool = False,
    ) -> None:
        """Write the files that are missing; each of ``ranks`` processes writes its share, which
        goes by the files' numbers: they need not start or end together.

        ``encode``: image features are kept too, and ``keep`` is called where they are in place.
        ``together``: the processes share the weights of ``model``, so that each must run it as
        often as every other: one that has no sample left does so for nothing.
        """
        device = next(model.parameters()).device
        files = range(self.files)
        groups = [files[first : first + ranks] for first in range(0, len(files), ranks)]
        rounds = [group for group in groups if any(n not in self.shards for n in group)]
        for shards in tqdm(rounds, desc=f"{self.shards.folder}", unit="file"):
            own = [number for number in shards[rank : rank + 1] if number not in self.shards]
            if not own and not together:
                continue
            shard = own[0] if own else None
            found: dict[str, Tensor] = {}
            metadata: dict[str, str] = {}
            longest = self._numbers(shards[0])  # the last file alone may hold fewer samples
            for first in range(0, len(longest), batch_size):
                numbers = self._numbers(shard)[first : first + batch_size]
                mine = read(self.dataset, numbers, collate).batch
                if mine is None and not together:
                    continue
                batch = on_device(mine or Filling(collate)([WithStandIns(self.dataset)[0]]), device)
                features = None if encode is None else encode(batch["inputs"])
                names = [] if encode is None else self._images_of(batch)
                values = _per_image(features, len(names))
                with given_images(model, features):
                    kept = {} if keep is None else keep(batch)
                if mine is None:
                    continue
                found |= {name: value.clone() for name, value in zip(names, values)} | kept
                if isinstance(values, Tensor):
                    metadata["images"] = STACKED
            if shard is not None:
                self.shards.write(shard, found, metadata)

    @property
    def files(self) -> int:
        """How many files there are when all are."""
        return -(-len(self.samples) // SHARD)

    @property
    def missing(self) -> int:
        """How many of them are not there yet."""
        return sum(number not in self.shards for number in range(self.files))

    def _numbers(self, shard: int | None) -> range:
        """The numbers of the samples of the file ``shard``, of None none."""
        every = range(len(self.samples))
        return every[:0] if shard is None else every[shard * SHARD : (shard + 1) * SHARD]

    def images(self, batch: Batch) -> Any:
        """The features of the batch's images, as :func:`encode_images` gives them, or None."""
        shards = [self._shard(name) for name in batch["ids"] for _ in self._sample(name).images]
        found = [self.shards.read(n, name) for n, name in zip(shards, self._images_of(batch))]
        features = [value.to(batch["labels"].device) for value in found if value is not None]
        if not found or len(features) < len(found):
            return None
        stacked = self.shards.metadata(shards[0]).get("images") == STACKED
        pooled: Any = torch.stack(features) if stacked else features
        return BaseModelOutputWithPooling(pooler_output=pooled)

    def answers(self, batch: Batch, layers: Sequence[int], columns: int) -> tuple[Tensor, Trace]:
        """The teacher's logits (B, columns, V), zero off the answer rows, and its trace."""
        states = torch.cat([self._read(name, "states") for name in batch["ids"]], dim=1)
        rows = torch.cat([self._read(name, "logits") for name in batch["ids"]])
        labels = batch["labels"][:, -columns:]
        logits = torch.zeros(*labels.shape, rows.shape[-1], dtype=rows.dtype, device=labels.device)
        logits[predicting(labels)] = rows.to(labels.device)
        states = states.to(labels.device)
        return logits, Trace(answer_states={layer: states[layer] for layer in layers})

    def relevance(self, batch: Batch) -> Tensor:
        """What :func:`rcp.objectives.relevance.relevance` gave for the batch, (B, L, N) fp32."""
        found = [self._read(name, "relevance").float().T for name in batch["ids"]]
        padded = nn.utils.rnn.pad_sequence(found, batch_first=True)
        return padded.transpose(1, 2).to(batch["labels"].device)

    def _images_of(self, batch: Batch) -> list[str]:
        """What the images of a batch are called in their files, in the order of the pixels."""
        return [name for sample in batch["ids"] for name in self.image_names[self.number[sample]]]

    def _sample(self, name: str) -> Sample:
        return self.samples[self.number[name]]

    def _read(self, name: str, what: str) -> Tensor:
        found = self.shards.read(self._shard(name), f"{what} {name}")
        if found is None:
            raise UserError(
                f"The cache '{self.shards.folder}' lacks sample {quoted(name)}. Remove that folder "
                "to have it made again."
            )
        return found

    def _shard(self, name: str) -> int:
        return self.number[name] // SHARD


def _image_names(samples: Sequence[Sample]) -> list[list[str]]:
    """For every sample the names of its images, numbered within each file.

    An image that is the only one of its sample is another than the same among others, where some
    processors cut it into fewer tiles.
    """
    names = []
    for start in range(0, len(samples), SHARD):
        numbers: dict[tuple[ImageSource, bool], int] = {}
        for sample in samples[start : start + SHARD]:
            shown = [(path, len(sample.images) == 1) for path in sample.images]
            names.append([f"image {numbers.setdefault(image, len(numbers))}" for image in shown])
    return names


def _per_image(features: Any, count: int) -> Sequence[Tensor] | Tensor:
    """The features image by image; nothing where the family's are not one tensor an image."""
    values = getattr(features, "pooler_output", None)
    if values is None or len(values) != count or "deepstack_features" in features:
        return []
    return values


def kept_answers(batch: Batch, logits: Tensor, trace: Trace) -> dict[str, Tensor]:
    """The answer rows of every sample: states (L, A, D) of all layers and logits (A, V).

    ``logits`` (B, C, V) of the batch's last C columns, ``trace`` with the answer rows of all
    layers.
    """
    rows = predicting(batch["labels"][:, -logits.shape[1]:])
    counts = rows.sum(1).tolist()
    none = logits.new_zeros(0, sum(counts), 0)
    found_states = [trace.answer_states[layer] for layer in trace.answer_layers]
    states = torch.stack(found_states) if found_states else none
    found: dict[str, Tensor] = {}
    for name, state, row in zip(
        batch["ids"], states.split(counts, dim=1), logits[rows].split(counts)
    ):
        found |= {f"states {name}": state.clone(), f"logits {name}": row.clone()}
    return found


def kept_relevance(batch: Batch, relevance: Tensor, counts: Sequence[int]) -> dict[str, Tensor]:
    """``relevance`` (B, L, N) of every sample's own ``counts`` visual tokens, its largest 1, fp16.

    The unit is lost: labels are made from shares.
    """
    some = nn.functional.pad(relevance, (0, 1))  # a batch of text alone has no visual token
    scale = some.amax((1, 2), keepdim=True).clamp(min=torch.finfo(relevance.dtype).tiny)
    scaled = (relevance / scale).half()
    return {
        f"relevance {name}": values[:, :count].clone()
        for name, values, count in zip(batch["ids"], scaled, counts)
    }
