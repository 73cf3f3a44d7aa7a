"""Samples that cannot be read: passed over, and noted on the one in their place."""

from torch.utils.data import Dataset

from rcp.conversations import ConversationDataset, LoadedSample
from rcp.errors import UserError


class PassingOver(Dataset[LoadedSample]):
    """``dataset``, with the next readable sample in the place of one that cannot be read.

    Batches so keep their size, in every process alike. What was passed over is noted on the
    sample that stands in for it, which is how it gets out of the workers.
    """

    def __init__(self, dataset: ConversationDataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> LoadedSample:
        skipped: list[tuple[str, str]] = []
        for step in range(len(self)):
            number = (index + step) % len(self)
            try:
                item = self.dataset[number]
            except UserError as error:
                skipped.append((self.dataset.samples[number].id, str(error)))
                continue
            return LoadedSample(item.sample, item.images, tuple(skipped))
        raise UserError(f"No sample of '{self.dataset.path}' can be read. {skipped[0][1]}")
