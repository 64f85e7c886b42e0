"""The commands `python -m pyimagesearch.robustness` and `.training`."""

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
import tensorflow as tf
from conftest import build_classifier, network_of

from pyimagesearch.experiment import files
from pyimagesearch.experiment.console import run_script
from pyimagesearch.experiment.data import load
from pyimagesearch.robustness import __main__ as command
from pyimagesearch.robustness import evaluate
from pyimagesearch.simplecnn import SimpleCNN
from pyimagesearch.training import __main__ as training

ROOT = Path(__file__).parent.parent


@pytest.fixture
def run_command(monkeypatch, capsys):
    """Return a function that runs a command in this process."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # not installed

    def run(module, *arguments):
        name = module.__package__.rpartition(".")[2]
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        status = 0
        try:
            run_script(module.main, module.parse_options, module.__doc__)
        except SystemExit as exit:
            status = exit.code
        return status, *capsys.readouterr()

    return run


@pytest.fixture
def report_on(run_command):
    """Return a function that runs the report on scikit-learn's digits."""
    quick = ["--queries", 50, "--steps", 5]
    return functools.partial(run_command, command, "--data", "digits", *quick)


def table_of(printed):
    """Return the cells of the printed table, a list a line."""
    table = printed.partition("\neps ")[2].partition("\nWorst case")[0]
    lines = f"eps {table}".splitlines()
    return [re.split(r" {2,}", line) for line in lines if line]


@pytest.mark.slow
def test_report_on_a_finished_runs_models_in_its_folder(
    digits_file, tmp_path, report_on
):
    """In a process of its own; it leaves the run's files alone."""
    shutil.copy(digits_file, tmp_path / "trained.keras")
    SimpleCNN.build(28, 28, 1, 10).save(tmp_path / "defended.keras")
    for name in ("results.json", "history.csv", "accuracy.png", "steps_defended.png"):
        (tmp_path / name).write_text(f"the run's {name}")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    paths = [str(tmp_path / name) for name in ("trained.keras", "defended.keras")]
    arguments = [*paths, "--eps", "0.05", "0.1", "--output", str(tmp_path)]
    arguments += ["--images", "30"]
    quick = ["--data", "digits", "--queries", "100", "--steps", "20"]
    finished = subprocess.run(
        [sys.executable, "-m", "pyimagesearch.robustness", *arguments, *quick],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"},
    )
    assert finished.returncode == 0, finished.stderr
    for line in finished.stderr.splitlines():
        assert line.startswith("warning: model ")
    assert "attacking trained on 30 test images...\n" in finished.stdout
    assert "\b" not in finished.stdout and "\r" not in finished.stdout
    assert f"\n[INFO] saved 5 pictures in {tmp_path}\n" in finished.stdout
    head, *table = table_of(finished.stdout)
    assert head == ["eps", "attack", "trained", "defended"]
    assert len(table) == 1 + 2 * 10

    results = json.loads((tmp_path / "robustness.json").read_text())
    models = dict(zip(["trained", "defended"], paths, strict=True))
    settings = {"models": models, "data": "digits", "images": 30, "first image": 0}
    settings |= {"queries": 100, "steps": 20}
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
    assert written == pictures | {
        "robustness_accuracy.png",
        "robustness.json",
        "robustness.csv",
    }
    status, _, error = report_on(*arguments)
    assert status == 2
    assert "holds an earlier robustness.json" in error and "--force" in error
    assert len(error.splitlines()) == 1


@pytest.mark.slow
def test_report_takes_another_range_a_share_of_the_images_and_a_limit(
    digits, tmp_path, report_on
):
    model, _, (images, labels) = digits
    path = tmp_path / "m.keras"
    scale = keras.layers.Rescaling(1 / 255)
    keras.Sequential([keras.Input((28, 28, 1)), scale, model]).save(path)
    status, printed, error = report_on(
        path,
        *("--range", 0, 255, "--images", "60:5000"),
        *("--fail-under", 0.999, "--output", tmp_path),
    )
    assert status == 1
    assert error.endswith(" is below --fail-under 0.999\n")
    assert "pip install matplotlib" in printed
    report = json.loads((tmp_path / "robustness.json").read_text())
    assert report["images"] == 300
    right = model(images[60:]).numpy().argmax(axis=1) == labels[60:].argmax(axis=1)
    clean, *_, worst = report["results"]["m"]
    assert clean["accuracy"] == pytest.approx(right.mean(), abs=0.004)
    assert worst["eps"] == 25.5 and 20 < worst["largest_perturbation"] <= 25.51
    assert worst["accuracy"] < 0.5
    # Wilson's interval: the shares p of which this one is 1.96 deviations away.
    share = worst["accuracy"]
    spread = 1.959964**2 / 300
    high, low = np.roots([1 + spread, -(2 * share + spread), share**2])
    likely = f"{share:.3f} stands for {low:.3f} to {high:.3f}"
    assert f"With 300 images a worst case of {likely} (95%)." in printed


