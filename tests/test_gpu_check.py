"""tools/gpu_check.sh where there is no GPU: every part says why it does not run; nothing measured is ever lost."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from gpu_check import parts as parts_module
from gpu_check import runner
from gpu_check.parts import NOT_RUN, Part, chosen, hindrance, parts
from gpu_check.profile import kernels
from gpu_check.results import Results
from gpu_check.runner import run_command

SCRIPT = Path(__file__).parents[1] / "tools" / "gpu_check.sh"
RECORD = "from recording import record\n"


def python(code: str) -> tuple[str, ...]:
    return (sys.executable, "-c", code)


@pytest.fixture(autouse=True)
def modules_of_the_script(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(str(SCRIPT.parents[1] / folder) for folder in ("bench", "tools")))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU: the check itself would run")
def test_every_part_without_a_gpu_says_why(tmp_path: Path) -> None:
    output = tmp_path / "results.json"
    names = [part.name for part in parts()]
    command = [SCRIPT, "--output", output, "--commit", "abc"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    content = json.loads(output.read_text())
    assert list(content["parts"]) == names
    for name, outcome in content["parts"].items():
        assert outcome["status"] == "not run", name
        assert outcome["reason"] == "no GPU that this torch can use"
        assert f"{name:<24} not run" in printed
    assert content["machine"]["commit"] == "abc"
    assert content["machine"]["versions"]["torch"] == torch.__version__
    assert content["machine"]["gpus"] == []


def test_commands_lead_to_something() -> None:
    """Programs and test files of parts exist; a part's name comes once."""
    names = [part.name for part in parts()]
    assert len(set(names)) == len(names)
    root = SCRIPT.parents[1]
    for part in parts():
        for argument in part.command:
            if argument.startswith(("bench/", "tests/")):
                assert (root / argument).exists(), part.name
            if argument.startswith("gpu_check."):
                assert (root / "tools" / f"{argument.replace('.', '/')}.py").exists(), part.name


def test_benchmarks_are_found() -> None:
    """What the parts select by name is there."""
    command = [*parts_module.BENCH, "--collect-only", "bench/test_gpu.py"]
    found = subprocess.run(command, capture_output=True, text=True, cwd=SCRIPT.parents[1]).stdout
    for name in ("operator", "block", "against_compile", "host"):
        assert f"bench/test_gpu.py::test_{name}[" in found


@pytest.mark.parametrize(
    ("code", "status", "reason"),
    [
        ("print('fine')", "done", None),
        ("import sys; print('boom'); sys.exit(3)", "failed", "exit code 3: boom"),
        (f"import sys; print('no such thing here'); sys.exit({NOT_RUN})", "not run", "no such thing here"),
        ("import time; time.sleep(60)", "timed out", "its time limit"),
    ],
)
def test_outcomes(code: str, status: str, reason: str | None) -> None:
    program = f"{RECORD}record(figure=1.5)\n{code}"
    outcome = run_command(python(program), 1.5, lambda so_far: None)
    assert (outcome["status"], outcome.get("reason")) == (status, reason)
    assert outcome["records"] == [{"figure": 1.5}]
    assert outcome["seconds"] < 30


def test_what_is_measured_is_kept_while_a_part_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file has the first figures before the part ends, so that even killing the whole check loses none."""
    monkeypatch.setattr(runner, "POLL_SECONDS", 0.1)
    output = tmp_path / "results.json"
    results = Results(output, "abc")
    seen: list[int] = []

    def changed(so_far: dict) -> None:
        results.put("slow", so_far)
        seen.append(len(json.loads(output.read_text())["parts"]["slow"]["records"]))

    program = f"{RECORD}import time\nfor i in range(4):\n    record(i=i)\n    time.sleep(0.3)"
    outcome = run_command(python(program), 20, changed)
    assert seen[0] < 4
    assert seen == sorted(seen)
    assert [record["i"] for record in outcome["records"]] == [0, 1, 2, 3]


def test_a_part_out_of_time_ends_with_all_that_it_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "GRACE_SECONDS", 0.3)
    child = tmp_path / "pid"
    program = (
        "import signal, subprocess, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        f"open({str(child)!r}, 'w').write(str(subprocess.Popen(['sleep', '60']).pid))\ntime.sleep(60)"
    )
    assert run_command(python(program), 1, lambda so_far: None)["status"] == "timed out"
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and _runs(int(child.read_text())):
        time.sleep(0.1)
    assert not _runs(int(child.read_text()))


def _runs(pid: int) -> bool:
    """Not a zombie either."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


