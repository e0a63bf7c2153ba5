"""The one exception of the executor."""

from __future__ import annotations


class PtxError(RuntimeError):
    """A kernel broke a rule of PTX or of the executor, or uses what the executor does not know.

    Attributes: `what` (one sentence), `kernel` (entry name), `line` (of the PTX text, from 1), `source`
    ("file:line" by `.loc`, or ""), `block` ((x, y, z)), `warp`, `lane`; what does not apply is None.
    """

    def __init__(self, what, kernel=None, line=None, source="", block=None, warp=None, lane=None):
        where = {
            "kernel": kernel,
            "PTX line": line,
            "source": source or None,
            "block": block,
            "warp": warp,
            "lane": lane,
        }
        super().__init__(", ".join([what, *(f"{name} {value}" for name, value in where.items() if value is not None)]))
        self.what, self.kernel, self.line, self.source = what, kernel, line, source
        self.block, self.warp, self.lane = block, warp, lane
