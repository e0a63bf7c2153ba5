"""What is known of a self-attention that can be replaced, and of the modules that know its grid."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import nn
from torch.utils.hooks import RemovableHandle

from deltaconv_kernels import DeltaConvBlock

from ..flops import TextStream
from ..grids import InputGrid
from ..hooks import Control, FeatureTap
from ..routing import DeltaConvAttention, StandIn
from .linear_maps import LinearMaps, linear_maps


@dataclass(frozen=True, eq=False)
class Owner:
    """A module that knows the grid of the `attentions` inside it, which get all that its `source`'s carrier holds."""

    module: nn.Module
    source: InputGrid
    attentions: tuple[nn.Module, ...]


@dataclass(frozen=True, eq=False)
class Site(ABC):
    """One self-attention; for a sample of H x W it has ceil(H/stride) x ceil(W/stride) tokens.

    `stand_in` is the class that the attention becomes while a block stands in for it.
    """

    name: str
    attention: Any
    owner: Owner
    stride: int

    stand_in: ClassVar[type[StandIn]] = DeltaConvAttention

    @property
    def dim(self) -> int:
        """Channels of the tokens that it takes and gives."""
        return self.attention.query_dim

    @property
    def heads(self) -> int:
        return self.attention.heads

    @property
    def inner_dim(self) -> int:
        """Channels of queries, keys and values, all heads together."""
        return self.attention.inner_dim

    @property
    def input_layer(self) -> Any:
        """A layer that projects its input: where it is, and what type it computes in, the block is."""
        return self.attention.to_q

    @property
    def kv_dim(self) -> int:
        """Channels of keys, and of values, all heads together: fewer where heads of queries share them."""
        return getattr(self.attention, "inner_kv_dim", self.inner_dim)

    @property
    def has_outputs(self) -> bool:
        """Whether the attention projects what its heads gathered, or leaves that to the block around it."""
        return True

    @property
    @abstractmethod
    def feature_module(self) -> nn.Module:
        """The first module that takes the hidden state right after the self-attention's residual add."""

    def tap_features(self, control: Control) -> RemovableHandle:
        """Let features be recorded from now on."""
        return self.feature_module.register_forward_pre_hook(FeatureTap(control, self.name))

    @property
    def block_options(self) -> dict[str, Any]:
        """Options of its block, in the fusion's config, that not all kinds have."""
        return {}

    def text_stream(self, tokens: int) -> TextStream | None:
        """Of a joint attention, what its FLOPs depend on if there are so many text tokens."""
        return None

    def start(self, block: DeltaConvBlock, measured: object | None) -> LinearMaps:
        """The maps that its block starts from; whatever else the block has gets its start here.

        Raises:
            ValueError: as `linear_maps`; what was measured does not fit.
        """
        return self.linear_maps()

    def linear_maps(self) -> LinearMaps:
        """What the attention does to the values of its own input.

        Raises:
            ValueError: its output is not linear in the values of its own input.
        """
        return linear_maps(self.attention, self.name)


@dataclass
class Sites:
    """The self-attentions of a denoiser by name, the modules that know their grids, and what was skipped and why."""

    found: dict[str, Site] = field(default_factory=dict)
    owners: list[Owner] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
