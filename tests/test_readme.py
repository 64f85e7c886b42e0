import contextlib
import re
import runpy

import pytest
from conftest import ROOT

from pyimagesearch.experiment.options import parse_mixed_options, parse_options
from pyimagesearch.robustness import __main__ as report
from pyimagesearch.training import __main__ as recipe

README = (ROOT / "README.md").read_text()
EXAMPLES = {path.name: path for path in (ROOT / "tests" / "examples").iterdir()}


@pytest.mark.slow
def test_the_readmes_example_defends(capsys):
    (example,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    exec(compile(example, "README.md", "exec"), {})
    before, after = map(float, re.findall(r"\d\.\d+", capsys.readouterr().out))
    assert before < 0.55
    assert after > before + 0.2


def rows_of(name, row, capsys):
    """Return the rows of figures that an example prints."""
    runpy.run_path(str(EXAMPLES[name]), run_name="__main__")
    return re.findall(row, capsys.readouterr().out, flags=re.MULTILINE)


@pytest.mark.slow
def test_report_example_shows_a_weak_network(capsys):
    rows = rows_of("report.py", r"^(\d) +(\D+?) +(\d\.\d+)$", capsys)
    assert len(rows) == 1 + 2 * 10
    accuracy = {row[:2]: float(row[2]) for row in rows}
    assert accuracy["0", "clean"] > 0.85
    assert accuracy["2", "random signs"] > 0.8
    assert accuracy["2", "worst case"] < 0.6 < accuracy["1", "worst case"] < 0.8


@pytest.mark.slow
def test_recipe_example_makes_a_classifier_robust(capsys):
    rows = rows_of("robust_recipe.py", r"^([^\d\n]+?) +(\d\.\d+) +(\d\.\d+)$", capsys)
    accuracies = {name: (float(before), float(after)) for name, before, after in rows}
    before, after = accuracies["worst case"]
    assert after > before + 0.3
    assert accuracies["clean"][1] > 0.9


@pytest.mark.slow
def test_transfer_example_fools_what_has_no_gradient(capsys):
    rows = rows_of("transfer.py", r"^(\D+?)((?: +\d\.\d+){4})$", capsys)
    assert len(rows) == 5
    for _, shares in rows:
        clean, noise, transfer, square = map(float, shares.split())
        assert square < transfer < noise - 0.05
        assert noise <= clean + 0.02


def test_every_example_is_linked_and_every_link_leads_somewhere():
    links = re.findall(r"\]\(((?:tests|\.github)/[^)]*)\)", README)
    programs = {f"tests/examples/{name}" for name in EXAMPLES if name.endswith("py")}
    assert programs <= set(links)
    assert all((ROOT / link).is_file() for link in links)


def test_checks_on_a_fresh_machine_use_the_printed_command():
    commands = re.findall(r"```sh\n(.*?)\n```", README, flags=re.DOTALL)
    (command,) = (command for command in commands if "pytest" in command)
    assert command in (ROOT / ".ci" / "run").read_text()


@pytest.mark.parametrize(
    "parse",
    [parse_options, parse_mixed_options, report.parse_options, recipe.parse_options],
)
def test_every_option_is_in_a_table(parse, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["script", "--help"])
    with contextlib.suppress(SystemExit):
        parse("a script")
    named = set(re.findall(r"^ +(--[a-z-]+)", capsys.readouterr().out, re.MULTILINE))
    assert len(named) >= 7
    assert {option for option in named if f"| `{option}` |" not in README} == set()
