"""Where the lanes of a diverged warp meet again: the immediate post-dominator of each conditional branch."""

from __future__ import annotations

from collections.abc import Sequence


def reconvergence_points(instructions: Sequence) -> dict[int, int]:
    """For the index of each guarded branch, the index of its reconvergence point; len(instructions): the exit."""
    starts, successors = _basic_blocks(instructions)
    post_dominators = _immediate_post_dominators(successors)
    points = {}
    for block, start in enumerate(starts):
        last = (starts[block + 1] if block + 1 < len(starts) else len(instructions)) - 1
        if last >= start and instructions[last].opcode == "bra" and instructions[last].guard >= 0:
            meet = post_dominators[block]
            points[last] = starts[meet] if meet < len(starts) else len(instructions)
    return points


def _basic_blocks(instructions: Sequence) -> tuple[list[int], list[list[int]]]:
    """First instruction of each block, and each block's successors; the exit is a block of its own after the last."""
    end = len(instructions)
    leaders = {0}
    for at, instruction in enumerate(instructions):
        if instruction.opcode in ("bra", "ret", "exit"):
            leaders.add(at + 1)
            if instruction.opcode == "bra":
                leaders.add(instruction.target)
    starts = sorted(leader for leader in leaders if leader < end)
    block_of = {start: block for block, start in enumerate(starts)} | {end: len(starts)}
    successors = []
    for block, start in enumerate(starts):
        after = starts[block + 1] if block + 1 < len(starts) else end
        last = instructions[after - 1] if after > start else None
        goes_on = last is None or last.opcode not in ("bra", "ret", "exit") or last.guard >= 0
        found = [block_of[after]] if goes_on else []
        if last is not None and last.opcode == "bra":
            found.append(block_of[last.target])
        if last is not None and last.opcode in ("ret", "exit"):
            found.append(len(starts))
        successors.append(found)
    return starts, successors


def _immediate_post_dominators(successors: list[list[int]]) -> list[int]:
    """Cooper, Harvey, Kennedy (2001), "A Simple, Fast Dominance Algorithm", on the reversed graph."""
    exit_block = len(successors)
    predecessors: list[list[int]] = [[] for _ in range(exit_block + 1)]
    for block, found in enumerate(successors):
        for successor in found:
            predecessors[successor].append(block)
    order = _postorder(exit_block, predecessors)
    number = {block: at for at, block in enumerate(order)}
    dominator = {exit_block: exit_block}

    def intersect(a: int, b: int) -> int:
        while a != b:
            while number[a] < number[b]:
                a = dominator[a]
            while number[b] < number[a]:
                b = dominator[b]
        return a

    changed = True
    while changed:
        changed = False
        for block in reversed(order[:-1]):
            known = [successor for successor in successors[block] if successor in dominator]
            new = known[0]
            for other in known[1:]:
                new = intersect(new, other)
            if dominator.get(block) != new:
                dominator[block], changed = new, True
    return [dominator.get(block, exit_block) for block in range(exit_block)]


def _postorder(root: int, edges: list[list[int]]) -> list[int]:
    order, seen, stack = [], {root}, [(root, iter(edges[root]))]
    while stack:
        node, following = stack[-1]
        for successor in following:
            if successor not in seen:
                seen.add(successor)
                stack.append((successor, iter(edges[successor])))
                break
        else:
            order.append(node)
            stack.pop()
    return order
