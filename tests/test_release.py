"""What is published: what a wheel may hold, and that what names the version or a script names the right one."""

from __future__ import annotations

import re
import sys
import zipfile
from pathlib import Path

import pytest

import deltaconv_kernels

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools" / "release"))

import check_contents  # noqa: E402  lies beside the scripts that use it

GOOD = "deltaconv_kernels-0.1.0-py3-none-manylinux_2_27_x86_64.whl"


def wheel(path: Path, contents: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    return path


def complete() -> dict[str, bytes]:
    return dict.fromkeys(check_contents.NEEDED, b"content") | {"deltaconv_kernels-0.1.0.dist-info/WHEEL": b"Tag"}


def test_a_complete_wheel_has_no_problems(tmp_path: Path) -> None:
    assert check_contents.problems(wheel(tmp_path / GOOD, complete()), ["/home/me"]) == []


@pytest.mark.parametrize(
    ("name", "change", "said"),
    [
        ("deltaconv_kernels-0.1.0-py3-none-linux_x86_64.whl", {}, "expected the tag"),
        ("deltaconv_kernels-0.1.0-cp311-cp311-manylinux_2_28_x86_64.whl", {}, "expected the tag"),
        (GOOD, {check_contents.NEEDED[1]: None}, "libdeltaconv_cuda.so is missing"),
        (GOOD, {check_contents.NEEDED[0]: b"RUNPATH /home/me/torch/lib"}, "contains the path /home/me"),
        (GOOD, {"tests/test_x.py": b""}, "tests/test_x.py does not belong there"),
        (GOOD, {"deltaconv_kernels/__pycache__/ops.pyc": b""}, "does not belong there"),
    ],
)
def test_says_what_is_wrong(tmp_path: Path, name: str, change: dict[str, bytes | None], said: str) -> None:
    contents = {key: content for key, content in (complete() | change).items() if content is not None}
    (problem,) = check_contents.problems(wheel(tmp_path / name, contents), ["/home/me"])
    assert said in problem


def test_size_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_contents, "LIMIT", 100)
    (problem,) = check_contents.problems(wheel(tmp_path / GOOD, complete()), [])
    assert "expected at most 100 bytes" in problem


def test_paths_are_whole_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative one, ".venv", stands in the README, and so in every wheel."""
    path = wheel(tmp_path / GOOD, complete())
    monkeypatch.setattr(sys, "argv", ["check_contents", str(path), "--without", "/home/me", ".venv"])
    with pytest.raises(SystemExit):
        check_contents.main()
    assert "--without: expected whole paths, got .venv" in capsys.readouterr().err


def test_one_version() -> None:
    for file, pattern in {
        "pyproject.toml": r'^version = "(.*)"$',
        "CITATION.cff": r"^version: (.*)$",
    }.items():
        found = re.search(pattern, (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE)
        assert found, file
        assert found[1] == deltaconv_kernels.__version__, file


def test_the_workflow_calls_scripts_that_exist() -> None:
    text = (ROOT / ".github" / "workflows" / "release.yml").read_text(encoding="utf-8")
    scripts = re.findall(r"\btools/\S+\.(?:sh|py|txt)", text)
    assert {"tools/release/build_wheel.sh", "tools/check_wheel.sh"} <= set(scripts)
    for script in scripts:
        assert (ROOT / script).exists(), script
