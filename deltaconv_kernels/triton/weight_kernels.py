"""Gradients of weight and bias: float32 partial sums of fixed partitions of the pixels, then their ordered sum."""

import triton
import triton.language as tl

from .convolution import load_row, zeros
from .grid import channel_lanes, patch_origins


@triton.jit
def add_products(sums, inputs, grads, RW: tl.constexpr, K: tl.constexpr):
    """K taps plus the correlation of RW + K - 1 inputs with RW gradients; sum K takes the gradients alone, for bias."""
    added = ()
    for k in tl.static_range(K):
        b_sum = sums[k]
        for n in tl.static_range(RW):
            b_sum = tl.fma(inputs[n + k], grads[n], b_sum)
        added = added + (b_sum,)
    b_sum = sums[K]
    for n in tl.static_range(RW):
        b_sum += grads[n]
    return added + (b_sum,)


@triton.jit
def weight_stage(
    p_plane, p_a, p_partial, i_p, k_first, P, B, h, w,
    C: tl.constexpr, K: tl.constexpr,
    BP: tl.constexpr, BC: tl.constexpr, RK: tl.constexpr, RW: tl.constexpr,
):  # fmt: skip
    """Kernel rows k_first to k_first + RK - 1 of one stage, over the pixels of partition i_p of P.

    A row of inputs meets, for kernel row k, the gradients K // 2 - k rows below it.
    """
    o_c, m_c = channel_lanes(tl.program_id(1), C, BP, BC)
    n_c = tl.cdiv(w, RW)
    steps = tl.cdiv(B * h * n_c, P * BP)
    sums = zeros(RK * (K + 1), BP, BC)
    for i_t in range(steps):
        o_b, row, o_n, m_p = patch_origins(i_p * steps + i_t, B, h, n_c, BP)
        column = o_n * RW
        offset = o_b.to(tl.int64) * h * w * C + o_c
        inputs = load_row(
            p_plane + offset, row, column - K // 2, m_p & m_c, h, w, h, w, C, RW + K - 1, 1, True, BP, BC
        )  # fmt: skip
        added = ()
        for k in tl.static_range(RK):
            below = row + K // 2 - (k_first + k)
            grads = load_row(p_a + offset, below, column, m_p & m_c, h, w, h, w, C, RW, 1, True, BP, BC)
            added = added + add_products(sums[k * (K + 1) : (k + 1) * (K + 1)], inputs, grads, RW, K)
        sums = added
    o_c = tl.program_id(1) * BC + tl.arange(0, BC)
    for k in tl.static_range(RK):
        if k_first + k < K:
            for tap in tl.static_range(K + 1):
                p_tap = p_partial + ((k_first + k) * (K + 1) + tap) * C + o_c
                tl.store(p_tap, tl.sum(sums[k * (K + 1) + tap], axis=0), mask=o_c < C)


@triton.jit(do_not_specialize=["P", "B", "H", "W"])
def pyramid_backward_weight_kernel(
    p_x, p_d, p_a, p_partial, P, B, H, W,
    C: tl.constexpr, K: tl.constexpr, FACTORS: tl.constexpr,
    BP: tl.constexpr, BC: tl.constexpr, RK: tl.constexpr, RW: tl.constexpr,
):  # fmt: skip
    """Partial sums [P, S, K, K + 1, C]. Axis 0: stage, partition, group of RK kernel rows; axis 1: channels."""
    groups: tl.constexpr = (K + RK - 1) // RK
    S: tl.constexpr = len(FACTORS)
    i_p = tl.program_id(0) // groups % P
    k_first = tl.program_id(0) % groups * RK
    pixels = tl.zeros([], tl.int64)
    reduced = tl.zeros([], tl.int64)
    for i_s in tl.static_range(S):
        h, w = H // FACTORS[i_s], W // FACTORS[i_s]
        if tl.program_id(0) // (groups * P) == i_s:
            p_plane = p_x if FACTORS[i_s] == 1 else p_d + reduced * C
            p_sums = p_partial + (i_p.to(tl.int64) * S + i_s) * (K * (K + 1) * C)
            weight_stage(p_plane, p_a + pixels * C, p_sums, i_p, k_first, P, B, h, w, C, K, BP, BC, RK, RW)
        pixels += B.to(tl.int64) * h * w
        if FACTORS[i_s] > 1:
            reduced += B.to(tl.int64) * h * w


@triton.jit(do_not_specialize=["P", "SIZE"])
def pyramid_backward_weight_sum_kernel(
    p_partial, p_dw, p_db, P, SIZE, C: tl.constexpr, K: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Adds P partial sums of SIZE = S * K * (K + 1) * C elements in order; the middle kernel row met every gradient."""
    o_e = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    m_e = o_e < SIZE
    total = tl.zeros([BLOCK], tl.float32)
    for i_p in range(P):
        total += tl.load(p_partial + tl.cast(i_p, tl.int64) * SIZE + o_e, mask=m_e, other=0)
    o_c = o_e % C
    tap = o_e // C % (K + 1)
    row = o_e // (C * (K + 1))  # stage * K + kernel row
    tl.store(p_dw + (row * K + tap) * C + o_c, total, mask=m_e & (tap < K))
    if p_db is not None:
        tl.store(p_db + row // K * C + o_c, total, mask=m_e & (tap == K) & (row % K == K // 2))
