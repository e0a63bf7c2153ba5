"""The plan's estimates and choices against a list schedule in Python, on random problems and eight GPUs."""

import itertools
import math
import random

import pytest
import torch
from host_build import plan_problem
from list_schedule import makespan

from deltaconv_kernels.cuda_plan import GPUS, Gpu

# From the vendor's tables, as those of GPUS. An H200 is an H100 to the plan.
PLANNED_GPUS = {name: gpu for name, gpu in GPUS.items() if name != "h200"} | {
    "rtx3090": Gpu(86, 82, 101376, 102400),
    "orin": Gpu(87, 16, 166912, 167936),
    "l4": Gpu(89, 58, 101376, 102400),
}
LAUNCHES, CHOICES = 400, 40  # on each GPU
MOST_BLOCKS = 600
# kRoundsDealt and kMostDealt of csrc/cuda/plan/schedule.cpp: a longer launch is dealt block by block towards its end.
ROUNDS_DEALT, MOST_DEALT = 8, 2560
TILES = [(16, 16), (32, 16), (32, 32)]  # on tensor cores, the last one up to K = 17
EDGES = [1, 8, 13, 16, 32, 33, 48, 64, 67, 96, 130]


def random_problem(chosen: random.Random):
    """x's shape, factors, K and dtype."""
    height, width = chosen.choice(EDGES), chosen.choice(EDGES)
    allowed = [factor for factor in (1, 1, 2, 3, 4) if factor <= min(height, width)]
    factors = [chosen.choice(allowed) for _ in range(chosen.randint(1, 3))]
    channels = chosen.choice([2, 32, 66, 96, 160, 320, 576, 640])
    dtype = chosen.choice([torch.float32, torch.float16, torch.bfloat16])
    return (chosen.randint(1, 4), height, width, channels), factors, chosen.randrange(1, 26, 2), dtype


def scheduled(host, launch, gpu: Gpu) -> float:
    """The launch's end, from the model cycles of its blocks and their order."""
    blocks = [launch.cycles[stage] for stage, *_ in host.located_tiles(launch)]
    return makespan(blocks, gpu.multiprocessors, launch.resident)


