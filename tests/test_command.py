"""The report's command, `python -m pyimagesearch.robustness`."""

import csv
import functools
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import build_classifier

from pyimagesearch.experiment.console import run_script
from pyimagesearch.robustness import __main__ as command
from pyimagesearch.robustness import evaluate, transfer
from pyimagesearch.simplecnn import SimpleCNN

ROOT = Path(__file__).parent.parent


@pytest.fixture
def run_command(monkeypatch, capsys):
    """Return a function that runs the command in this process, on the digits."""
    quick = functools.partial(evaluate.evaluate_robustness, steps=5)
    monkeypatch.setattr(evaluate, "evaluate_robustness", quick)
    monkeypatch.setattr(transfer, "_STEPS", 50)

    def run(*arguments):
        monkeypatch.setitem(sys.modules, "matplotlib", None)  # not installed
        data = ["--data", "digits", "--queries", 50]
        monkeypatch.setattr(sys, "argv", ["robustness", *map(str, [*arguments, *data])])
        status = 0
        try:
            run_script(command.main, command.parse_options, command.__doc__)
        except SystemExit as exit:
            status = exit.code
        return status, *capsys.readouterr()

    return run


def table_of(printed):
    """Return the cells of the printed table, a list a line."""
    table = printed.partition("\neps ")[2].partition("\nWorst case")[0]
    lines = f"eps {table}".splitlines()
    return [re.split(r" {2,}", line) for line in lines if line]


@pytest.mark.slow
def test_report_on_a_finished_runs_models_in_its_folder(
    digits_file, tmp_path, run_command
):
    """In a process of its own; it leaves the run's files alone."""
    shutil.copy(digits_file, tmp_path / "trained.keras")
    SimpleCNN.build(28, 28, 1, 10).save(tmp_path / "defended.keras")
    for name in ("results.json", "history.csv", "accuracy.png", "steps_defended.png"):
        (tmp_path / name).write_text(f"the run's {name}")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    paths = [str(tmp_path / name) for name in ("trained.keras", "defended.keras")]
    arguments = [*paths, "--eps", "0.05", "0.1", "--output", str(tmp_path)]
    more = ["--data", "digits", "--images", "30", "--queries", "100"]
    finished = subprocess.run(
        [sys.executable, "-m", "pyimagesearch.robustness", *arguments, *more],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"},
    )
    assert finished.returncode == 0, finished.stderr
    for line in finished.stderr.splitlines():
        assert line.startswith("warning: model ")
    assert "\b" not in finished.stdout and "\r" not in finished.stdout
    assert f"\n[INFO] saved 5 pictures in {tmp_path}\n" in finished.stdout
    head, *table = table_of(finished.stdout)
    assert head == ["eps", "attack", "trained", "defended"]
    assert len(table) == 1 + 2 * 9

    results = json.loads((tmp_path / "robustness.json").read_text())
    models = dict(zip(["trained", "defended"], paths, strict=True))
    settings = {"models": models, "data": "digits", "images": 30, "queries": 100}
    assert settings.items() <= results.items()
    for column, report in enumerate(results["results"].values(), 2):
        for row, cells in zip(report, table, strict=True):
            assert [f"{row['eps']:g}", row["attack"]] == cells[:2]
            assert f"{row['accuracy']:.4f}" == cells[column]
    with (tmp_path / "robustness.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    expected = [
        {"model": name, **{key: str(value) for key, value in row.items()}}
        for name, report in results["results"].items()
        for row in report
    ]
    assert rows == expected

    assert {path: path.read_bytes() for path in before} == before
    pictures = {
        f"robustness_{kind}_{name}.png"
        for kind in ("adversaries", "steps")
        for name in models
    }
    written = {path.name for path in tmp_path.iterdir()} - {p.name for p in before}
    assert written - {".lock"} == pictures | {
        "robustness_accuracy.png",
        "robustness.json",
        "robustness.csv",
    }
    status, _, error = run_command(*arguments)
    assert status == 2
    assert "holds an earlier run's robustness.json" in error and "--force" in error
    assert len(error.splitlines()) == 1


