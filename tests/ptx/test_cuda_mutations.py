"""The executor notices what is wrong: one instruction of a kernel changed at a time, as a mistake would change it."""

from collections.abc import Callable
from functools import cache

import pytest
import test_tensor_cores
import torch
from cuda_launches import Executor, forward
from host_build import module, plan_problem
from ptx_executor import PtxError
from ptx_executor.body import ADDRESS, IMMEDIATE, SINK, Instruction, Operand

from deltaconv_kernels.reference import pyramid_forward
from deltaconv_kernels.testing import ERROR_BUDGET, Shape, make_case, relative_error

CORES, TENSOR_CORES = "cuda_cores", "tensor_cores"


def remove(instruction: Instruction) -> None:
    instruction.opcode, instruction.guard = "mov.u32", -1
    instruction.operands = [Operand(SINK, 0), Operand(IMMEDIATE, 0)]


def wait_for_one_group_less(instruction: Instruction) -> None:
    (pending,) = instruction.operands
    instruction.operands = [Operand(IMMEDIATE, pending.value + 1)]


def swap_words_of_a(instruction: Instruction) -> None:
    d, (first, second, *others) = instruction.operands[:4], instruction.operands[4:]
    instruction.operands = [*d, second, first, *others]


def negate(instruction: Instruction) -> None:
    instruction.negated = not instruction.negated


def move_address(instruction: Instruction) -> None:
    instruction.operands = [
        operand._replace(offset=operand.offset + 2) if operand.kind == ADDRESS else operand
        for operand in instruction.operands
    ]


def shuffle_from_another_lane(instruction: Instruction) -> None:
    result, predicate, value, by, *others = instruction.operands
    other = Operand(IMMEDIATE, by.value ^ 1) if by.kind == IMMEDIATE else Operand(IMMEDIATE, 0)
    instruction.operands = [result, predicate, value, other, *others]


def skips_a_store(instructions: list[Instruction], at: int) -> bool:
    """Whether it is a branch around results that do not exist: the check of a tail."""
    branch = instructions[at]
    skipped = instructions[at + 1 : branch.target] if branch.opcode == "bra" and branch.guard >= 0 else []
    return len(skipped) <= 10 and any(i.opcode.startswith("st.global") for i in skipped)


def stores_to_shared(instructions: list[Instruction], at: int) -> bool:
    """But for the one byte that is stored: Tile::exists, parked with the other fields, which nobody reads again."""
    opcode = instructions[at].opcode
    return opcode.startswith("st.shared") and opcode != "st.shared.u8"


def named(prefix: str) -> Callable[[list[Instruction], int], bool]:
    return lambda instructions, at: instructions[at].opcode.startswith(prefix)


# What is changed, how, and how many of a kernel's are tried in `make test`.
MUTATIONS = {
    "a barrier removed": (named("bar.sync"), remove, 100),
    "a warp's barrier removed": (named("bar.warp.sync"), remove, 100),
    "a wait for copies removed": (named("cp.async.wait_group"), remove, 100),
    "one group of copies less waited for": (named("cp.async.wait_group"), wait_for_one_group_less, 100),
    "operands of a product swapped": (named("mma.sync"), swap_words_of_a, 3),
    "another lane shuffled": (named("shfl.sync"), shuffle_from_another_lane, 3),
    "a store's tail negated": (skips_a_store, negate, 3),
    "a load from shared memory 2 bytes off": (named("ld.shared"), move_address, 3),
    "matrices 2 bytes off": (named("ldmatrix"), move_address, 3),
    "a store to shared memory 2 bytes off": (stores_to_shared, move_address, 3),
    "a global load 2 bytes off": (named("ld.global"), move_address, 3),
    "a result 2 bytes off": (named("st.global"), move_address, 3),
}
NOT_IN = {  # kinds of instructions that a kernel does not have
    CORES: {"a warp's barrier removed", "operands of a product swapped", "matrices 2 bytes off"},
    TENSOR_CORES: {
        "a wait for copies removed",
        "one group of copies less waited for",
        "another lane shuffled",
    },
}


