"""When a launch ends by the plan's model, computed block by block: what the plan's own schedule is tested against."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass, field

NEVER = float("inf")
ROUNDING = 1e-9  # times that differ by less, as a part of themselves, are the same time


@dataclass
class Block:
    left: float  # cycles, were it alone
    share: float  # the part of its time in which it keeps a unit busy
    alone: float


@dataclass
class Multiprocessor:
    blocks: list[Block] = field(default_factory=list)
    now: float = 0.0

    def slowdown(self, block: Block) -> float:
        return 1 + sum(other.share for other in self.blocks if other is not block)

    def next_end(self) -> float:
        return self.now + min((block.left * self.slowdown(block) for block in self.blocks), default=NEVER)

    def advance(self, now: float) -> None:
        speeds = [1 / self.slowdown(block) for block in self.blocks]
        for block, speed in zip(self.blocks, speeds, strict=True):
            block.left -= (now - self.now) * speed
        self.now = now

    def end_blocks(self, now: float) -> None:
        self.advance(now)
        self.blocks = [block for block in self.blocks if block.left > block.alone * ROUNDING]


def makespan(blocks: Iterable[tuple[float, float]], multiprocessors: int, resident: int) -> float:
    """When the last block ends. `blocks`: cycles alone and busy, in the order in which they start; `resident`: of them
    on a multiprocessor. A block goes to the multiprocessor with the fewest that has room, of several to the one where
    a block ends first.
    """
    if resident == 1:
        ends = [0.0] * multiprocessors
        for alone, _ in blocks:
            heapq.heapreplace(ends, ends[0] + alone)
        return max(ends)
    places = [Multiprocessor() for _ in range(multiprocessors)]
    # How many blocks each has, and when the next ends, but for entries of the past.
    room = [(0, NEVER, index) for index in range(multiprocessors)]
    ends_of: list[tuple[float, int]] = []  # next ends, but for those that a later block has put off
    now = last = 0.0

    def end_next(only_until: float) -> bool:
        nonlocal now, last
        while ends_of:
            end, index = ends_of[0]
            place = places[index]
            if end > only_until:
                return False
            heapq.heappop(ends_of)
            if not place.blocks or place.next_end() != end:
                continue
            now = last = max(now, end)
            place.end_blocks(end)
            heapq.heappush(room, (len(place.blocks), place.next_end(), index))
            if place.blocks:
                heapq.heappush(ends_of, (place.next_end(), index))
            return True
        return False

    for alone, busy in blocks:
        while True:
            while room and room[0][:2] != (len(places[room[0][2]].blocks), places[room[0][2]].next_end()):
                heapq.heappop(room)
            if room and room[0][0] < resident:
                break
            end_next(NEVER)
            while end_next(now * (1 + ROUNDING)):
                pass
        _, _, index = heapq.heappop(room)
        place = places[index]
        place.advance(now)
        place.blocks.append(Block(alone, busy / alone, alone))
        heapq.heappush(room, (len(place.blocks), place.next_end(), index))
        heapq.heappush(ends_of, (place.next_end(), index))
    while end_next(NEVER):
        pass
    return last
