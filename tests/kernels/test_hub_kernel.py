"""The folder for the Hub: built as it is published, loaded by the Hub's own library, beside the installed package."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("kernels", reason="the Hub's package `kernels` is not installed")

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "tools" / "release" / "hub_kernel.py"

# In a process of its own, since a namespace of operators stays for good.
BOTH = """
import sys
from pathlib import Path

import torch
from kernels import get_local_kernel

if sys.argv[2] == "installed first":
    import deltaconv_kernels as installed
hub = get_local_kernel(Path(sys.argv[1]), backend="cpu")
if sys.argv[2] == "hub first":
    assert not hasattr(torch.ops.deltaconv, "pyramid"), "the package for the Hub registers torch.ops.deltaconv"
    import deltaconv_kernels as installed

generator = torch.Generator().manual_seed(0)
x, weight = torch.randn(2, 9, 7, 8, generator=generator), torch.randn(2, 3, 3, 8, generator=generator)
for module in (installed, hub):
    status = module.backends()["cpu"]
    assert status.available, status
expected = installed.pyramid(x, weight, factors=(1, 2))
assert expected.abs().max() > 0
torch.testing.assert_close(hub.pyramid(x, weight, factors=(1, 2)), expected)
with hub.use_backend("reference"):
    torch.testing.assert_close(hub.pyramid(x, weight, factors=(1, 2)), expected)

torch.manual_seed(0)
ours = installed.DeltaConvBlock(8, kernel_size=3)
theirs = hub.DeltaConvBlock(8, kernel_size=3)
theirs.load_state_dict(ours.state_dict())
assert type(ours) is not type(theirs)
torch.testing.assert_close(theirs(x), ours(x))
torch.testing.assert_close(torch.compile(theirs, fullgraph=True)(x), ours(x))
theirs(x).sum().backward()
ours(x).sum().backward()
for ours_parameter, theirs_parameter in zip(ours.parameters(), theirs.parameters()):
    torch.testing.assert_close(theirs_parameter.grad, ours_parameter.grad)
print("both work")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("hub")
    # One instruction set, so that it builds in seconds; the operators are what this is about.
    environment = {**os.environ, "CMAKE_ARGS": "-DDELTACONV_CPU_ISAS=baseline"}
    command = [sys.executable, SCRIPT, work / "kernel", "--backends", "cpu", "--build", work / "cmake"]
    built = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert built.returncode == 0, built.stdout + built.stderr
    return work / "kernel"


@pytest.mark.parametrize("order", ["installed first", "hub first"])
def test_loads_beside_the_installed_package(folder: Path, order: str) -> None:
    done = subprocess.run([sys.executable, "-c", BOTH, folder, order], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("both work\n")


def test_says_what_it_is(folder: Path) -> None:
    from kernels._rust import Build, Metadata

    (variant,) = (folder / "build").iterdir()
    metadata = Metadata.read_from_file(variant / "metadata.json")
    assert str(metadata.name) == "deltaconv"
    assert metadata.license == "Apache-2.0"
    assert metadata.id.startswith("_deltaconv_")
    assert [str(backend).lower() for backend in Build.open(folder).general.backends] == ["cpu"]


def test_refuses_to_write_over_a_folder(folder: Path) -> None:
    done = subprocess.run([sys.executable, SCRIPT, folder], capture_output=True, text=True)
    assert done.returncode == 2
    assert "expected a folder that does not exist yet" in done.stderr
