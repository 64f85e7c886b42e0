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


@pytest.mark.parametrize("script", sorted(ROOT.glob("train_*.py")))
def test_every_option_is_in_the_table(script):
    source = (ROOT / "pyimagesearch" / "experiment.py").read_text()
    for option in re.findall(r"\"(--[a-z-]+)\"", source):
        assert f"| `{option}` |" in README
    assert script.name in README
