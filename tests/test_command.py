"""The commands `python -m pyimagesearch.robustness` and `.training`."""

import json
import re
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import build_classifier, network_of, run_python

from pyimagesearch.experiment import files
from pyimagesearch.experiment.console import run_script
from pyimagesearch.robustness import __main__ as command
from pyimagesearch.robustness import evaluate
from pyimagesearch.training import __main__ as training


@pytest.fixture
def run_command(monkeypatch, capsys):
    """Return a function that runs a command in this process."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # not installed

    def run(module, *arguments):
        monkeypatch.setattr(sys, "argv", [module.__file__, *map(str, arguments)])
        status = 0
        try:
            run_script(module.main, module.parse_options, module.__doc__)
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
def test_report_on_a_finished_runs_models_in_its_folder(digits, tmp_path, run_command):
    """In a process of its own; it leaves the run's files alone."""
    model, (images, labels) = digits
    networks = {"trained": model, "defended": build_classifier((28, 28, 1), 10)}
    paths = {name: str(tmp_path / f"{name}.keras") for name in networks}
    for name, network in networks.items():
        scale = keras.layers.Rescaling(1 / 255)
        network_of(scale, network, image_shape=(28, 28, 1)).save(paths[name])
    for name in ("results.json", "accuracy.png"):
        (tmp_path / name).write_text(f"the run's {name}")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    given = ["--data", "digits", "--images", "330:5000", "--queries", 50]
    given += ["--steps", 5, "--range", 0, 255, "--eps", 12.75, 25.5]
    given += ["--fail-under", 0.999, "--output", tmp_path]

    finished = run_python("-m", command.__package__, *paths.values(), *given)
    assert finished.returncode == 1
    *warned, last = finished.stderr.splitlines()
    assert all(line.startswith("warning: model ") for line in warned)
    assert last.endswith(" is below --fail-under 0.999")
    assert "attacking trained on 30 test images...\n" in finished.stdout
    assert f"\n[INFO] saved 3 pictures in {tmp_path}\n" in finished.stdout
    head, *table = table_of(finished.stdout)
    assert head == ["eps", "attack", "trained", "defended"]
    assert len(table) == 1 + 2 * 10

    results = json.loads((tmp_path / "robustness.json").read_text())
    settings = {"models": paths, "data": "digits", "images": 30, "first image": 330}
    settings |= {"queries": 50, "steps": 5, "range": [0, 255], "seed": 0}
    assert settings.items() <= results.items()
    rows = []
    for column, (name, cases) in enumerate(results["results"].items(), 2):
        for row, cells in zip(cases, table, strict=True):
            assert [f"{row['eps']:.4g}", row["attack"]] == cells[:2]
            assert f"{row['accuracy']:.4f}" == cells[column]
            texts = {key: str(value) for key, value in row.items()}
            rows.append({"model": name} | texts)
    assert files.read_table(tmp_path / "robustness.csv") == rows
    clean, *_, worst = results["results"]["trained"]
    right = model(images[330:]).numpy().argmax(axis=1) == labels[330:].argmax(axis=1)
    assert clean["accuracy"] == pytest.approx(right.mean(), abs=0.034)
    assert worst["eps"] == 25.5 and 20 < worst["largest_perturbation"] <= 25.51
    # Wilson's interval: the shares p of which this one is 1.96 deviations away.
    share = worst["accuracy"]
    spread = 1.959964**2 / 30
    high, low = np.roots([1 + spread, -(2 * share + spread), share**2])
    likely = f"{share:.3f} stands for {low:.3f} to {high:.3f}"
    assert f"With 30 images a worst case of {likely} (95%)." in finished.stdout

    assert {path: path.read_bytes() for path in before} == before
    assert len(list(tmp_path.glob("robustness_*_*.png"))) == 2
    assert len(list(tmp_path.iterdir())) == len(before) + 5
    status, _, error = run_command(command, *paths.values(), "--output", tmp_path)
    assert status == 2
    assert "holds an earlier robustness.json; --force replaces it" in error


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
        status, _, error = run_command(command, path, "--data", data, "--images", rows)
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
    assert "need a model of images of a known size" in images_of(folder, 20, flat)
    (folder / "eels").mkdir()
    assert "must hold 3 folders, a class of the model each" in images_of(folder, 20)


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
    given = [tmp_path / "m.keras", "--data", tmp_path / "test.npz", "--from-logits"]
    given += ["--steps", 1, "--queries", 2]
    status, printed, error = run_command(command, *given)
    assert status == 0, error
    assert table_of(printed)[1][:3] == ["0", "clean", "1.0000"]


