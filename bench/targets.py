"""What the CPU kernels and the block are measured against: ratios within one run on two threads."""

from tables import Row, Target, geometric_mean

from deltaconv_kernels.testing import NAMED_SHAPES

EAGER, FORWARD, TRAINING = "over best eager", "forward", "forward + backward"


def pyramid_table(what: str, dtype: str) -> str:
    return f"{what}, {dtype}"


def block_table(width: int, kernel_size: int) -> str:
    return f"block against SDPA self-attention, width {width}, K = {kernel_size}, 8 heads, float32"


def _wide_kernel(row: Row) -> bool:
    return NAMED_SHAPES[str(row["shape"])].kernel_size >= 9


def _tokens(count: int):
    return lambda row: row["tokens"] == str(count)


def _targets() -> list[Target]:
    forward, training = pyramid_table(FORWARD, "float32"), pyramid_table(TRAINING, "float32")
    targets = [
        Target("forward, float32: over eager's best layout, geometric mean", forward, EAGER, geometric_mean, 4),
        Target("forward + backward, float32: the same", training, EAGER, geometric_mean, 5),
        Target("forward, K >= 9: share of sgemm's GFLOP/s, least", forward, "of sgemm", min, 0.75, where=_wide_kernel),
    ]
    for dtype in ("bfloat16", "float16"):
        table = pyramid_table(FORWARD, dtype)
        targets.append(
            Target(
                f"forward, {dtype}: time over float32's, geometric mean",
                table,
                "time over float32",
                geometric_mean,
                1.3,
                False,
            )
        )
    for what in (FORWARD, TRAINING):
        for dtype in ("float32", "bfloat16", "float16"):
            table = pyramid_table(what, dtype)
            targets.append(Target(f"{what}, {dtype}: over eager's best layout, least", table, EAGER, min, 1))
    for tokens, wanted in ((4096, 20), (16384, 60)):
        name = f"block of width 320 over self-attention, {tokens} tokens"
        targets.append(Target(name, block_table(320, 9), "over attention", min, wanted, where=_tokens(tokens)))
    return targets


TARGETS = _targets()
