"""Where questions come from: a file of ours, or a published set, from a folder or from the hub."""

import difflib
import logging
import os
from collections.abc import Callable
from pathlib import Path

from rcp.conversations import ConversationDataset
from rcp.conversations.reader import JSON
from rcp.conversations.source import open_conversations
from rcp.conversations.splits import KINDS, LIST_OF_SPLITS, is_table, source_of
from rcp.conversations.table import column_by
from rcp.errors import UserError
from rcp.evaluation.sets.base import SETS, EvaluationSet, Hub
from rcp.quoting import quoted

logger = logging.getLogger(__name__)

FROM_HUB = "hub:"


def open_questions(
    data: str, root: Path | None = None, image_folder: Path | None = None
) -> tuple[ConversationDataset, EvaluationSet | None]:
    """The questions that ``data`` names, and the set they are, None for a file of ours.

    With the folder ``root``, ``data`` is the name of a set whose local files lie there; "hub:NAME"
    is a set that ``datasets`` fetches; anything else goes to
    :func:`~rcp.conversations.source.open_conversations`. Raises ``UserError`` for what is neither,
    and warns where a set has another number of rows than was published.
    """
    if data.startswith(FROM_HUB):
        name = data.removeprefix(FROM_HUB)
        if root is not None:
            raise UserError(
                f"--data {data} comes from the hub, so that nothing is read from --data-root "
                f"'{root}'. Leave that out, or give --data {name}."
            )
        return _from_hub(_set_called(name))
    if root is not None:
        return _from_folder(_set_called(data), root, image_folder)
    if not os.path.lexists(data) and not is_table(data):
        _refuse_unknown(data)
    return open_conversations(data, image_folder), None


def _set_called(name: str) -> type[EvaluationSet]:
    if name not in SETS.names():
        raise UserError(
            f"There is no evaluation set {quoted(name)}.{_nearest(name)} Choose one that "
            "'python -m rcp sets' lists."
        )
    return SETS.get(name)


def _refuse_unknown(data: str) -> None:
    """Raise ``UserError`` for ``data`` that names nothing that is there."""
    if data in SETS.names():
        raise UserError(
            f"{quoted(data)} is an evaluation set. Say where it is to come from: a folder with its "
            f"files by --data-root DIR, or the hub by --data {FROM_HUB}{data}."
        )
    raise UserError(
        f"There is no conversation file {quoted(data)}, and no evaluation set of that name."
        f"{_nearest(data)} Give the path of a LLaVA-style JSON file, or a set that 'python -m rcp "
        "sets' lists; the embedded data are written by 'make data'."
    )


def _nearest(name: str) -> str:
    near = difflib.get_close_matches(name.lower(), SETS.names())
    return f" The nearest names are {', '.join(near)}." if near else ""


def _from_hub(cls: type[EvaluationSet]) -> tuple[ConversationDataset, EvaluationSet]:
    if cls.beside_hub:
        raise UserError(
            f"{cls.title} cannot be taken from the hub alone: {cls.beside_hub}. Give a folder with "
            f"its files by --data {cls.name} --data-root DIR; docs/sets.md says which."
        )
    return _opened(cls(), cls.hub.source, None, lambda hub: hub.source)


def _from_folder(
    cls: type[EvaluationSet], root: Path, image_folder: Path | None
) -> tuple[ConversationDataset, EvaluationSet]:
    if not os.path.isdir(root):
        raise UserError(f"--data-root {quoted(root)} is no folder. Name the one with the files.")
    if image_folder is None:
        image_folder = root / cls.image_folder
        image_folder = image_folder if os.path.isdir(image_folder) else root
    own = [root / name for name in (*cls.files, *(cls.name + kind for kind in JSON))]
    source = next((str(file) for file in own if os.path.isfile(file)), None)
    if source is None:
        source = _table(cls.hub, root)
    if source is None:
        raise UserError(
            f"{quoted(root)} holds nothing of {cls.title}: neither "
            f"{', '.join(quoted(file.name) for file in own)} nor a table of split "
            f"{quoted(cls.hub.split)}, in it or in 'data'. docs/sets.md says what is read."
        )
    found = cls(root, image_folder)
    return _opened(found, source, image_folder, lambda hub: _images_in(root, hub))


def _table(hub: Hub, root: Path) -> str | None:
    """The table of ``hub`` in ``root``: in a folder as the hub has it, or in ``root`` itself."""
    folders = [root / hub.configuration] if hub.configuration else []
    folders.append(root / "data")
    if not hub.configuration or _has_tables(root):  # else those in it are other configurations
        folders.append(root)
    return next((source_of(path, hub.split) for path in folders if is_table(str(path))), None)


def _has_tables(root: Path) -> bool:
    """Whether tables lie in ``root`` itself, or it is what ``save_to_disk`` wrote of several."""
    files = (file for kind in KINDS for file in root.glob(f"*.{kind}"))
    return os.path.isfile(root / LIST_OF_SPLITS) or any(files)


def _images_in(root: Path, hub: Hub) -> str:
    folder = root / hub.configuration
    if not is_table(str(folder)):
        raise UserError(
            f"The questions in {quoted(root)} have their images in a table of their own, which is "
            f"not there. Put the hub's {quoted(hub.configuration)} of {hub.name} into it."
        )
    return source_of(folder, hub.split)


def _opened(
    found: EvaluationSet,
    source: str,
    image_folder: Path | None,
    images_of: Callable[[Hub], str],
) -> tuple[ConversationDataset, EvaluationSet]:
    if found.images_of_hub is not None and is_table(source):
        found.images = column_by("id", "image", images_of(found.images_of_hub))
    dataset = open_conversations(source, image_folder, reading=found.reading)
    found.check(dataset.samples)
    rows = len(set(dataset.numbers)) + len(dataset.unreadable)
    if rows != found.rows:
        logger.warning(
            "'%s' has %d rows for %s, of which %d were published: its figures are not comparable "
            "with others'.", dataset.path, rows, found.title, found.rows,
        )
    return dataset, found
