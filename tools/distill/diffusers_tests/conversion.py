"""Every denoiser that anybody constructs or loads is converted before they see it."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from deltaconv_distill import DeltaConvFusion
from deltaconv_distill.conversion.side_car import saved_beside
from deltaconv_distill.conversion.sites import find_sites
from diffusers import ControlNetModel, ModelMixin, PixArtTransformer2DModel, UNet2DConditionModel

KERNEL_SIZE = 3
LOADERS = ("from_pretrained", "from_config", "from_unet", "from_single_file")
# The classes that the figures of docs/compatibility.md are about; not all that can be converted.
CONVERTED = (UNet2DConditionModel, ControlNetModel, PixArtTransformer2DModel)


class Construction:
    """Converts what the denoisers' constructors and loaders return, and counts it.

    A loader calls others and the constructor, on the meta device too: only what the outermost returns is converted.
    A folder that a converted model was saved to gives it its own blocks back.
    """

    def __init__(self) -> None:
        self.converted = 0
        self._depth = threading.local()

    def install(self, replace: Callable[[Any, str, Any], None] = setattr) -> None:
        """Put itself before the classes' own methods by `replace`, such as that of pytest's monkeypatch."""
        for kind in CONVERTED:
            replace(kind, "__init__", self._constructor(kind, kind.__init__))
            for name in LOADERS:
                if hasattr(kind, name):
                    replace(kind, name, classmethod(self._loader(getattr(kind, name).__func__)))

    def _constructor(self, kind: type[ModelMixin], construct: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(construct)
        def constructor(model: ModelMixin, *arguments: Any, **options: Any) -> None:
            self._inside(construct, model, *arguments, **options)
            if self._outermost and type(model) is kind:
                self._convert(model, None, {})

        return constructor

    def _loader(self, load: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(load)
        def loader(kind: type[ModelMixin], *arguments: Any, **options: Any) -> Any:
            loaded = self._inside(load, kind, *arguments, **options)
            model = loaded[0] if isinstance(loaded, tuple) else loaded
            if self._outermost and isinstance(model, kind):
                source = options.get("pretrained_model_name_or_path", arguments[0] if arguments else None)
                self._convert(model, source, options)
            return loaded

        return loader

    @property
    def _outermost(self) -> bool:
        return getattr(self._depth, "value", 0) == 0

    def _inside(self, call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        self._depth.value = getattr(self._depth, "value", 0) + 1
        try:
            return call(*arguments, **options)
        finally:
            self._depth.value -= 1

    def _convert(self, model: ModelMixin, source: Any, options: dict[str, Any]) -> None:
        if DeltaConvFusion.attached_to(model) is not None or not find_sites(model).found:
            return
        with torch.random.fork_rng([]):  # the tests' own random numbers stay what they are
            folder = Path(source) / (options.get("subfolder") or "") if isinstance(source, (str, Path)) else None
            if folder is not None and saved_beside(folder) is not None:
                DeltaConvFusion.attach_saved(model, folder, variant=options.get("variant"))
            else:
                DeltaConvFusion.convert(model, kernel_size=KERNEL_SIZE)
        self.converted += 1
