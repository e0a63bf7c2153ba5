"""Which layers to convert: against every subset of small instances; ties, edges, size."""

from __future__ import annotations

import random
from itertools import product

import pytest
from deltaconv_distill.conversion.budget import PARTS, best_choices


def every_choice(savings: list[int], losses: list[int]) -> list[tuple[int, int]]:
    """Saving and loss of each subset."""
    subsets = product((False, True), repeat=len(savings))
    return [tuple(sum(v for v, taken in zip(values, subset, strict=True) if taken) for values in (savings, losses))
            for subset in subsets]  # fmt: skip


def instance(seed: int) -> tuple[list[int], list[int]]:
    """Up to ten layers with few different numbers, so that there are ties, some of which cost more in a block.

    Their losses add up to a power of two, whose parts are exact."""
    draw = random.Random(seed)
    savings = [draw.randint(-2, 9) * draw.choice((1, 1, 10**9)) for _ in range(draw.randint(1, 10))]
    losses = [draw.randint(0, 6) for _ in savings]
    losses[0] += 64 - sum(losses)
    return savings, losses


@pytest.mark.parametrize("seed", range(60))
def test_no_subset_is_better(seed: int) -> None:
    savings, losses = instance(seed)
    curve = best_choices(savings, losses)
    subsets = every_choice(savings, losses)
    for point in range(len(curve)):
        chosen = curve.choice(point)
        assert sum(savings[layer] for layer in chosen) == curve.savings[point]
        assert sum(losses[layer] for layer in chosen) == curve.losses[point] * curve.part
        assert all(savings[layer] > 0 for layer in chosen)
    for wanted in {saving for saving, _ in subsets if saving > 0}:
        found = curve.cheapest(wanted)
        assert found is not None
        assert curve.losses[found] * curve.part == min(loss for saving, loss in subsets if saving >= wanted)
    for allowed in {loss for _, loss in subsets}:
        found = curve.fastest(allowed)
        assert curve.losses[found] * curve.part <= allowed
        assert curve.savings[found] == max(saving for saving, loss in subsets if loss <= allowed)
    assert curve.cheapest(max(saving for saving, _ in subsets) + 1) is None


def test_equal_layers_are_taken_in_their_order_and_no_more_than_needed() -> None:
    curve = best_choices([5, 5, 5, 0, 5], [1.0, 1.0, 1.0, 0.0, 1.0])
    assert [curve.choice(point) for point in range(len(curve))] == [[], [0], [0, 1], [0, 1, 2], [0, 1, 2, 4]]
    assert curve.choice(curve.cheapest(6) or 0) == [0, 1]
    assert curve.choice(curve.fastest(2.5)) == [0, 1]


def test_a_loss_is_never_rounded_below_what_is_allowed() -> None:
    """Parts are rounded up: a third of the sum that is allowed to the last digit may be left, never exceeded."""
    losses = [random.Random(seed).random() for seed in range(30)]
    curve = best_choices([1 + seed for seed in range(30)], losses)
    for allowed in (0.01, 0.5, 3.0, sum(losses)):
        assert sum(losses[layer] for layer in curve.choice(curve.fastest(allowed))) <= allowed
    # and what is left is at most a part for each layer
    everything = curve.choice(curve.fastest(sum(losses) + 30 * curve.part))
    assert everything == list(range(30))


def test_a_hundred_layers_whose_curve_would_have_2_to_the_100_points() -> None:
    savings = [int(1.5**layer) + 1 for layer in range(100)]
    curve = best_choices(savings, [float(saving) for saving in savings])
    assert len(curve) <= PARTS + 1 + len(savings)
    chosen = curve.choice(len(curve) - 1)
    assert chosen == list(range(100))


def test_nothing_to_gain() -> None:
    curve = best_choices([0, -3], [0.5, 0.0])
    assert (len(curve), curve.choice(0), curve.cheapest(1), curve.fastest(9.0)) == (1, [], None, 0)


@pytest.mark.parametrize(
    ("savings", "losses", "message"),
    [
        ([1, 2], [0.1], "losses: expected one for each of 2 savings, got 1"),
        ([1], [-0.1], "losses: expected finite numbers of at least 0, got -0.1 at 0"),
        ([1, 1], [0.1, float("nan")], "losses: expected finite numbers of at least 0, got nan at 1"),
        ([2**61, 2**61 + 1], [0.1, 0.1], "savings: expected a sum below"),
    ],
)
def test_mistakes(savings: list[int], losses: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        best_choices(savings, losses)