@pytest.mark.slow
def test_command_takes_range_images_and_transfer(digits, tmp_path, run_command):
    model, _, (images, labels) = digits
    scale = keras.layers.Rescaling(1 / 255)
    keras.Sequential([keras.Input((28, 28, 1)), scale, model]).save(
        tmp_path / "m.keras"
    )
    arguments = [tmp_path / "m.keras", "--range", 0, 255]
    whole = ["--images", 5000, "--output", tmp_path]
    status, printed, error = run_command(*arguments, *whole)
    assert status == 0, error
    assert "pip install matplotlib" in printed
    report = json.loads((tmp_path / "robustness.json").read_text())
    assert report["images"] == 360
    right = model(images).numpy().argmax(axis=1) == labels.argmax(axis=1)
    clean, *_, worst = report["results"]["m"]
    assert clean["accuracy"] == pytest.approx(right.mean(), abs=0.004)
    assert worst["eps"] == 25.5 and 20 < worst["largest_perturbation"] <= 25.51
    assert worst["accuracy"] < 0.5
    # Wilson's interval: the shares p of which this one is 1.96 deviations away.
    share, spread = worst["accuracy"], 1.959964**2 / 360
    high, low = np.roots([1 + spread, -(2 * share + spread), share**2])
    likely = f"{share:.3f} stands for {low:.3f} to {high:.3f}"
    assert f"With 360 images a worst case of {likely} (95%)." in printed
    status, printed, _ = run_command(*arguments, "--transfer", "--images", 20)
    assert status == 0
    assert "on 20 test images" in printed
    assert [cells[1] for cells in table_of(printed)].count("transfer (black box)") == 1


def test_table_sets_models_side_by_side():
    def rows(accuracy):
        return [
            evaluate.Row(name, eps, accuracy, 1.0, 1.0, 0.1, eps)
            for name, eps in [("clean", 0.0), ("FGSM", 2 / 255), ("FGSM", 8 / 255)]
        ]

    table = command.format_table({"first/defended": rows(1.0), "b": rows(0.12346)})
    lines = [line for line in table.split("\n") if line]
    assert [line.split() for line in lines] == [
        ["eps", "attack", "first/defended", "b"],
        ["0", "clean", "1.0000", "0.1235"],
        ["0.007843", "FGSM", "1.0000", "0.1235"],
        ["0.03137", "FGSM", "1.0000", "0.1235"],
    ]
    assert len({len(line) for line in lines}) == 1  # all end under each other
    assert "\n\n0.007843" in table and "\n\n0.03137" in table


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["a/m.keras"], ["m"]),
        (["a/m.keras", "a/n.keras"], ["m", "n"]),
        (["a/m.keras", "b/m.keras"], ["a/m", "b/m"]),
        (["a/x/m.keras", "b/x/m.keras", "b/n.keras"], ["a/x/m", "b/x/m", None]),
        (["a/m.keras", "a/m.keras"], ["m"]),
        (["a/m.1.keras", "a/m.2.keras"], ["m.1", "m.2"]),
    ],
)
def test_models_are_named_by_files_and_where_needed_by_folders(
    paths, names, tmp_path, monkeypatch
):
    for path in paths:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        zipfile.ZipFile(tmp_path / path, "w").close()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["robustness", *paths])
    models = command.parse_options("report").models
    assert list(models.values()) == list(dict.fromkeys(paths))
    for name, wanted in zip(models, names, strict=True):
        assert wanted in (name, None)
        assert "\\" not in name and not name.startswith("/")


@keras.saving.register_keras_serializable("tests")
class Custom(keras.layers.Layer):
    pass


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: build_classifier((6, 6, 1), 10), r"\(28, 28, 1\)"),
        (lambda: build_classifier((28, 28, 1), 3), r"10 classes.*\(3,\)"),
        (lambda: with_layer(keras.layers.Lambda(lambda x: x)), "safe mode.*Lambda"),
        (lambda: with_layer(Custom()), "Custom"),
        (lambda: nan_classifier(), "m: .*NaN"),
        (b"PK no zip file", "as Keras saves it"),
        (b"PK\5\6" + bytes(18), "cannot be loaded"),  # an empty archive
        # The end of an archive of several disks, which zipfile refuses on its own.
        (b"PK\6\7\1" + bytes(15) + b"PK\5\6" + bytes(18), "as Keras saves it"),
    ],
)
def test_models_that_do_not_fit_are_one_line(build, message, tmp_path, run_command):
    path = tmp_path / "m.keras"
    if isinstance(build, bytes):
        path.write_bytes(build)
    else:
        build().save(path)
    registered = keras.saving.get_custom_objects()
    custom = registered.pop("tests>Custom")
    status, _, error = run_command(path, "--images", 5)
    registered["tests>Custom"] = custom
    assert status == 2
    (line,) = error.splitlines()
    assert line.startswith("robustness: error: ")
    assert len(line) < 500
    assert re.search(message, line)
    assert str(path) in line or line.startswith("robustness: error: m: ")


def with_layer(layer):
    return keras.Sequential([keras.Input((28, 28, 1)), layer])


def nan_classifier():
    model = build_classifier((28, 28, 1), 10)
    model.set_weights([weights * np.nan for weights in model.get_weights()])
    return model
