"""The backends that a GPU is for are there: a check without them would measure something else, in silence."""

from __future__ import annotations

import sys

from recording import record

import deltaconv_kernels as dk

NEEDED = ("cuda", "triton")


def missing() -> list[str]:
    """Why each needed backend cannot run, or not on every GPU."""
    reasons = {name: dk.backends()[name].reason for name in NEEDED}
    return [f"{name}: {reason}" for name, reason in reasons.items() if reason is not None]


def main() -> int:
    for name, status in dk.backends().items():
        record(backend=name, available=status.available, reason=status.reason)
    reasons = missing()
    print("; ".join(reasons) or f"{' and '.join(NEEDED)} can run")
    return 1 if reasons else 0


if __name__ == "__main__":
    sys.exit(main())
