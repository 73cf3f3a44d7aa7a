"""What holds conversations, by name: a file, or a Hugging Face data set."""

from pathlib import Path

from rcp.conversations.asked import AS_IT_STANDS, Reading
from rcp.conversations.leave_out import LeftOut
from rcp.conversations.reader import ConversationDataset
from rcp.conversations.splits import TRAIN, is_table
from rcp.conversations.table import TableDataset


def open_conversations(
    source: str,
    image_folder: str | Path | None = None,
    left_out: LeftOut | None = None,
    split: str = TRAIN,
    reading: Reading = AS_IT_STANDS,
    all_turns: bool = False,
) -> ConversationDataset:
    """The samples that ``source`` names; ``image_folder`` is where the paths of images start.

    With ``all_turns`` every question of a conversation is one. ``split`` is the one meant where
    ``source`` is a folder of several and names none; ``reading`` is for rows of a published set.
    Raises ``UserError`` for what is not there or cannot be read.
    """
    if is_table(source):
        return TableDataset(source, image_folder, left_out, split, reading, all_turns)
    return ConversationDataset(source, image_folder, left_out, reading, all_turns)
