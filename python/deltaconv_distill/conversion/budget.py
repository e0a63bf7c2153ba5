"""Which layers to convert: a knapsack, of what each saves and what it is expected to lose.

Both questions (the smallest loss that saves so much, the largest saving that loses no more) have their answers on the
same curve: the choices that no other choice beats in both. It is built layer by layer (Nemhauser and Ullmann, 1969):
the best choices among the first n + 1 layers are those among the first n, with and without the next one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# Losses are counted in this many parts of their sum, each rounded up. The curve has no more points than that, whatever
# the numbers are; and a measured loss is known to a thousandth at best.
PARTS = 2**20
LARGEST = 2**62  # of a saving: sums are 64-bit numbers


@dataclass(frozen=True)
class Curve:
    """The choices that no other one beats, from none of the layers to all that save something.

    Both `savings` and `losses` rise from point to point; losses are in `part`s and never below the true sums.
    """

    savings: np.ndarray  # [points], int64
    losses: np.ndarray  # [points], int64, in parts
    part: float
    _steps: list[tuple[int, np.ndarray, np.ndarray]]  # of each layer: its index, each point's parent, taken or not

    def __len__(self) -> int:
        return len(self.savings)

    def choice(self, point: int) -> list[int]:
        """The indices of the layers of a point, in their order."""
        chosen = []
        for layer, parents, taken in reversed(self._steps):
            if taken[point]:
                chosen.append(layer)
            point = int(parents[point])
        return chosen[::-1]

    def cheapest(self, saving: int) -> int | None:
        """The point with the smallest loss among those that save so much, or None."""
        point = int(np.searchsorted(self.savings, saving))
        return point if point < len(self) else None

    def fastest(self, loss: float) -> int:
        """The point with the largest saving among those that lose no more."""
        return int(np.searchsorted(self.losses, int(loss / self.part * (1 + 1e-12)), side="right")) - 1


def best_choices(savings: Sequence[int], losses: Sequence[float]) -> Curve:
    """The curve of layers that save and lose so much, exact for losses in parts of a 2^20th of their sum.

    Of choices that save and lose alike, the one without the later layers stays, so equal arguments have equal answers.
    A layer that saves nothing is never chosen.

    Args:
        savings: what each conversion saves, in any unit; may be negative.
        losses: what each one loses, 0 or more.

    Raises:
        ValueError: another number of losses than of savings, a loss that is negative or not finite, savings that do not
            fit into 62 bits.
    """
    if len(savings) != len(losses):
        raise ValueError(f"losses: expected one for each of {len(savings)} savings, got {len(losses)}")
    for index, loss in enumerate(losses):
        if not (np.isfinite(loss) and loss >= 0):
            raise ValueError(f"losses: expected finite numbers of at least 0, got {loss} at {index}")
    if sum(max(saving, 0) for saving in savings) > LARGEST:
        raise ValueError("savings: expected a sum below 2^62; count in a larger unit")
    part = sum(losses) / PARTS or 1.0
    saved, lost = np.zeros(1, np.int64), np.zeros(1, np.int64)
    steps = []
    for index, (saving, loss) in enumerate(zip(savings, losses, strict=True)):
        if saving <= 0:
            continue
        both_saved = np.concatenate([saved, saved + int(saving)])
        both_lost = np.concatenate([lost, lost + int(np.ceil(loss / part))])
        kept = _unbeaten(both_saved, both_lost)
        parents, taken = kept % len(saved), kept >= len(saved)
        steps.append((index, parents.astype(np.int32), taken))
        saved, lost = both_saved[kept], both_lost[kept]
    return Curve(saved, lost, part, steps)


def _unbeaten(savings: np.ndarray, losses: np.ndarray) -> np.ndarray:
    """The indices of the points that none beats in one number and reaches in the other; of equal points the first."""
    order = np.lexsort((np.arange(len(savings)), -savings, losses))  # losses rise; among equals the largest saving
    best = np.maximum.accumulate(savings[order])
    rises = np.ones(len(order), dtype=bool)
    rises[1:] = savings[order][1:] > best[:-1]
    return order[rises]