@pytest.fixture
def images_of(tmp_path, run_command, monkeypatch):
    """Return a function that gives the images and labels that the report gets."""
    given = []

    def report(model, images, labels, *arguments, **settings):
        given[:] = [images, np.eye(3)[labels]]
        return [evaluate.Row("clean", 0.0, 1.0, 0.0, 0.0, 0.0, 0.0)]

    def run(data, rows, model=None):
        path = tmp_path / "m.keras"
        (model or build_classifier((6, 6, 3))).save(path)
        arguments = [path, "--data", data, "--images", rows]
        status, _, error = run_command(command, *arguments)
        return error if status else given.copy()

    monkeypatch.setattr(evaluate, "evaluate_robustness", report)
    return run


def test_report_takes_pictures_from_a_folder_for_each_class(images_of, tmp_path):
    folder = tmp_path / "pictures"
    for label, name in enumerate(["bees", "cats", "dogs"]):
        (folder / name).mkdir(parents=True)
        for number in range(4):
            picture = np.full((6, 6, 3), 50 * number, np.uint8)
            picture[..., label] = 255
            file = folder / name / f"{number}.png"
            file.write_bytes(tf.io.encode_png(picture).numpy())
    images, labels = images_of(folder, 20)
    assert images.shape == (12, 6, 6, 3) and images.max() == 1
    np.testing.assert_array_equal(images[:, 0, 0] == 1, labels == 1)
    assert set(images.min(axis=(1, 2, 3)) * 255) == {0, 50, 100, 150}
    share, labels_of_share = images_of(folder, "3:7")
    np.testing.assert_array_equal(share, images[3:7])
    np.testing.assert_array_equal(labels_of_share, labels[3:7])
    assert "must hold image 20" in images_of(folder, "20:30")
    flat = keras.Sequential([keras.Input((108,)), keras.layers.Dense(3)])
    error = images_of(folder, 20, flat)
    assert "needs a model of images of a known size" in error
    assert "got (None, 108)" in error
    (folder / "eels").mkdir()
    assert "must hold 3 folders, a class of the model each, got 4" in images_of(
        folder, 20
    )


def test_report_takes_a_file_of_test_images_alone(images_of, tmp_path):
    path = tmp_path / "test.npz"
    images = np.random.default_rng(0).random((5, 6, 6, 3), dtype=np.float32)
    np.savez(path, x_test=images, y_test=[0, 2, 1, 1, 0])
    share, labels = images_of(path, "1:3")
    np.testing.assert_array_equal(share, images[1:3])
    np.testing.assert_array_equal(labels, np.eye(3)[[2, 1]])
    assert "must hold image 9" in images_of(path, "9:12")
    np.savez(path, x_test=images, y_test=[0, 2, 3, 1, 0])
    assert "class ids 0 to 2, as the model has, got 3" in images_of(path, 5)


def test_report_is_told_of_a_single_logit(tmp_path, run_command):
    model = network_of(keras.layers.Flatten(), keras.layers.Dense(1))
    model.save(tmp_path / "m.keras")
    images = np.random.default_rng(0).random((20, 6, 6, 1), dtype=np.float32)
    labels = (model(images).numpy()[:, 0] > 0).astype(int)
    np.savez(tmp_path / "test.npz", x_test=images, y_test=labels)
    arguments = [tmp_path / "m.keras", "--data", tmp_path / "test.npz"]
    arguments += ["--steps", 1, "--queries", 2]
    status, _, error = run_command(command, *arguments)
    assert status == 2 and "a single score" in error
    status, printed, error = run_command(command, *arguments, "--from-logits")
    assert status == 0, error
    assert table_of(printed)[1][:3] == ["0", "clean", "1.0000"]


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


def with_layer(layer):
    return keras.Sequential([keras.Input((28, 28, 1)), layer])