def test_a_file_of_the_same_machine_is_continued_and_another_is_not_touched(tmp_path: Path) -> None:
    output = tmp_path / "results.json"
    Results(output, "abc").put("one", {"status": "done", "records": [{"figure": 1}]})
    again = Results(output, "abc")
    assert again.is_done("one")
    assert not again.is_done("two")
    before = output.read_bytes()
    with pytest.raises(SystemExit, match="is of another machine or commit"):
        Results(output, "def")
    assert output.read_bytes() == before


def test_unknown_parts_are_refused() -> None:
    with pytest.raises(ValueError, match=r"--parts: expected some of build, backends, check, .*; got 'cake'"):
        chosen(["operator", "cake"])
    assert [part.name for part in chosen(["host", "build"])] == ["build", "host"]


def test_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts_module.torch.cuda, "is_available", lambda: True)
    assert hindrance("gpu") is None
    assert hindrance("no-such-program") == "no-such-program is not on the PATH"
    assert hindrance("python:no_such_module") == "the Python package no_such_module is not installed"
    assert Part("x", 1, ("true",), ("gpu", "python:json")).hindrance() is None


def test_profiler_output() -> None:
    """Lines as Nsight Compute 2025.3 writes them; kernels of torch's own do not count."""
    columns = ("ID", "Process ID", "Kernel Name", "Section Name", "Metric Name", "Metric Unit", "Metric Value")
    rows = [
        ("0", "7", "pyramid_forward_kernel", "GPU Speed Of Light Throughput", "Duration", "us", "5.12"),
        ("0", "7", "pyramid_forward_kernel", "Launch Statistics", "Registers Per Thread", "register/thread", "188"),
        ("1", "7", "vectorized_elementwise_kernel", "GPU Speed Of Light Throughput", "Duration", "us", "2.00"),
        ("2", "7", "pyramid_backward_input_kernel", "GPU Speed Of Light Throughput", "Duration", "us", "9.00"),
    ]
    lines = [",".join(f'"{cell}"' for cell in line) for line in (columns, *rows)]
    found = kernels("\n".join(["==PROF== Connected to process 7", *lines, ""]))
    assert [launch["kernel"] for launch in found] == ["pyramid_forward_kernel", "pyramid_backward_input_kernel"]
    assert found[0]["metrics"] == {"Duration [us]": "5.12", "Registers Per Thread [register/thread]": "188"}
    assert kernels("no CSV at all") == []


def test_tests_that_do_not_pass_are_recorded(tmp_path: Path) -> None:
    test = tmp_path / "test_sample.py"
    test.write_text(
        "import pytest\ndef test_good(): pass\ndef test_bad(): assert 1 == 2\n@pytest.mark.skip(reason='because')\n"
        "def test_out(): pass\n"
    )
    outcome = run_command((*parts_module.PYTEST, "--rootdir", str(tmp_path), str(test)), 60, lambda _: None)
    *failures, counts = outcome["records"]
    assert outcome["status"] == "failed"
    assert counts == {"counts": {"passed": 1, "failed": 1, "skipped": 1}}
    assert "assert 1 == 2" in failures[0]["reason"]
    assert failures[1]["reason"].endswith("because")


def test_a_part_whose_tests_were_all_skipped_has_failed(tmp_path: Path) -> None:
    test = tmp_path / "test_sample.py"
    test.write_text(
        "import pytest\n@pytest.mark.parametrize('i', [1, 2])\ndef test_out(i): pytest.skip('cuda cannot run: no')\n"
    )
    for selected, reason in [
        ((), "exit code 1: every test was skipped, 2 in all: Skipped: cuda cannot run: no"),
        (("-k", "nothing"), "exit code 5: "),
    ]:
        command = (*parts_module.PYTEST, "--rootdir", str(tmp_path), str(test), *selected)
        outcome = run_command(command, 60, lambda _: None)
        assert outcome["status"] == "failed"
        assert outcome["reason"].startswith(reason)


def test_a_failed_part_fails_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here no GPU is to be had: what the first part says of the backends is the real reason."""
    module = importlib.import_module("gpu_check.__main__")
    needs_nothing = [Part("backends", 60, parts_module.script("backends"), ())]
    monkeypatch.setattr(module, "chosen", lambda names: needs_nothing)
    monkeypatch.setattr(sys, "argv", ["gpu_check", "--output", str(tmp_path / "a.json"), "--commit", "abc"])
    assert module.main() == 1
    outcome = json.loads((tmp_path / "a.json").read_text())["parts"]["backends"]
    assert outcome["status"] == "failed"
    assert "cuda: " in outcome["reason"]
    assert {"backend": "cpu", "available": True, "reason": None} in outcome["records"]
