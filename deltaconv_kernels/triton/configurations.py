"""How large a tile each kernel takes: a table of measured choices, and a rule where it has none.

Keyed on C, H, W, K, dtype and device, never on the batch: a larger batch must not compile, or round, differently.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import torch

MAX_REGISTERS = 255  # of a thread
A_THIRD_OF_REGISTERS = 168  # a multiprocessor's 65536 shared by three programs of 128 threads
TABLE = Path(__file__).parent / "configurations.json"


@dataclass(frozen=True)
class Tile:
    """A program's work: BP patches of RH x RW outputs by BC channels, on `warps` warps.

    The weight kernel takes runs of RW pixels, and RH kernel rows at a time.
    """

    BP: int
    BC: int
    RH: int
    RW: int
    warps: int


@dataclass(frozen=True)
class Configuration:
    """The tiles of the forward kernel, of the backward convolutions, and of the weight gradient."""

    forward: Tile
    backward: Tile
    weight: Tile


@dataclass(frozen=True)
class Key:
    """What a configuration may depend on; `device` as `device_kind` names it."""

    channels: int
    height: int
    width: int
    kernel_size: int
    dtype: torch.dtype
    device: str

    def __str__(self) -> str:
        dtype = str(self.dtype).removeprefix("torch.")
        return f"{self.device}/{self.height}x{self.width}x{self.channels}-k{self.kernel_size}-{dtype}"


@cache
def device_kind(device: torch.device) -> str:
    """ "sm90", "gfx942": the instruction set that a tile was tuned for; "interpreter" on a CPU."""
    if device.type == "cpu":
        return "interpreter"
    properties = torch.cuda.get_device_properties(device)
    if torch.version.hip is not None:
        return properties.gcnArchName.split(":")[0]
    return f"sm{properties.major}{properties.minor}"


def lanes_of(device: str) -> int:
    """Lanes of a warp: AMD's gfx9 (CDNA) computes in waves of 64, its later GPUs and NVIDIA's in 32."""
    return 64 if device.startswith("gfx9") else 32


@cache
def table() -> dict[str, Configuration]:
    """The shipped configurations by str(Key)."""
    entries = json.loads(TABLE.read_text())
    return {
        key: Configuration(**{kernel: Tile(**tile) for kernel, tile in entry.items()}) for key, entry in entries.items()
    }


def write_table(entries: dict[str, Configuration]) -> None:
    """Replace the shipped table, in the order of its keys."""
    text = json.dumps({key: asdict(entries[key]) for key in sorted(entries)}, indent=1) + "\n"
    beside = TABLE.with_suffix(".new")
    beside.write_text(text)
    beside.replace(TABLE)


@cache
def configuration(key: Key) -> Configuration:
    """The table's entry, else the rule's."""
    return table().get(str(key)) or rule(key)


def rule(key: Key) -> Configuration:
    """A choice from the compiled code alone (docs/triton.md): one channel a lane, few loads for each product."""
    if key.device == "interpreter":  # its time goes with the number of operations, whatever their size
        return Configuration(Tile(64, 16, 2, 2, 4), Tile(64, 16, 2, 2, 4), Tile(64, 16, 2, 2, 4))
    rows, warps = 4 if key.kernel_size <= 13 else 2, 8 * 16 // lanes_of(key.device)
    return Configuration(Tile(8, 16, rows, 8, warps), Tile(8, 16, 2, 8, warps), Tile(8, 16, 2, 8, warps))


def register_bound(tile: Tile, kernel_size: int, even: bool) -> int:
    """What a thread of NVIDIA's may take: a share that lets three programs run at once, where it never spills."""
    outputs_a_lane = tile.RH * tile.RW * tile.BP * tile.BC // (32 * tile.warps)
    return A_THIRD_OF_REGISTERS if outputs_a_lane <= 32 and kernel_size <= 11 and even else MAX_REGISTERS