def nan_classifier():
    model = build_classifier((28, 28, 1), 10)
    model.set_weights([weights * np.nan for weights in model.get_weights()])
    return model


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (build_classifier((6, 6, 1), 10), r"\(28, 28, 1\)"),
        (build_classifier((28, 28, 1), 3), r"10 classes.*\(3,\)"),
        (with_layer(keras.layers.Lambda(lambda x: x)), "safe mode.*Lambda"),
        (with_layer(Custom()), "Custom"),
        (nan_classifier(), "m: .*NaN"),
        (b"PK no zip file", "as Keras saves it"),
        (b"PK\5\6" + bytes(18), "cannot be loaded"),  # an empty archive
        # The end of an archive of several disks, which zipfile refuses on its own.
        (b"PK\6\7\1" + bytes(15) + b"PK\5\6" + bytes(18), "as Keras saves it"),
    ],
)
def test_models_that_do_not_fit_are_one_line(given, message, tmp_path, report_on):
    path = tmp_path / "m.keras"
    if isinstance(given, bytes):
        path.write_bytes(given)
    else:
        given.save(path)
    registered = keras.saving.get_custom_objects()
    custom = registered.pop("tests>Custom")
    status, _, error = report_on(path, "--images", 5)
    registered["tests>Custom"] = custom
    assert status == 2
    (line,) = error.splitlines()
    assert line.startswith("robustness: error: ")
    assert len(line) < 500
    assert re.search(message, line)
    assert str(path) in line or line.startswith("robustness: error: m: ")


# The training command.


@pytest.fixture(scope="module")
def tiny_network(tiny_data, tmp_path_factory):
    """The path of a network that was trained on the tiny data."""
    model = SimpleCNN.build(8, 8, 1, 3)
    model.compile("adam", "categorical_crossentropy")
    model.fit(*load(str(tiny_data)).train, epochs=5, verbose=0)
    path = tmp_path_factory.mktemp("given") / "tiny.keras"
    model.save(path)
    return path


def network_at(path):
    return keras.saving.load_model(path, compile=False).get_weights()


def test_training_command_fine_tunes_a_network_and_checks_it(
    tiny_network, tiny_data, tmp_path, run_command, monkeypatch
):
    folder = tmp_path / "run"
    arguments = [tiny_network, "--data", tiny_data, "--output", folder, "--quiet"]

    def run(*options):
        status, printed, error = run_command(training, *arguments, *options)
        assert status == 0, error
        results = json.loads((folder / "results.json").read_text())
        history = files.read_table(folder / "history.csv")
        return printed, results, history

    printed, results, history = run("--epochs", 2)
    story = [line for line in printed.splitlines() if line.endswith(("...", ":"))]
    assert [line for line in story if "fresh" not in line] == [
        "[INFO] loading data...",
        "[INFO] normal testing images:",
        "[INFO] adversarial testing images:",
        "[INFO] fine-tuning network by the robust recipe...",
        "[INFO] normal testing images *after* fine-tuning:",
        "[INFO] adversarial images *after* fine-tuning:",
    ]
    assert "in short: the network is right on" in printed
    assert "published" not in printed
    settings = {"script": "training", "--model": str(tiny_network), "--epochs": 2}
    assert settings.items() <= results["settings"].items()
    assert [(row["phase"], row["epoch"]) for row in history] == [
        ("fine-tuning", "1"),
        ("fine-tuning", "2"),
    ]
    assert all(0 <= float(row["robust_accuracy"]) <= 1 for row in history)
    given = network_at(tiny_network)
    defended = network_at(folder / "defended.keras")
    for before, kept in zip(given, network_at(folder / "trained.keras"), strict=True):
        np.testing.assert_array_equal(kept, before)
    assert any(
        (now != before).any() for now, before in zip(defended, given, strict=True)
    )

    monkeypatch.setattr("pyimagesearch.experiment.run.check_defence", print)
    printed, again, history_again = run("--epochs", 2)
    assert "going on from" in printed
    assert len(again["figures"]) == 4
    assert again["figures"].items() <= results["figures"].items()
    for row, row_again in zip(history, history_again, strict=True):
        assert row_again | {"seconds": row["seconds"]} == row
    status, _, error = run_command(training, *arguments, "--epochs", 3)
    assert status == 2 and "holds another run's results.json" in error


def test_training_command_needs_a_batch_of_images(
    tiny_network, tiny_data, tmp_path, run_command
):
    arrays = dict(np.load(tiny_data))
    arrays["x_train"] = arrays["x_train"][:60]
    arrays["y_train"] = arrays["y_train"][:60]
    np.savez(tmp_path / "few.npz", **arrays)
    status, _, error = run_command(
        training, tiny_network, "--data", tmp_path / "few.npz"
    )
    assert status == 2
    expected = "training: error: --data must hold 64 training images or more (see"
    assert error.startswith(expected) and len(error.splitlines()) == 1
