import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


@pytest.mark.slow
def test_example_runs_as_printed_and_defends(capsys):
    (example,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    exec(compile(example, "README.md", "exec"), {})
    before, after = map(float, re.findall(r"\d\.\d+", capsys.readouterr().out))
    assert before < 0.55
    assert after > before + 0.2


def test_checks_on_a_fresh_machine_use_the_printed_command():
    commands = re.findall(r"```sh\n(.*?)\n```", README, flags=re.DOTALL)
    assert any("pytest" in command for command in commands)
    for command in commands:
        if "pytest" in command:
            assert command in (ROOT / ".ci" / "run").read_text()


def test_every_option_is_in_the_table():
    source = (ROOT / "pyimagesearch" / "experiment.py").read_text()
    options = re.findall(r"\"(--[a-z-]+)\"", source)
    assert "--fine-tune-epochs" in options
    assert all(f"| `{option}` |" in README for option in options)


def test_every_published_figure_is_in_the_table():
    published = "0.9970 0.0443 0.9892 17.2824 0.0170 0.0594 0.9844 0.0366 0.9906"
    published += " 0.9967 0.0477 0.9891 14.0658 0.0188 0.0315 0.9906 0.1190 0.9641"
    assert all(figure in README for figure in published.split())
