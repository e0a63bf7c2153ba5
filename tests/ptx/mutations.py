"""One instruction of a kernel changed, as a mistake would change it; and whether the executor, or a comparison with
float64, notices.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cuda_launches import Executor
from ptx_executor import PtxError
from ptx_executor.body import ADDRESS, IMMEDIATE, SINK, Instruction, Operand


@dataclass(frozen=True)
class Subject:
    """What is run: `is_right` launches kernels and compares results with float64; one of the launches is changed."""

    is_right: Callable[[Executor], bool]
    launch: int = 0


@dataclass(frozen=True)
class Mutation:
    """A kind of mistake: which instructions it befalls, what it makes of one, and whether `make test` tries all."""

    befalls: Callable[[list[Instruction], int], bool]
    edit: Callable[[Instruction], None]
    tries_all: bool = False


def remove(instruction: Instruction) -> None:
    instruction.opcode, instruction.guard = "mov.u32", -1
    instruction.operands = [Operand(SINK, 0), Operand(IMMEDIATE, 0)]


def wait_for_one_group_less(instruction: Instruction) -> None:
    (pending,) = instruction.operands
    instruction.operands = [Operand(IMMEDIATE, pending.value + 1)]


def read_nothing(instruction: Instruction) -> None:
    """Of a cp.async that may fill in zeros: it always does."""
    instruction.operands = [*instruction.operands[:3], Operand(IMMEDIATE, 0)]


def read_always(instruction: Instruction) -> None:
    instruction.operands = [*instruction.operands[:3], Operand(IMMEDIATE, 16)]


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


def is_product(instructions: list[Instruction], at: int) -> bool:
    """But for a product with a matrix of ones, whose words are all one register."""
    operands = instructions[at].operands
    return instructions[at].opcode.startswith("mma.sync") and operands[4] != operands[5]


def stores_to_shared(instructions: list[Instruction], at: int) -> bool:
    """But for the one byte that is stored: Tile::exists, parked with the other fields, which nobody reads again."""
    opcode = instructions[at].opcode
    return opcode.startswith("st.shared") and opcode != "st.shared.u8"


def named(prefix: str) -> Callable[[list[Instruction], int], bool]:
    return lambda instructions, at: instructions[at].opcode.startswith(prefix)


AFTER_ANOTHER = "the wait for the launch before removed"  # noticed in a launch that follows another
MUTATIONS = {
    "a barrier removed": Mutation(named("bar.sync"), remove, tries_all=True),
    "a warp's barrier removed": Mutation(named("bar.warp.sync"), remove, tries_all=True),
    "a wait for copies removed": Mutation(named("cp.async.wait_group"), remove, tries_all=True),
    "one group of copies less waited for": Mutation(
        named("cp.async.wait_group"), wait_for_one_group_less, tries_all=True
    ),
    AFTER_ANOTHER: Mutation(named("griddepcontrol.wait"), remove, tries_all=True),
    "operands of a product swapped": Mutation(is_product, swap_words_of_a),
    "another lane shuffled": Mutation(named("shfl.sync"), shuffle_from_another_lane),
    "a store's tail negated": Mutation(skips_a_store, negate),
    "a load from shared memory 2 bytes off": Mutation(named("ld.shared"), move_address),
    "matrices 2 bytes off": Mutation(named("ldmatrix"), move_address),
    "a store to shared memory 2 bytes off": Mutation(stores_to_shared, move_address),
    "a global load 2 bytes off": Mutation(named("ld.global"), move_address),
    "a result 2 bytes off": Mutation(named("st.global"), move_address),
}
WAITS = {"a wait for copies removed", "one group of copies less waited for"}


def executed_instructions(subject: Subject) -> tuple[list[Instruction], list[int]]:
    """The changed launch's instructions, and the indices of those that some warp executes."""
    seen = []

    def look(ptx_module, entry):
        seen.append(ptx_module.entry(entry).body.instructions)
        return ptx_module

    executor = Executor(change=look)
    assert subject.is_right(executor)
    issued = executor.executed[subject.launch].counts.issued
    return seen[subject.launch], [at for at, times in enumerate(issued) if times]


def is_noticed(subject: Subject, at: int, edit: Callable[[Instruction], None]) -> bool:
    launches = 0

    def change(ptx_module, entry):
        nonlocal launches
        launches += 1
        if launches - 1 != subject.launch:
            return ptx_module
        return ptx_module.with_entry(ptx_module.entry(entry).changed(lambda instructions: edit(instructions[at])))

    try:
        return not subject.is_right(Executor(order=1, change=change))
    except PtxError:
        return True


def unnoticed(
    kind: str, subject: Subject, others: Sequence[Subject] = (), *, some: int = 3, all_of_them: bool = False
) -> list[str]:
    """The lines of PTX where a mutation goes unnoticed, of `some` lines where the kind does not try all.

    `others` launch the same kernel on other problems: what is noticed there need not be noticed in the first.
    """
    mutation = MUTATIONS[kind]
    instructions, executed = executed_instructions(subject)
    found = [at for at in executed if mutation.befalls(instructions, at)]
    assert found, "no such instruction is executed"
    tried = found if all_of_them or mutation.tries_all else found[:: -(-len(found) // some)]
    lines = {
        at: f"{instructions[at].opcode}, PTX line {instructions[at].line}, {instructions[at].source}" for at in tried
    }
    missed = [at for at in tried if not is_noticed(subject, at, mutation.edit)]
    for other in others if missed else ():
        same, also_executed = executed_instructions(other)
        assert [i.line for i in same] == [i.line for i in instructions], "another kernel than the first problem's"
        missed = [at for at in missed if at not in also_executed or not is_noticed(other, at, mutation.edit)]
    return [lines[at] for at in missed]
