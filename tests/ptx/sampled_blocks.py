"""Which blocks of a launch stand for the others: some of each kind, with how many blocks each stands for."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable

from host_build import module as host_build

SAMPLE = 12  # blocks of a launch whose tiles are not known here
Sampled = dict[int, int]  # by block
Choice = Callable[[int], Sampled]  # from how many blocks a launch has


def one_of_each(kinds: dict[object, list[int]]) -> Sampled:
    """The middle block of each kind."""
    return {members[len(members) // 2]: len(members) for members in kinds.values()}


def pyramid_blocks(plan) -> Sampled:
    """Blocks of a pyramid's launch differ by stage, and by whether their tile is at an edge of the image.

    Some have no tile, and leave at once.
    """
    tiles = host_build().located_tiles(plan)
    last: dict[int, list[int]] = {}
    for stage, _, *position, _ in tiles:
        last[stage] = [max(pair) for pair in zip(last.get(stage, position), position, strict=True)]
    kinds = defaultdict(list)
    for stage, _, *position, block in tiles:
        ends = tuple((at == 0, at == most) for at, most in zip(position, last[stage], strict=True))
        kinds[stage, ends].append(block)
    idle = set(range(plan.blocks)).difference(block for *_, block in tiles)
    return one_of_each(kinds | ({None: sorted(idle)} if idle else {}))


def projection_blocks(plan, images: int, across: int = 1) -> Sampled:
    """Blocks of a 1 x 1 convolution differ by their outputs, and by whether theirs are pixels at an image's end.

    `across`: tiles of pixels in a row of an image, where they are rectangles.
    """
    columns, rest = divmod(plan.blocks, images * plan.row_tiles)
    assert rest == 0
    kinds = defaultdict(list)
    for block in range(plan.blocks):
        row_tile, column = block // columns % plan.row_tiles, block % columns
        row, col = divmod(row_tile, across)
        kinds[column, row == (plan.row_tiles - 1) // across, col == 0, col == across - 1].append(block)
    return one_of_each(kinds)


def evenly(blocks: int) -> Sampled:
    """Blocks evenly over a launch, each standing for its share."""
    count = min(blocks, SAMPLE)
    bounds = [blocks * i // count for i in range(count + 1)]
    return {(a + b) // 2: b - a for a, b in itertools.pairwise(bounds)}
