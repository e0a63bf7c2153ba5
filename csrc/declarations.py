"""Prints a C++ header with the operator's schema and the names of its gates, read from where Python declares them.

Without importing anything: the build has PyTorch, but not yet the library.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path


def constant(file: Path, name: str) -> str | tuple[str, ...]:
    """The value of a module's constant."""
    for statement in ast.parse(file.read_text()).body:
        if isinstance(statement, ast.Assign) and [ast.unparse(target) for target in statement.targets] == [name]:
            return ast.literal_eval(statement.value)
    raise SystemExit(f"{file} assigns no {name}")


def main(package: Path) -> None:
    forward = constant(package / "ops.py", "_FORWARD")
    assert isinstance(forward, str)
    schema = "pyramid" + " ".join(forward.split())
    gates = constant(package / "reference.py", "GATES")
    print("// From deltaconv_kernels/ops.py and reference.py, by csrc/declarations.py.\n#pragma once\n")
    print(f'inline constexpr const char* kPyramidSchema = R"schema({schema})schema";')
    print(f"inline constexpr const char* kGates[] = {{{', '.join(f'{chr(34)}{gate}{chr(34)}' for gate in gates)}}};")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
