"""Uploads of saved folders to the Hugging Face hub, model card included."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from huggingface_hub import create_repo, upload_folder

OPTIONS = ("repo_id", "token", "private", "create_pr", "commit_message")


def take_hub_options(options: dict[str, Any]) -> dict[str, Any]:
    """Remove from the options of a `save_pretrained` those that are the hub's, and return them."""
    return {name: options.pop(name) for name in OPTIONS if name in options}


def upload(
    folder: Path,
    repo_id: str | None = None,
    token: str | None = None,
    private: bool | None = None,
    create_pr: bool = False,
    commit_message: str | None = None,
    subfolder: str | None = None,
) -> str:
    """Upload all files of `folder`, as they are, into a repository called like it unless `repo_id` says otherwise.

    Returns the address of the commit. What goes wrong on the way is reported by huggingface_hub's own errors.
    """
    repository = create_repo(repo_id or folder.resolve().name, exist_ok=True, private=private, token=token).repo_id
    commit = upload_folder(
        repo_id=repository,
        folder_path=folder,
        path_in_repo=subfolder,
        token=token,
        create_pr=create_pr,
        commit_message=commit_message or "Upload ΔConvBlocks",
    )
    return str(commit)
