import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def run_example(word, capsys):
    """Run the one example that holds `word` as printed; return what it prints."""
    examples = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    (example,) = (example for example in examples if word in example)
    exec(compile(example, "README.md", "exec"), {})
    return capsys.readouterr().out


@pytest.mark.slow
def test_generators_example_defends(capsys):
    printed = run_example("accuracy under fresh", capsys)
    before, after = map(float, re.findall(r"\d\.\d+", printed))
    assert before < 0.55
    assert after > before + 0.2


@pytest.mark.slow
def test_report_example_shows_a_weak_network(capsys):
    printed = run_example("{row.eps:<5g}", capsys)
    rows = re.findall(r"^(\S+) +(\D+?) +(\d\.\d+)$", printed, flags=re.M)
    assert len(rows) == 1 + 2 * 8
    accuracy = {row[:2]: float(row[2]) for row in rows}
    assert accuracy["0", "clean"] > 0.85
    assert accuracy["2", "random signs"] > 0.8
    assert accuracy["2", "worst case"] < 0.6 < accuracy["1", "worst case"] < 0.8


@pytest.mark.slow
def test_recipe_example_makes_a_classifier_robust(capsys):
    printed = run_example("prepare_robust", capsys)
    rows = re.findall(r"^(\D+?) +(\d\S+) +(\S+)$", printed, flags=re.M)
    assert [row[0] for row in rows[:: len(rows) - 1]] == ["clean", "worst case"]
    _, before, after = rows[-1]
    assert float(after) > float(before) + 0.3
    assert float(rows[0][2]) > 0.9


@pytest.mark.slow
def test_transfer_example_fools_what_has_no_gradient(capsys):
    printed = run_example("train_substitute", capsys)
    rows = re.findall(r"^(.+?) +(\S+) +(\S+) +(0\.\S+)$", printed, flags=re.M)
    assert len(rows) == 5
    for _, clean, noise, transfer in rows:
        assert float(transfer) < float(noise) - 0.05
        assert float(noise) <= float(clean) + 0.02


def test_checks_on_a_fresh_machine_use_the_printed_command():
    commands = re.findall(r"```sh\n(.*?)\n```", README, flags=re.DOTALL)
    assert any("pytest" in command for command in commands)
    for command in commands:
        if "pytest" in command:
            assert command in (ROOT / ".ci" / "run").read_text()


def test_every_option_is_in_the_table():
    files = [ROOT / "pyimagesearch" / f"{n}.py" for n in ("experiment", "robustness")]
    source = "".join(path.read_text() for path in files)
    options = re.findall(r"\"(--[a-z-]+)\"", source)
    assert "--fine-tune-epochs" in options and "--transfer" in options
    assert all(f"| `{option}` |" in README for option in options)


def test_every_published_figure_is_in_the_table():
    published = "0.9970 0.0443 0.9892 17.2824 0.0170 0.0594 0.9844 0.0366 0.9906"
    published += " 0.9967 0.0477 0.9891 14.0658 0.0188 0.0315 0.9906 0.1190 0.9641"
    assert all(figure in README for figure in published.split())
