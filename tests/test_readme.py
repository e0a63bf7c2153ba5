"""The README's code runs as it stands there."""

import re
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def test_every_python_example_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    examples = re.findall(r"^```python\n(.*?)^```", README.read_text(), re.DOTALL | re.MULTILINE)
    assert len(examples) >= 3
    names: dict = {}
    for example in examples:
        exec(compile(example, str(README), "exec"), names)
    assert (tmp_path / "my-fusion" / "config.json").exists()


def test_every_linked_file_exists():
    targets = re.findall(r"\]\((?!http)([^)#]+)", README.read_text())
    assert targets
    assert [target for target in targets if not (README.parent / target).exists()] == []
