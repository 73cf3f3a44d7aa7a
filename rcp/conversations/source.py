"""What holds conversations, by name: a file, or a Hugging Face data set."""

from pathlib import Path

from rcp.conversations.leave_out import LeftOut
from rcp.conversations.reader import ConversationDataset
from rcp.conversations.splits import TRAIN, is_table
from rcp.conversations.table import TableDataset


def open_conversations(
    source: str,
    image_folder: str | Path | None = None,
    left_out: LeftOut | None = None,
    split: str = TRAIN,
) -> ConversationDataset:
    """The samples that ``source`` names; ``image_folder`` is where the paths of images start.

    ``split`` is the one meant where ``source`` is a folder of several and names none. Raises
    ``UserError`` for what is not there or cannot be read.
    """
    if is_table(source):
        return TableDataset(source, image_folder, left_out, split)
    return ConversationDataset(source, image_folder, left_out)