def is_dealt(launch, gpu: Gpu) -> bool:
    """Whether the plan deals all of the launch's blocks one by one."""
    places = gpu.multiprocessors * launch.resident
    return launch.blocks < (min(max(MOST_DEALT // places, 1), ROUNDS_DEALT) + 1) * places


@pytest.mark.parametrize("gpu", PLANNED_GPUS.values(), ids=PLANNED_GPUS)
def test_an_estimate_is_the_end_of_a_list_schedule(host, gpu):
    chosen, tested = random.Random(gpu.multiprocessors), 0
    while tested < LAUNCHES:
        problem = random_problem(chosen)
        backward = host.backward_plan(plan_problem(*problem), host.DeviceProperties(*gpu))
        launches = host.forward_plan(plan_problem(*problem), host.DeviceProperties(*gpu))
        for launch in (*launches, backward.gate, backward.reduced, backward.input):
            if 0 < launch.blocks <= MOST_BLOCKS and is_dealt(launch, gpu):
                assert launch.estimated_cycles == pytest.approx(scheduled(host, launch, gpu), rel=1e-6), problem
                tested += 1


def test_the_estimate_of_a_long_launch_is_near(host):
    """Its begin is taken to be even."""
    chosen, gpu, off = random.Random(0), PLANNED_GPUS["orin"], []
    while len(off) < 60:
        problem = random_problem(chosen)
        (launch,) = host.forward_plan(plan_problem(*problem), host.DeviceProperties(*gpu))
        if not is_dealt(launch, gpu) and launch.blocks < 2000:
            off.append(launch.estimated_cycles / scheduled(host, launch, gpu) - 1)
    assert max(map(abs, off)) < 0.06
    assert math.sqrt(sum(error**2 for error in off) / len(off)) < 0.015


def choices(host, problem, gpu: Gpu):
    """Every launch of the problem that fits the GPU: each tile and each number of threads that there is."""
    *_, kernel_size, dtype = problem
    if dtype != torch.float32 and 7 <= kernel_size <= 25:
        path = "tensor_cores"
        ctas = [
            (*tile, threads)
            for tile, threads in itertools.product(TILES, (256, 512))
            if tile != (32, 32) or kernel_size <= 17
        ]
    else:
        path, ctas = "cuda_cores", [(0, 0, threads) for threads in (32, 64, 128, 256)]
    for cta in ctas:
        try:
            (launch,) = host.forward_plan(plan_problem(*problem, path, cta=cta), host.DeviceProperties(*gpu))
        except RuntimeError as error:
            if "does not fit into the" not in str(error):
                raise
            continue
        assert launch.threads == cta[2]
        assert path == "cuda_cores" or {(t.rows, t.cols) for t in launch.tilings} == {cta[:2]}
        yield launch


@pytest.mark.parametrize("gpu", PLANNED_GPUS.values(), ids=PLANNED_GPUS)
def test_the_launch_that_ends_first_is_chosen(host, gpu):
    chosen, tested = random.Random(gpu.multiprocessors), 0
    while tested < CHOICES:
        problem = random_problem(chosen)
        launches = list(choices(host, problem, gpu))
        if not launches or not all(launch.blocks <= MOST_BLOCKS and is_dealt(launch, gpu) for launch in launches):
            continue
        (plan,) = host.forward_plan(plan_problem(*problem), host.DeviceProperties(*gpu))
        ends = [scheduled(host, launch, gpu) for launch in launches]
        assert scheduled(host, plan, gpu) == pytest.approx(min(ends), rel=1e-6), problem
        tested += 1


def choices_of_tiles(host, problem, gpu: Gpu):
    """Every launch through the gate that fits the GPU. Reduced stages have no larger tiles than the others."""
    *_, kernel_size, _ = problem
    tiles = [tile for tile in TILES if tile != (32, 32) or kernel_size <= 17]
    for full, reduced in itertools.product(tiles, tiles):
        if reduced[0] > full[0] or reduced[1] > full[1]:
            continue
        planned = plan_problem(*problem, "tensor_cores", cta=(*full, 512), reduced_tile=reduced)
        try:
            launch = host.backward_plan(planned, host.DeviceProperties(*gpu)).gate
        except RuntimeError as error:
            if "does not fit into the" not in str(error):
                raise
            continue
        factors = problem[1]
        assert [(t.rows, t.cols) for t in launch.tilings] == [full if f == 1 else reduced for f in factors]
        yield launch


@pytest.mark.parametrize("gpu", PLANNED_GPUS.values(), ids=PLANNED_GPUS)
def test_the_tiles_of_stages_whose_launch_ends_first_are_chosen(host, gpu):
    """In the launch through the gate, on tensor cores."""
    chosen, tested = random.Random(gpu.multiprocessors), 0
    while tested < CHOICES:
        *_, kernel_size, dtype = problem = random_problem(chosen)
        if dtype == torch.float32 or kernel_size < 7:
            continue
        launches = list(choices_of_tiles(host, problem, gpu))
        if not launches or not all(launch.blocks <= MOST_BLOCKS and is_dealt(launch, gpu) for launch in launches):
            continue
        plan = host.backward_plan(plan_problem(*problem), host.DeviceProperties(*gpu)).gate
        ends = [scheduled(host, launch, gpu) for launch in launches]
        assert scheduled(host, plan, gpu) == pytest.approx(min(ends), rel=1e-6), problem
        tested += 1


@pytest.mark.parametrize(
    ("blocks", "multiprocessors", "resident", "end"),
    [
        ([(10, 4)] * 4, 4, 1, 10),
        ([(10, 4)] * 5, 4, 1, 20),
        ([(10, 4)] * 2, 1, 2, 14),
        ([(10, 4)] * 3, 1, 3, 18),
        ([(10, 10)] * 3, 1, 2, 30),  # the third follows the first two, which end at 20
        ([(10, 4)] * 3, 1, 2, 24),
        ([(10, 10), (4, 4)], 1, 2, 14),  # half speed up to 8, then 6 alone
        ([(10, 0), (4, 0), (4, 0)], 2, 1, 10),
        ([(4, 0), (4, 0), (10, 0)], 2, 1, 14),
    ],
)
def test_the_list_schedule_itself(blocks, multiprocessors, resident, end):
    assert makespan(blocks, multiprocessors, resident) == pytest.approx(end)


def test_remembered_plans_are_the_plans(host):
    """Of more problems than are remembered, again and again."""
    chosen = random.Random(1)
    problems = [(random_problem(chosen), chosen.choice(list(PLANNED_GPUS.values()))) for _ in range(90)]
    for problem, gpu in chosen.choices(problems, k=400):
        asked, device = plan_problem(*problem), host.DeviceProperties(*gpu)
        forward, backward = host.forward_plan(asked, device), host.backward_plan(asked, device)
        assert host.explain(host.remembered_forward_plan(asked, device)) == host.explain(forward)
        assert host.explain(host.remembered_backward_plan(asked, device)) == host.explain(backward)
