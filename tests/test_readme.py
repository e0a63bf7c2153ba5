"""The README's code runs as it stands there, and what it quotes is what the pages it comes from say."""

import re
from pathlib import Path

import pytest
import torch
from tables import geometric_mean

README = Path(__file__).parents[1] / "README.md"
CPU_PAGE = README.parent / "docs" / "cpu.md"


def test_every_python_example_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    examples = re.findall(r"^```python\n(.*?)^```", README.read_text(), re.DOTALL | re.MULTILINE)
    assert len(examples) >= 4
    names: dict = {}
    for example in examples:
        exec(compile(example, str(README), "exec"), names)
    assert (tmp_path / "my-fusion" / "config.json").exists()
    result, in_pytorch = names["y"], names["plain"].permute(0, 2, 3, 1)
    assert (result - in_pytorch).norm() <= 1e-5 * result.norm()
    assert torch.equal(names["same"], result)


def test_every_linked_file_exists():
    targets = re.findall(r"\]\((?!http)([^)#]+)", README.read_text())
    assert targets
    assert [target for target in targets if not (README.parent / target).exists()] == []


@pytest.mark.parametrize(
    ("row", "table"), [("forward", "Forward, float32:"), ("forward and backward", "Forward and backward, float32 (")]
)
def test_geometric_means_are_those_of_the_rows(row, table):
    quoted = next(line for line in README.read_text().splitlines() if line.startswith(f"| {row} |"))
    rows = table_below(CPU_PAGE.read_text(), table)
    assert len(rows) == 13
    for name, mean in zip(("over best eager", "over compile"), numbers(quoted), strict=True):
        assert mean == pytest.approx(
            geometric_mean(number for line in rows[:-1] for number in numbers(line[name])), abs=0.01
        )
        assert mean == numbers(rows[-1][name])[0]


def test_ratios_to_attention_are_those_of_the_rows():
    rows = table_below(CPU_PAGE.read_text(), "A block with its residual against")
    expected = {(int(line["width"]), int(line["tokens"])): numbers(line["over attention"])[0] for line in rows}
    quoted = re.findall(r"^\| width (\d+), K = \d+ (\|.*)$", README.read_text(), re.MULTILINE)
    assert len(quoted) == 3
    for width, cells in quoted:
        for tokens, ratio in zip((1024, 4096, 16384), numbers(cells), strict=True):
            assert ratio == pytest.approx(expected[int(width), tokens], rel=0.02)


def table_below(page: str, sentence: str) -> list[dict[str, str]]:
    """The rows of the first table after a sentence, by the names of its columns."""
    lines = page.split(sentence, 1)[1].split("\n|", 1)[1].split("\n\n", 1)[0].splitlines()
    names, _, *rows = ([cell.strip() for cell in line.strip("| ").split("|")] for line in lines)
    return [dict(zip(names, row, strict=True)) for row in rows]


def numbers(text: str) -> list[float]:
    """Those that are ratios."""
    return [float(number) for number in re.findall(r"([\d.]+)×", text)]
