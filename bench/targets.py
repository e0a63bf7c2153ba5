"""What the CPU kernels and the block are measured against: ratios within one run, on two threads or one."""

from tables import Row, Target, geometric_mean

from deltaconv_kernels.testing import NAMED_SHAPES

EAGER, FORWARD, TRAINING = "over best eager", "forward", "forward + backward"
DTYPES = ("float32", "float64", "bfloat16", "float16")
ALL_THREADS, ONE_THREAD, FEW_CHANNELS = "", ", one thread", ", few channels"  # parts of a table's title
THREADS = "all threads over one, float32"


def pyramid_table(what: str, dtype: str, setting: str = ALL_THREADS) -> str:
    return f"{what}, {dtype}{setting}"


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
    settings = [(dtype, threads) for threads in (ALL_THREADS, ONE_THREAD) for dtype in DTYPES]
    for dtype, setting in (*settings, ("float32", FEW_CHANNELS)):
        for what in (FORWARD, TRAINING):
            table = pyramid_table(what, dtype, setting)
            targets.append(Target(f"{table}: over eager's best layout, least", table, EAGER, min, 1))
    for tokens, wanted in ((4096, 20), (16384, 60)):
        name = f"block of width 320 over self-attention, {tokens} tokens"
        targets.append(Target(name, block_table(320, 9), "over attention", min, wanted, where=_tokens(tokens)))
    return targets


TARGETS = _targets()
