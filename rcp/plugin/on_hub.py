"""What models of Hugging Face can do, too: save, load and push themselves.

Methods and their arguments are called as in ``huggingface_hub.ModelHubMixin``, which is no base of
a plug-in: it takes arguments of the constructor from a ``config.json`` of whoever wrote that.
"""

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rcp.atomic_write import whole_folder
from rcp.errors import UserError
from rcp.quoting import quoted

if TYPE_CHECKING:
    from rcp.plugin.plugin import Plugin


class OnHub:
    """Methods of :class:`rcp.Plugin` that lead to the room of the folder, which stands above it."""

    def save_pretrained(
        self: Any,
        save_directory: str | Path,
        *,
        evaluation: str | Path | None = None,
        repo_id: str | None = None,
        push_to_hub: bool = False,
        **push_arguments: Any,
    ) -> str | None:
        """Write the plug-in as :func:`rcp.save_plugin` does, but in place of one already there.

        ``evaluation``: the JSON file that evaluate.py wrote; the model card says what it found.
        With ``push_to_hub`` also :meth:`push_to_hub` as ``repo_id`` (default: the folder's name),
        with ``push_arguments``; its result is returned. Raises ``UserError`` for a folder that
        holds anything else, and where nothing can be written.
        """
        from rcp.folder.read_write import write_files

        folder = Path(save_directory).resolve()
        _refuse_to_replace(folder, evaluation)
        with whole_folder(folder) as unfinished:
            write_files(self, unfinished, evaluation=evaluation)
        if not push_to_hub:
            return None
        return self.push_to_hub(repo_id or folder.name, evaluation=evaluation, **push_arguments)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        revision: str | None = None,
        **access: Any,
    ) -> "Plugin":
        """As :func:`rcp.load_plugin`."""
        from rcp.folder.read_write import load_plugin

        return load_plugin(pretrained_model_name_or_path, revision=revision, **access)

    def push_to_hub(
        self: Any,
        repo_id: str,
        *,
        commit_message: str = "Push a plug-in of rcp",
        private: bool | None = None,
        token: str | bool | None = None,
        branch: str | None = None,
        create_pr: bool | None = None,
        evaluation: str | Path | None = None,
    ) -> str:
        """Put the plug-in into the repository ``repo_id`` of the hub, in place of one there.

        The repository is made where there is none, ``private`` or not; ``branch``: by default main.
        ``evaluation`` as in :meth:`save_pretrained`. Returns the commit's address. Raises
        ``UserError`` where the hub refuses.
        """
        from rcp.folder.files import FILES
        from rcp.folder.hub import sent
        from rcp.folder.read_write import write_files

        with tempfile.TemporaryDirectory() as folder:
            write_files(self, Path(folder), repo_id, evaluation)
            return sent(
                Path(folder),
                repo_id,
                private,
                token,
                revision=branch,
                create_pr=create_pr,
                commit_message=commit_message,
                delete_patterns=[*FILES, "lora/*"],  # of the one before that this one lacks
            )


def _refuse_to_replace(folder: Path, evaluation: str | Path | None) -> None:
    """Raise ``UserError`` where saving into ``folder`` would cost more than an exported plug-in."""
    from rcp.folder.files import EVALUATION, FILES

    if not os.path.lexists(folder):
        return
    if not os.path.isdir(folder):
        raise UserError(f"'{folder}' is no folder. Name one, or a place where there is nothing.")
    own = set(FILES) if evaluation is not None else set(FILES) - {EVALUATION}
    if others := sorted(set(os.listdir(folder)) - own):
        raise UserError(
            f"'{folder}' holds {quoted(others[0])}, which would go with the plug-in there. Name "
            f"another folder, or move it; evaluation.json is given by evaluation=."
        )
