import argparse
import re
import runpy
from pathlib import Path

import pytest

from pyimagesearch.experiment.options import parse_mixed_options, parse_options
from pyimagesearch.robustness.__main__ import parse_options as parse_report_options
from pyimagesearch.training.__main__ import parse_options as parse_recipe_options

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
EXAMPLES = {path.name: path for path in (ROOT / "tests" / "examples").iterdir()}


@pytest.mark.slow
def test_the_readmes_example_defends(capsys):
    (example,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    exec(compile(example, "README.md", "exec"), {})
    before, after = map(float, re.findall(r"\d\.\d+", capsys.readouterr().out))
    assert before < 0.55
    assert after > before + 0.2


def run_example(name, capsys):
    runpy.run_path(str(EXAMPLES[name]), run_name="__main__")
    return capsys.readouterr().out


@pytest.mark.slow
def test_report_example_shows_a_weak_network(capsys):
    printed = run_example("report.py", capsys)
    rows = re.findall(r"^(\d) +(\D+?) +(\d\.\d+)$", printed, flags=re.M)
    assert len(rows) == 1 + 2 * 10
    accuracy = {row[:2]: float(row[2]) for row in rows}
    assert accuracy["0", "clean"] > 0.85
    assert accuracy["2", "random signs"] > 0.8
    assert accuracy["2", "worst case"] < 0.6 < accuracy["1", "worst case"] < 0.8


@pytest.mark.slow
def test_recipe_example_makes_a_classifier_robust(capsys):
    printed = run_example("robust_recipe.py", capsys)
    rows = re.findall(r"^([^\d\n]+?) +(\d\.\d+) +(\d\.\d+)$", printed, flags=re.M)
    assert [row[0] for row in rows[:: len(rows) - 1]] == ["clean", "worst case"]
    _, before, after = rows[-1]
    assert float(after) > float(before) + 0.3
    assert float(rows[0][2]) > 0.9


@pytest.mark.slow
def test_transfer_example_fools_what_has_no_gradient(capsys):
    printed = run_example("transfer.py", capsys)
    rows = re.findall(r"^(\D+?)((?: +\d\.\d+){4})$", printed, flags=re.M)
    assert len(rows) == 5
    for _, shares in rows:
        clean, noise, transfer, square = map(float, shares.split())
        assert transfer < noise - 0.05
        assert noise <= clean + 0.02
        assert square < transfer


def test_every_example_is_linked_and_every_link_leads_somewhere():
    links = re.findall(r"\]\(((?:tests|\.github)/[^)]*)\)", README)
    assert {f"tests/examples/{name}" for name in EXAMPLES if name.endswith("py")} <= {
        *links
    }
    assert all((ROOT / link).is_file() for link in links)


def test_checks_on_a_fresh_machine_use_the_printed_command():
    commands = re.findall(r"```sh\n(.*?)\n```", README, flags=re.DOTALL)
    (command,) = (command for command in commands if "pytest" in command)
    assert command in (ROOT / ".ci" / "run").read_text()


@pytest.mark.parametrize(
    "parse",
    [parse_options, parse_mixed_options, parse_recipe_options, parse_report_options],
)
def test_every_option_is_in_a_table(parse, monkeypatch):
    seen = []

    def parse_args(parser):
        seen.extend(parser._option_string_actions)
        raise InterruptedError

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_args)
    with pytest.raises(InterruptedError):
        parse("for --help")
    options = {option for option in seen if option.startswith("--")} - {"--help"}
    assert len(options) >= 7
    assert {option for option in options if f"| `{option}` |" not in README} == set()


def test_every_published_figure_is_in_the_table():
    published = "0.9970 0.0443 0.9892 17.2824 0.0170 0.0594 0.9844 0.0366 0.9906"
    published += " 0.9967 0.0477 0.9891 14.0658 0.0188 0.0315 0.9906 0.1190 0.9641"
    rows = " ".join(line for line in README.splitlines() if line.startswith("|"))
    assert {figure for figure in published.split() if figure not in rows} == set()


def test_it_is_read_in_one_go():
    assert len(README.splitlines()) <= 270