def test_models_are_named_by_files_and_where_needed_by_folders():
    models = command.name_models(["a/m.keras", "b/m.keras", "b/n.1.keras"])
    assert models == {"a/m": "a/m.keras", "b/m": "b/m.keras", "b/n.1": "b/n.1.keras"}
    assert command.name_models(["a/m.keras", "a/m.keras"]) == {"m": "a/m.keras"}


def test_models_that_do_not_fit_are_one_line(tmp_path, run_command):
    path = tmp_path / "m.keras"
    function = keras.layers.Lambda(lambda x: x)
    broken = build_classifier((28, 28, 1), 10)
    broken.set_weights([weights * np.nan for weights in broken.get_weights()])
    for model, message in [
        (build_classifier(), rf"{path}: .*\(28, 28, 1\)"),
        (build_classifier((28, 28, 1)), rf"{path} must have 10 classes .*\(3,\)"),
        (network_of(function, image_shape=(28, 28, 1)), f"{path} .*safe mode.*Lambda"),
        (broken, "m: .*NaN"),
    ]:
        model.save(path)
        status, _, error = run_command(command, path, "--data", "digits")
        assert status == 2 and len(error) < 500
        assert re.fullmatch(f"robustness: error: {message}.*\n", error)


# The training command.


@pytest.fixture
def tiny_network(tmp_path):
    """The path of a network for the tiny data."""
    path = tmp_path / "tiny.keras"
    hidden = [keras.layers.Conv2D(4, 3, activation="relu"), keras.layers.Flatten()]
    answer = keras.layers.Dense(3, activation="softmax")
    dropout = keras.layers.Dropout(0.5)
    network_of(*hidden, dropout, answer, image_shape=(8, 8, 1)).save(path)
    return path


def test_training_command_fine_tunes_a_network_and_checks_it(
    tiny_network, tiny_data, tmp_path, run_command, monkeypatch
):
    folder = tmp_path / "run"
    arguments = [tiny_network, "--data", tiny_data, "--output", folder, "--quiet"]
    arguments += ["--eps", 0.5]  # so that few images are left for a thousand queries

    def run():
        status, printed, error = run_command(training, *arguments, "--epochs", 2)
        assert status == 0, error
        results = json.loads((folder / "results.json").read_text())
        history = files.read_table(folder / "history.csv")
        return printed, results, [row | {"seconds": None} for row in history]

    printed, results, history = run()
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
    phases = [(row["phase"], row["epoch"]) for row in history]
    assert phases == [("fine-tuning", "1"), ("fine-tuning", "2")]
    assert all(0 <= float(row["robust_accuracy"]) <= 1 for row in history)
    given, kept, defended = (
        keras.saving.load_model(path, compile=False).get_weights()[0]
        for path in (tiny_network, folder / "trained.keras", folder / "defended.keras")
    )
    np.testing.assert_array_equal(kept, given)
    assert (defended != given).any()

    # Given again it goes on from `trained.keras`, as after a kill.
    monkeypatch.setattr("pyimagesearch.experiment.run.check_defence", print)
    printed, again, history_again = run()
    assert "going on from" in printed
    assert len(again["figures"]) == 4
    assert again["figures"].items() <= results["figures"].items()
    assert history_again == history


def test_training_command_needs_a_batch_of_images(tiny_network, tmp_path, run_command):
    images = np.zeros((60, 8, 8))
    labels = np.arange(60) % 3
    path = tmp_path / "few.npz"
    np.savez(path, x_train=images, y_train=labels, x_test=images, y_test=labels)
    status, _, error = run_command(training, tiny_network, "--data", path)
    assert status == 2
    assert error.startswith("training: error: --data must hold 64 training images")
