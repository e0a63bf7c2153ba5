"""Saving, loading and publishing of a fusion: the half of `DeltaConvFusion` that has to do with files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from diffusers import ConfigMixin, ModelMixin

from ..atomic import atomic_directory
from .hub import take_hub_options, upload
from .side_car import MODEL_CARD, is_side_car, keep_what_stays_true

if TYPE_CHECKING:
    from typing_extensions import Self


class SavedFusion(ModelMixin, ConfigMixin):
    """A model that is saved as a side-car: config.json, safetensors, and the card of whoever trained it."""

    _card: str | None = None  # the text of the model card that it was loaded with

    def save_pretrained(
        self,
        save_directory: str | os.PathLike,
        is_main_process: bool = True,
        variant: str | None = None,
        push_to_hub: bool = False,
        **options: Any,
    ) -> None:
        """Write the side-car, config.json and safetensors: all of it or nothing.

        An earlier side-car of the same layers keeps its other variants and its model card; any other one is replaced.

        Args:
            save_directory: a new directory or an earlier side-car.
            is_main_process: of several processes that save together, only the main one writes.
            variant: a name for weights beside the usual ones, such as "fp16".
            push_to_hub: upload the whole folder, under its name or `repo_id`, with `token`, `private`, `create_pr` and
                `commit_message` as for `push_to_hub`.
            options: of `ModelMixin.save_pretrained`: safe_serialization, max_shard_size, ….

        Raises:
            FileExistsError: the directory holds other things.
            ValueError: adapters such as LoRA are in the blocks, which no side-car can name.
        """
        if not is_main_process:
            return
        directory = Path(save_directory)
        if directory.exists() and not is_side_car(directory, type(self).__name__):
            raise FileExistsError(f"save_directory: expected a new directory or an earlier side-car, not {directory}")
        self._refuse_adapters()
        hub_options = take_hub_options(options)
        with atomic_directory(directory) as partial:
            super().save_pretrained(partial, variant=variant, **options)
            if self._card is not None:
                (partial / MODEL_CARD).write_text(self._card, encoding="utf-8")
            keep_what_stays_true(directory, partial, variant)
        if push_to_hub:
            upload(directory, **hub_options)

    def push_to_hub(self, repo_id: str, subfolder: str | None = None, **options: Any) -> str:
        """Upload the side-car, with its model card where it was loaded with one; returns the address of the commit.

        Args:
            repo_id: such as "name/my-fusion".
            subfolder: of the repository, where the files go.
            options: `token`, `private`, `create_pr`, `commit_message`; the others are those of `save_pretrained`.
        """
        hub_options = take_hub_options(options)
        with TemporaryDirectory() as folder:
            self.save_pretrained(folder, **options)
            return upload(Path(folder), repo_id, subfolder=subfolder, **hub_options)

    @classmethod
    def from_pretrained(cls, path: str | os.PathLike, **options: Any) -> Self:
        """Read a side-car, as float32 unless `torch_dtype` says otherwise; `attach` gives it the dtype of its denoiser.

        Args:
            path: a folder, or a hub id.
            options: of `ModelMixin.from_pretrained`, such as `variant`, `revision`, `subfolder`, `torch_dtype`.

        Raises:
            OSError: no side-car there.
            ValueError: the folder is another model's; its weights are not those that its config names.
        """
        folder = Path(path) / (options.get("subfolder") or "")
        config = cls.load_config(path, **_of_config(options))
        if config.get("_class_name") != cls.__name__:
            raise ValueError(
                f"path: expected the side-car of a {cls.__name__}, got a {config.get('_class_name')} in {folder}"
            )
        fusion, info = super().from_pretrained(path, output_loading_info=True, **options)
        problems = {kind: info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys") if info[kind]}
        if problems:
            raise ValueError(f"path: {path} does not hold the weights that its config names: {problems}")
        card = folder / MODEL_CARD
        fusion._card = card.read_text(encoding="utf-8") if card.is_file() else None
        return fusion

    def _refuse_adapters(self) -> None:
        """Layers of peft hold the block's own as `base_layer`: such a file could not be read back."""
        adapted = [name for name, _ in self.named_parameters() if ".base_layer." in name or ".lora_" in name]
        if adapted:
            raise ValueError(
                f"adapters are in the blocks ({adapted[0]}, …): save them with their own tool, or merge them "
                "(unet.fuse_lora(), then unet.unload_lora()) before saving the fusion"
            )


def _of_config(options: Mapping[str, Any]) -> dict[str, Any]:
    """Those options of `from_pretrained` that say where the files are."""
    names = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")
    return {name: options[name] for name in names if name in options}
