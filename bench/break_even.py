"""Where a student overtakes its teacher."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise


def break_even(ratios: Mapping[int, float]) -> str:
    """The size from which a ratio (the teacher's time over the student's, by size) stays at 1 or above.

    Between two measured sizes it is interpolated, linear in the logarithms: a power law.
    """
    if not ratios:
        return "not measured"
    sizes = sorted(ratios)
    if ratios[sizes[-1]] < 1:
        return f"above {sizes[-1]}"
    below, above = next(
        ((small, large) for small, large in reversed([*pairwise(sizes)]) if ratios[small] < 1 <= ratios[large]),
        (None, sizes[0]),
    )
    if below is None:
        return f"below {above}"
    share = -math.log(ratios[below]) / (math.log(ratios[above]) - math.log(ratios[below]))
    return f"{below * (above / below) ** share:.0f}"
