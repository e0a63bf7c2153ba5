"""What a second core brings where there is little to share: one image, few channels, images of 8 x 8."""

from functools import partial

import pytest
import torch
from tables import Ratio
from targets import THREADS
from test_operator import all_passes, ours
from timing import interleaved_medians

from deltaconv_kernels.testing import Shape, assert_matches_oracle, make_case

SHAPES = {
    "one image, 16 pairs of channels": Shape(1, 64, 64, 32, 9),
    "one image, 1 pair of channels": Shape(1, 128, 128, 2, 9),
    "one image of 8 x 8, 320 pairs": Shape(1, 8, 8, 640, 9),
    "16 images of 8 x 8, 16 pairs": Shape(16, 8, 8, 32, 9),
    "one row of 4096 pixels": Shape(1, 2, 4096, 32, 9),
}


@all_passes
@pytest.mark.parametrize("name", SHAPES)
def test_every_core_is_used(benchmark, add_row, name, training):
    threads = torch.get_num_threads()
    if threads == 1:
        pytest.skip("torch has one thread here")
    case = make_case(SHAPES[name])
    assert_matches_oracle(case)
    function = ours(case, training)

    def on(count):
        torch.set_num_threads(count)
        function()

    try:
        medians = interleaved_medians({"one": partial(on, 1), "all": partial(on, threads)}, seconds=0.4)
    finally:
        torch.set_num_threads(threads)
    benchmark.pedantic(function, rounds=3)
    ratio = Ratio(medians["one"] / medians["all"])
    benchmark.extra_info.update(shape=str(SHAPES[name]), seconds=medians, threads=threads, ratio=ratio)
    add_row(
        THREADS, problem=name, **{"pass": "forward + backward" if training else "forward", "over one thread": ratio}
    )
