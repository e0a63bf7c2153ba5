"""Where patches, pooling windows and upsampling cells lie: integer arithmetic shared by all kernels.

A stage of factor f reduces `size` rows to n = size // f. Every position is computed from the exact rational n / size;
`EVEN` says that f divides H and W, which leaves no division. Products that could exceed 32 bits are avoided by
writing size = n * f + remainder.
"""

from typing import NamedTuple

import triton
import triton.language as tl


class Problem(NamedTuple):
    """What is constant in a launch: channels, kernel size, stages, the gate, and which optional tensors there are."""

    C: tl.constexpr
    K: tl.constexpr
    S: tl.constexpr
    SIGMOID: tl.constexpr
    HAS_BIAS: tl.constexpr
    HAS_RESIDUAL: tl.constexpr


class Stage(NamedTuple):
    """A stage's place among the stages, its factor, and whether that divides H and W."""

    i_s: tl.constexpr
    FACTOR: tl.constexpr
    EVEN: tl.constexpr


class TileSize(NamedTuple):
    """What a program computes: BP patches of RH x RW outputs, by BC channels."""

    BP: tl.constexpr
    BC: tl.constexpr
    RH: tl.constexpr
    RW: tl.constexpr


@triton.jit
def patch_origins(i_t, B, n_r, n_c, BP: tl.constexpr):
    """The BP patches of tile i_t among B images of n_r x n_c patches: image, patch row, patch column, mask."""
    o_p = i_t * BP + tl.arange(0, BP)[:, None]  # [BP, 1]
    in_image = o_p % (n_r * n_c)
    return o_p // (n_r * n_c), in_image // n_c, in_image % n_c, o_p < B * n_r * n_c


@triton.jit
def channel_lanes(i_c, CHANNELS: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr):
    """The channels of block i_c and their mask, both of a whole tile's shape so that every load shares one layout."""
    o_c = tl.broadcast_to(i_c * BC + tl.arange(0, BC)[None, :], [BP, BC])
    # Without a tail the mask is known when compiling, and no predicate is carried.
    m_c = tl.full([BP, BC], True, tl.int1) if CHANNELS % BC == 0 else o_c < CHANNELS
    return o_c, m_c


@triton.jit
def pool_start(i, size, n, FACTOR: tl.constexpr, EVEN: tl.constexpr):
    """First row of pooling window i: floor(i * size / n)."""
    return i * FACTOR if EVEN else i * FACTOR + i * (size - n * FACTOR) // n


@triton.jit
def pool_end(i, size, n, FACTOR: tl.constexpr, EVEN: tl.constexpr):
    """Row after pooling window i: ceil((i + 1) * size / n)."""
    return (i + 1) * FACTOR if EVEN else (i + 1) * FACTOR + ((i + 1) * (size - n * FACTOR) + n - 1) // n


@triton.jit
def longest_window(size, n, FACTOR: tl.constexpr, EVEN: tl.constexpr):
    """No pooling window is longer: none, one or both of its end rows may be shared."""
    return FACTOR if EVEN else size // n + tl.minimum(size % n, 2)


@triton.jit
def last_window(row, size, n, FACTOR: tl.constexpr, EVEN: tl.constexpr):
    """The last pooling window that holds `row`; only the one before it may hold it too."""
    return row // FACTOR if EVEN else (((row + 1).to(tl.int64) * n - 1) // size).to(tl.int32)


@triton.jit
def cell_start(cell, size, n, FACTOR: tl.constexpr, EVEN: tl.constexpr):
    """First output row that bilinear upsampling interpolates between reduced rows `cell` and `cell` + 1.

    Cells run from -1 to n - 1; their reduced rows are clamped to 0 and n - 1. Output row y lies in the cell
    floor((y + 0.5) * n / size - 0.5), so that cell m starts at ceil(((2 m + 1) * size - n) / (2 n)).
    """
    odd = 2 * tl.maximum(cell, 0) + 1
    twice = odd * FACTOR - 1
    if EVEN:
        start = (twice + 1) // 2
    else:
        start = twice // 2 + ((twice % 2) * n + odd * (size - n * FACTOR) + 2 * n - 1) // (2 * n)
    return tl.where(cell < 0, 0, tl.minimum(start, size))


@triton.jit
def tallest_cell(size, n, FACTOR: tl.constexpr, EVEN: tl.constexpr):
    """No cell holds more output rows: ceil(size / n)."""
    return FACTOR if EVEN else (size + n - 1) // n


@triton.jit
def cell_fraction(row, cell, size, n, FACTOR: tl.constexpr, EVEN: tl.constexpr):
    """How far output row `row` lies from reduced row `cell` towards the next, in [0, 1).

    The true numerator is below 2 * size, hence right even where its two terms wrap around 32 bits.
    """
    if EVEN:
        fraction = (2 * row + 1 - (2 * cell + 1) * FACTOR).to(tl.float32) / (2 * FACTOR)
    else:
        numerator = (2 * row + 1) * n - (2 * cell + 1) * size
        fraction = numerator.to(tl.float32) / (2 * size).to(tl.float32)
    return fraction
