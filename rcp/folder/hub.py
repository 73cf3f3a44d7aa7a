"""An exported folder on the Hugging Face hub: fetched without what else lies there, and sent."""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import DryRunError, HFValidationError
from huggingface_hub.utils import validate_repo_id

from rcp.errors import UserError
from rcp.folder.files import LARGEST, refuse_too_large
from rcp.quoting import plain, quoted

ACCESS = ("token", "cache_dir", "force_download", "local_files_only")
"""Names by which ``from_pretrained`` of Hugging Face takes how the hub is reached."""


def is_hub_id(name: str) -> bool:
    """Whether ``name`` has the form of a repository's, ``org/name``."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return name.count("/") == 1


def fetched(repo_id: str, revision: str | None, **access: Any) -> Path:
    """The folder of the hub's cache with description and weights of ``repo_id``, of one commit.

    Nothing else of the repository is fetched. ``revision``: branch, tag or commit; ``access``: see
    ``ACCESS``. Raises ``UserError`` for a repository that cannot be had or holds no plug-in, and
    for files too large for one before they are fetched.
    """
    at = f"'{repo_id}'" if revision is None else f"'{repo_id}' at {quoted(revision)}"
    where: dict[str, Any] = {"repo_id": repo_id, "allow_patterns": list(LARGEST), **access}
    try:
        with suppress(DryRunError):  # offline: what the cache holds is measured when it is read
            for file in snapshot_download(revision=revision, dry_run=True, **where):
                refuse_too_large(file.filename, file.file_size or 0, at)
                revision = file.commit_hash
        folder = Path(snapshot_download(revision=revision, **where))
    except UserError:
        raise
    except Exception as error:  # of a dozen kinds: no network, no such repository, no access ...
        raise UserError(
            f"{at} is no folder here, and no repository that the hub gives ({plain(error)}). For "
            f"a folder, start from where relative paths count; for a repository, correct its name "
            f"or revision, or log in by `hf auth login`."
        ) from error
    for name in LARGEST:
        if not os.path.isfile(folder / name):
            raise UserError(
                f"{at} is no folder here, and on the hub it holds no plug-in: {name} is missing. "
                f"Expected are {' and '.join(LARGEST)}, as Plugin.push_to_hub puts them there."
            )
    return folder


def sent(folder: Path, repo_id: str, private: bool | None, token: Any, **commit: Any) -> str:
    """Put the files of ``folder`` into ``repo_id`` as one commit; it is made where there is none.

    ``commit`` goes to ``HfApi.upload_folder``. Returns the commit's address; raises ``UserError``
    where the hub refuses.
    """
    api = HfApi(token=token)
    try:
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        return api.upload_folder(repo_id=repo_id, folder_path=folder, **commit)
    except Exception as error:  # as above
        raise UserError(
            f"The hub does not take the plug-in as {quoted(repo_id)} ({plain(error)}). Log in by "
            f"`hf auth login`, or pass a token that may write there, and give a name under your "
            f"own or your organisation's, as in 'org/name'."
        ) from error
