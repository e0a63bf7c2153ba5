"""The depthwise convolution of a register tile: what every kernel of the pyramid spends its time in.

A lane of a tile [BP, BC] is one channel of one patch of RH x RW outputs; the patch's values are a tuple of RH * RW
tiles, so each stays in a register. A loaded row of RW + K - 1 inputs serves every kernel row and column it meets:
an input is read (1 + (K - 1) / RH) * (1 + (K - 1) / RW) times, where a tap-by-tap kernel reads it K * K times.
"""

import triton
import triton.language as tl

from .grid import longest_window, pool_end, pool_start


@triton.jit
def zeros(N: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr):
    tiles = ()
    for _ in tl.static_range(N):
        tiles = tiles + (tl.zeros([BP, BC], tl.float32),)
    return tiles


@triton.jit
def load_row(
    p_image, row, column, m_lane, H, W, h, w,
    C: tl.constexpr, N: tl.constexpr, FACTOR: tl.constexpr, EVEN: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """N inputs of a stage from (row, column) on, pooled while loading, zero outside h x w: N of [BP, BC]."""
    m_row = m_lane & (row >= 0) & (row < h)
    if FACTOR == 1:
        p_row = p_image + (row.to(tl.int64) * W + column) * C
        values = load_points(p_row, m_row, column, w, N, C)
    elif EVEN:
        values = load_even(p_image, row, column, m_row, W, w, C, N, FACTOR, BP, BC)
    else:
        values = load_ragged(p_image, row, column, m_row, H, W, h, w, C, N, FACTOR, BP, BC)
    return values


@triton.jit
def load_points(p_row, m_row, column, w, N: tl.constexpr, STEP: tl.constexpr):
    """N values a constant STEP apart, the first at `column`, zero outside w: N of [BP, BC]."""
    values = ()
    for j in tl.static_range(N):
        m_x = m_row & (column + j >= 0) & (column + j < w)
        values = values + (tl.load(p_row + j * STEP, mask=m_x, other=0).to(tl.float32),)
    return values


@triton.jit
def add(left, right, N: tl.constexpr):
    sums = ()
    for j in tl.static_range(N):
        sums = sums + (left[j] + right[j],)
    return sums


@triton.jit
def load_even(
    p_image, row, column, m_row, W, w,
    C: tl.constexpr, N: tl.constexpr, FACTOR: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """load_row where every window is FACTOR x FACTOR: addresses differ by constants, which fold into the loads."""
    p_window = p_image + (row.to(tl.int64) * W + column) * (FACTOR * C)
    sums = zeros(N, BP, BC)
    for i_y in range(FACTOR):
        for i_x in range(FACTOR):
            p_row = p_window + (W.to(tl.int64) * i_y + i_x) * C
            sums = add(sums, load_points(p_row, m_row, column, w, N, FACTOR * C), N)
    share = tl.full([BP, BC], 1.0 / (FACTOR * FACTOR), tl.float32)
    means = ()
    for j in tl.static_range(N):
        # By turns two instructions for one product: equal neighbours LLVM gathers into a vector for each tap that
        # shifts over the row, and then sums a window once for every vector that holds it.
        b_mean = tl.fma(sums[j], share, tl.zeros([BP, BC], tl.float32)) if j % 2 else sums[j] * share
        means = means + (b_mean,)
    return means


@triton.jit
def load_ragged(
    p_image, row, column, m_row, H, W, h, w,
    C: tl.constexpr, N: tl.constexpr, FACTOR: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """load_row where FACTOR does not divide H and W: windows differ in size and may share a row or column."""
    top = pool_start(row, H, h, FACTOR, False)
    height = pool_end(row, H, h, FACTOR, False) - top
    left, width = (), ()
    for j in tl.static_range(N):
        start = pool_start(column + j, W, w, FACTOR, False)
        end = pool_end(column + j, W, w, FACTOR, False)
        left = left + (start,)
        width = width + (tl.where((column + j >= 0) & (column + j < w), end - start, 0),)
    sums = zeros(N, BP, BC)
    for i_y in range(longest_window(H, h, FACTOR, False)):
        m_y = m_row & (i_y < height)
        p_row = p_image + (top + i_y).to(tl.int64) * W * C
        for i_x in range(longest_window(W, w, FACTOR, False)):
            values = ()
            for j in tl.static_range(N):
                b_x = tl.load(p_row + (left[j] + i_x).to(tl.int64) * C, mask=m_y & (i_x < width[j]), other=0)
                values = values + (b_x.to(tl.float32),)
            sums = add(sums, values, N)
    means = ()
    for j in tl.static_range(N):
        means = means + (sums[j] / (height * tl.maximum(width[j], 1)).to(tl.float32),)
    return means


@triton.jit
def load_taps(p_taps, m_c, C: tl.constexpr, K: tl.constexpr, FLIP: tl.constexpr):
    """One kernel row of filters, mirrored for the adjoint: K of [BP, BC]."""
    taps = ()
    for k in tl.static_range(K):
        p_tap = p_taps + (K - 1 - k if FLIP else k) * C
        taps = taps + (tl.load(p_tap, mask=m_c, other=0).to(tl.float32),)
    return taps


@triton.jit
def add_kernel_row(sums, inputs, taps, RW: tl.constexpr, K: tl.constexpr):
    """RW outputs plus the correlation of RW + K - 1 inputs with K taps."""
    added = ()
    for n in tl.static_range(RW):
        b_sum = sums[n]
        for k in tl.static_range(K):
            b_sum = tl.fma(inputs[n + k], taps[k], b_sum)
        added = added + (b_sum,)
    return added


@triton.jit
def convolve(
    sums, p_image, p_filter, row, column, m_p, m_c, H, W, h, w,
    C: tl.constexpr, K: tl.constexpr, FACTOR: tl.constexpr, EVEN: tl.constexpr, FLIP: tl.constexpr,
    tile: tl.constexpr,
):  # fmt: skip
    """Adds to `sums` the correlation of a stage with its filters, at the patch from (row, column) on.

    p_image points to each lane's channel of pixel (0, 0), p_filter to its channel of tap (0, 0). FLIP mirrors the
    filters, which makes this the adjoint. `tile` is a TileSize; sums are RH * RW of [BP, BC] float32, row by row.
    """
    RW: tl.constexpr = tile.RW
    for r in range(tile.RH + K - 1):
        inputs = load_row(
            p_image, row + (r - K // 2), column - K // 2, m_p & m_c, H, W, h, w,
            C, RW + K - 1, FACTOR, EVEN, tile.BP, tile.BC,
        )  # fmt: skip
        added = ()
        for i in tl.static_range(tile.RH):
            b_row = sums[i * RW : (i + 1) * RW]
            k_r = r - i
            if (k_r >= 0) & (k_r < K):
                tap_row = (K - 1 - k_r) if FLIP else k_r
                taps = load_taps(p_filter + tap_row * (K * C), m_c, C, K, FLIP)
                b_row = add_kernel_row(b_row, inputs, taps, RW, K)
            added = added + b_row
        sums = added
    return sums
