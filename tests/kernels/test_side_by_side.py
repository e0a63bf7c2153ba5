"""The same situations for convolutions and for ours; docs/side_by_side.md holds the two tables that come out.

`python tests/kernels/test_side_by_side.py` prints them.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from situations import outcome, table
from situations_of_functions import FUNCTIONS
from situations_of_functions import SITUATIONS as OF_FUNCTIONS
from situations_of_modules import MODULES
from situations_of_modules import SITUATIONS as OF_MODULES

PAGE = Path(__file__).parents[2] / "docs" / "side_by_side.md"
PAGE_TORCH = "2.13.0"

# Where a convolution works and ours does not: the page says why, and what the error says.
REFUSED = {
    "second derivatives": "cannot be differentiated twice",
    "gradient penalty": "cannot be differentiated twice",
    "torch.jit.script": "use torch.jit.trace, torch.export or torch.compile",
    "x of one dimension less (one image)": r"x: expected (4 dimensions )?\[B, H, W",
    "x on meta": "x: expected the device of the block's parameters",
    "x on meta, filters on the CPU": r"(\w+_)?weight: expected the device of x",
    "integers": "x: expected one of float32, bfloat16, float16, float64, got torch.int64",
    "complex numbers": "x: expected one of float32, bfloat16, float16, float64, got torch.complex64",
}


def subjects_of_functions():
    for f, x_shape, w_shape in FUNCTIONS.values():
        generator = torch.Generator().manual_seed(0)
        yield f, torch.randn(x_shape, generator=generator), torch.randn(w_shape, generator=generator)


def subjects_of_modules():
    for make, x_shape in MODULES.values():
        yield make, torch.randn(x_shape, generator=torch.Generator().manual_seed(0))


def outcomes_of_functions(situation):
    return [outcome(OF_FUNCTIONS[situation], *subject) for subject in subjects_of_functions()]


def outcomes_of_modules(situation):
    return [outcome(OF_MODULES[situation], *subject) for subject in subjects_of_modules()]


def documented():
    """The page's tables, each as {situation: outcomes}."""
    tables: list[dict[str, list[str]]] = []
    for line in PAGE.read_text().splitlines():
        cells = line.strip("| ").split(" | ") if line.startswith("| ") else []
        if cells and cells[0] == "situation":
            tables.append({})
        elif cells and cells[0] != "---":
            tables[-1][cells[0]] = cells[1:]
    return tables


def test_the_page_lists_these_situations():
    assert [list(rows) for rows in documented()] == [list(OF_FUNCTIONS), list(OF_MODULES)]


@pytest.mark.parametrize("situation", OF_FUNCTIONS)
def test_a_function_does_what_the_page_says(situation):
    assert_as_documented(outcomes_of_functions(situation), documented()[0][situation])


@pytest.mark.parametrize("situation", OF_MODULES)
def test_a_module_does_what_the_page_says(situation):
    assert_as_documented(outcomes_of_modules(situation), documented()[1][situation])


def assert_as_documented(found, expected):
    """PyTorch's own convolution, the first, only with the torch that the page is of; ours with every one."""
    first = 0 if torch.__version__.split("+")[0] == PAGE_TORCH else 1
    assert found[first:] == expected[first:]


def test_nothing_is_refused_that_a_convolution_takes_but_what_the_page_explains():
    refused = {
        situation
        for rows in documented()
        for situation, (convolution, *ours) in rows.items()
        if convolution == "works" and ours != ["works"] * len(ours)
    }
    assert refused == set(REFUSED)


@pytest.mark.parametrize("situation", REFUSED)
def test_what_is_refused_says_why(situation):
    refused = [(OF_FUNCTIONS[situation], s) for s in list(subjects_of_functions())[1:] if situation in OF_FUNCTIONS]
    refused += [(OF_MODULES[situation], s) for s in list(subjects_of_modules())[1:] if situation in OF_MODULES]
    if situation == "torch.jit.script":
        refused = refused[-1:]  # of the functions, it takes all
    for try_it, subject in refused:
        with pytest.raises((ValueError, RuntimeError), match=REFUSED[situation]):
            try_it(*subject)


if __name__ == "__main__":
    functions = {situation: outcomes_of_functions(situation) for situation in OF_FUNCTIONS}
    modules = {situation: outcomes_of_modules(situation) for situation in OF_MODULES}
    print(table(["situation", *FUNCTIONS], functions), table(["situation", *MODULES], modules), sep="\n")