@cache
def problem(path: str, inter: int, tile=None):
    """A case, its result in float64 and the plan's GPU."""
    kernel_size, size, threads = tile or (7, None, None)
    dtype = torch.float32 if path == CORES else torch.float16
    height, width = (35, 38) if tile else (19, 21)
    case = make_case(Shape(1, height, width, inter, kernel_size), dtype, residual=True)
    gpu = None
    if size:
        planned = plan_problem(case.x.shape, case.factors, kernel_size, dtype, path)
        gpu = test_tensor_cores.gpu_that_gets(module(), planned, size, threads)
    return case, pyramid_forward(*case.to(torch.float64).arguments), gpu


def candidates(path: str, *key) -> tuple[list[Instruction], list[int]]:
    """The kernel's instructions and the indices of those that the case executes."""
    case, _, gpu = problem(path, *key)
    seen = []

    def look(ptx_module, entry):
        seen.append(ptx_module.entry(entry).body.instructions)
        return ptx_module

    executor = Executor(path=path, gpu=gpu, change=look)
    forward(case, executor)
    (executed,), (instructions,) = executor.executed, seen
    return instructions, [at for at, issued in enumerate(executed.counts.issued) if issued]


def is_noticed(path: str, at: int, edit: Callable[[Instruction], None], *key) -> bool:
    case, expected, gpu = problem(path, *key)

    def change(ptx_module, entry):
        return ptx_module.with_entry(ptx_module.entry(entry).changed(lambda instructions: edit(instructions[at])))

    try:
        result = forward(case, Executor(path=path, gpu=gpu, order=1, change=change))
    except PtxError:
        return True
    return relative_error(result, expected) > ERROR_BUDGET[case.x.dtype]


def unnoticed(kind: str, path: str, *key, all_of_them: bool = False) -> list[str]:
    """The lines of PTX where a mutation goes unnoticed."""
    picks, edit, most = MUTATIONS[kind]
    instructions, executed = candidates(path, *key)
    found = [at for at in executed if picks(instructions, at)]
    assert found, "no such instruction is executed"
    tried = found if all_of_them else found[:: -(-len(found) // most)]
    lines = {
        at: f"{instructions[at].opcode}, PTX line {instructions[at].line}, {instructions[at].source}" for at in tried
    }
    return [lines[at] for at in tried if not is_noticed(path, at, edit, *key)]


# 16 channel pairs allow 16-byte copies, which CUDA cores make asynchronously; 17 leave a tail in C.
@pytest.mark.parametrize(
    ("path", "inter", "kind"),
    [
        *((CORES, 32, kind) for kind in MUTATIONS if kind not in NOT_IN[CORES]),
        *((TENSOR_CORES, 34, kind) for kind in MUTATIONS if kind not in NOT_IN[TENSOR_CORES]),
    ],
)
def test_noticed(path, inter, kind):
    assert unnoticed(kind, path, inter) == []


def has_needless_warp_barrier(tile) -> bool:
    """In CTAs of 512 threads u's planes are left behind a barrier; from K = 11 on the results fit where they were."""
    kernel_size, _, threads = tile
    return threads == 512 and kernel_size >= 11


@pytest.mark.ptx_full
@pytest.mark.parametrize(
    ("tile", "kind"),
    [
        (tile, kind)
        for tile in test_tensor_cores.TILES
        for kind in MUTATIONS
        if kind not in NOT_IN[TENSOR_CORES]
        and not (kind == "a warp's barrier removed" and has_needless_warp_barrier(tile))
    ],
    ids=str,
)
def test_noticed_in_every_tile(tile, kind):
    assert unnoticed(kind, TENSOR_CORES, 34, tile) == []


@pytest.mark.ptx_full
@pytest.mark.parametrize("kind", [kind for kind in MUTATIONS if kind not in NOT_IN[TENSOR_CORES]])
def test_every_instruction_noticed_on_tensor_cores(kind):
    assert unnoticed(kind, TENSOR_CORES, 34, all_of_them=True) == []


@pytest.mark.ptx_full
@pytest.mark.parametrize("kind", [kind for kind in MUTATIONS if kind not in NOT_IN[CORES]])
def test_every_instruction_noticed_on_cuda_cores(kind):
    assert unnoticed(kind, CORES, 32, all_of_them=True) == []
