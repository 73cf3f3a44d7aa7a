"""What holds conversations, by name: a file, or a Hugging Face data set."""

from pathlib import Path

from rcp.conversations import ConversationDataset
from rcp.conversations.table import TableDataset, is_table


def open_conversations(source: str, image_folder: str | Path | None = None) -> ConversationDataset:
    """The samples that ``source`` names; ``image_folder`` is for files, whose images are paths.

    Raises ``UserError`` for what is not there or cannot be read.
    """
    return TableDataset(source) if is_table(source) else ConversationDataset(source, image_folder)
