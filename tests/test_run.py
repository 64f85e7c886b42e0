"""The scripts: the story they tell, a run's folder and figures, and how it goes on."""

import contextlib
import errno
import importlib
import json
import math
import os
import re
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import ROOT, build_classifier, network_of, run_python

from pyimagesearch.experiment import console, files, options, pictures, run
from pyimagesearch.experiment.data import Data
from pyimagesearch.experiment.defence import check_defence
from pyimagesearch.simplecnn import SimpleCNN

pytestmark = pytest.mark.slow
FIRST = "train_adversarial_defense"
SECOND = "train_mixed_adversarial_defense"
PARSERS = {FIRST: options.parse_options, SECOND: options.parse_mixed_options}
NETWORKS = {"trained.keras", "defended.keras"}
FILES = NETWORKS | {"history.csv", "results.json"}
PICTURES = {"accuracy.png", "adversaries_trained.png", "adversaries_defended.png"}
MNIST_NPZ = os.environ.get("MNIST_NPZ")


class PowerLoss(BaseException):
    """Ends a run where nothing may tidy up after it."""


def small_network(*shape_and_classes):
    """Build a network with dropout, quicker than SimpleCNN."""
    hidden = [keras.layers.Flatten(), keras.layers.Dropout(0.5)]
    answer = keras.layers.Dense(3, activation="softmax")
    return network_of(*hidden, answer, image_shape=(8, 8, 1))


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """The path of a small network for the tiny data."""
    path = tmp_path_factory.mktemp("start") / "start.keras"
    small_network().save(path)
    return path


def leave_out(*arguments, **settings):
    """Stand in for the fresh attacks and the pictures, where they are no subject."""


@pytest.fixture
def run_script(tiny_data, monkeypatch, capsys):
    """Return a function that makes a short run of a script in this process.

    It returns what is printed, with a line of an error in the place of all of stderr.
    """
    monkeypatch.setattr(run, "check_defence", leave_out)
    monkeypatch.setattr(run, "save_pictures", leave_out)
    monkeypatch.syspath_prepend(ROOT)

    def run_script(script, *arguments, status=0):
        module = importlib.import_module(script)
        short = ["--data", tiny_data, "--epochs", 2, "--fine-tune-epochs", 2, "--quiet"]
        argv = [f"{script}.py", *map(str, [*short, *arguments])]
        monkeypatch.setattr(sys, "argv", argv)
        ended = 0
        try:
            console.run_script(module.main, PARSERS[script], module.__doc__)
        except SystemExit as exit:
            ended = exit.code
        printed, error = capsys.readouterr()
        assert ended == status, error
        if status:
            (error,) = error.strip().splitlines()
        return printed, error

    return run_script


def read_results(path):
    return json.loads((path / "results.json").read_text())


def history(path):
    return [row | {"seconds": None} for row in files.read_table(path / "history.csv")]


def contents(path):
    return {file.name: file.read_bytes() for file in path.iterdir()}


def outcome(path):
    """Return all that a run leaves but its times, after a look at every file."""
    check_files(path)
    return read_results(path)["figures"], history(path), set(contents(path))


def check_files(path):
    """Check that every file is whole."""
    for file in path.glob("[!.]*.keras"):
        keras.saving.load_model(file, compile=False)
    for file in path.glob("[!.]*.json"):
        json.loads(file.read_text())
    for file in path.glob("[!.]*.csv"):
        for row in files.read_table(file):
            assert None not in {*row, *row.values()}


@contextlib.contextmanager
def failing(monkeypatch, save, error):
    """Let a run's n-th save end in an error, half-written."""
    replace = Path.replace
    count = 0

    def replace_until_failure(path, target):
        nonlocal count
        count += 1
        if count < save:
            return replace(path, target)
        path.write_bytes(b"PK\3\4 torn")
        if isinstance(error, PowerLoss):
            patch.setattr(Path, "unlink", leave_out)
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", replace_until_failure)
        yield


def printed_figures(printed):
    return re.findall(r"\[INFO\] (.*):\n\[INFO\] loss: (\S+), acc: (\S+)", printed)


@pytest.mark.parametrize(
    ("script", "saves"),
    # Command, history and trained network; then defended network, history and results.
    [(FIRST, [3, 6]), (SECOND, [4])],
)
def test_run_killed_at_any_save_goes_on(
    script, saves, run_script, tmp_path, monkeypatch
):
    """Also one that replaces another run, from whose network it must not go on."""
    monkeypatch.setattr(SimpleCNN, "build", small_network)
    whole = tmp_path / "whole"
    run_script(script, "--output", whole)
    expected = outcome(whole)
    assert expected[2] == FILES
    for save in saves:
        path = tmp_path / str(save)
        path.mkdir()
        for name in NETWORKS:
            build_classifier((8, 8, 1)).save(path / name)
        (path / "results.json").write_text("{}")
        with pytest.raises(PowerLoss), failing(monkeypatch, save, PowerLoss()):
            run_script(script, "--force", "--output", path)
        check_files(path)
        printed, _ = run_script(script, "--force", "--output", path)
        printed = printed.rpartition("loading MNIST")[2]  # of the last run
        assert ("training network" in printed) == (save <= 3)
        assert (f"going on from {path / 'trained.keras'}" in printed) == (save > 3)
        assert outcome(path) == expected


# What the scripts print, without any figures; {} stands where they differ.
STORY = """[INFO] loading MNIST dataset...
{}[INFO] compiling model...
[INFO] training network...
[INFO] normal testing images:
[INFO] generating adversarial examples with FGSM...

[INFO] adversarial testing images:
[INFO] re-compiling model...
{}
[INFO] normal testing images *after* fine-tuning:
[INFO] adversarial images *after* fine-tuning:
[INFO] fresh adversarial images, FGSM:
[INFO] fresh adversarial images, FGSM, clipped to valid images:
[INFO] fresh adversarial images, PGD, clipped, first {}:
[INFO] fresh adversarial images, Square attack, clipped, first 200:
[INFO] in short: the network is right on 0% of the adversarial images made before
[INFO] fine-tuning, on 0% of fresh ones of the same kind, on 0% of stronger ones
{}"""
FIRST_TUNING = "[INFO] fine-tuning network on adversarial examples...\n"
SECOND_TUNING = """[INFO] creating mixed data generator...
[INFO] fine-tuning network on dynamic mixed data...
"""
SEEN = "[INFO] fine-tuning has seen these test images; --honest keeps them unseen\n"


def story(stdout):
    """Return a script's own lines, without Keras's and without figures."""
    text = re.sub(r"(Downloading |Epoch \d+/|\d+/\d+ - ).*\n", "", stdout)
    text = re.sub(r"\[INFO\] loss: \d+\.\d{4}, acc: \d\.\d{4}\n\n", "", text)
    return re.sub(r"[\d.]+%", "0%", text)


@pytest.fixture
def check_run(run_script, tmp_path):
    """Return a function that runs a script twice and checks story, files and figures.

    The first run is in a process of its own, the second saves what it makes.
    """

    def check_run(script, given, data, expected_story, **environment):
        finished = run_python(f"{script}.py", *given, **environment)
        assert finished.returncode == 0, finished.stderr
        assert story(finished.stdout) == expected_story
        figures = printed_figures(finished.stdout)
        accuracies = [float(accuracy) for _, _, accuracy in figures]
        normal, attacked, _, attacked_after, fgsm, clipped, pgd, square = accuracies
        assert normal >= 0.75
        assert attacked <= 0.30
        assert attacked_after >= attacked + 0.3
        assert fgsm < attacked_after
        assert pgd < clipped
        printed = [float(share) for share in re.findall(r"([\d.]+)%", finished.stdout)]
        expected = [100 * share for share in (attacked_after, fgsm, min(pgd, square))]
        np.testing.assert_allclose(printed, expected, atol=0.06)

        path = tmp_path / "run"
        printed, _ = run_script(script, *given, "--data", data, "--output", path)
        assert printed_figures(printed) == figures[:4]
        check_files(path)
        assert set(contents(path)) >= FILES
        saved = read_results(path)
        assert saved["settings"]["script"] == f"{script}.py"
        assert saved["settings"]["--data"] == str(data)
        assert saved["versions"]["keras"] == keras.__version__
        assert saved["seconds"]["run"] > saved["seconds"]["training"] > 0
        assert saved["seconds"]["fine-tuning"] > 0
        assert figures[:4] == [
            (what, f"{figures['loss']:.4f}", f"{figures['accuracy']:.4f}")
            for what, figures in saved["figures"].items()
        ]
        rows = history(path)
        assert {row["phase"] for row in rows} == {"training", "fine-tuning"}
        last = [row for row in rows if row["phase"] == "training"][-1]
        assert last["epoch"] == str(saved["settings"]["--epochs"])
        assert float(last["val_accuracy"]) == pytest.approx(normal, abs=1e-4)
        return finished

    return check_run


def test_without_data_and_network_the_first_tells_the_story_on_digits(
    check_run, tmp_path, monkeypatch
):
    monkeypatch.setattr(pictures, "_IMAGES", 8)
    monkeypatch.setattr(pictures, "_SHARES", (0, 1))
    monkeypatch.setattr(run, "save_pictures", pictures.save_pictures)
    proxies = ("http_proxy", "https_proxy", "HTTPS_PROXY")
    offline = dict.fromkeys(proxies, "http://127.0.0.1:9")
    homes = dict.fromkeys(("HOME", "KERAS_HOME"), str(tmp_path))
    given = ["--seed", 3, "--batch-size", 16, "--epochs", 4, "--fine-tune-epochs", 4]
    given += ["--eps", 0.2]  # so that few images are left for a thousand queries
    expected = STORY.format("", FIRST_TUNING, "360", SEEN)
    finished = check_run(FIRST, given, "digits", expected, **offline, **homes)
    assert set(contents(tmp_path / "run")) == FILES | PICTURES
    (warning,) = finished.stderr.splitlines()
    assert warning.startswith("warning: mnist is neither cached nor downloadable")
    assert warning.endswith("; using scikit-learn's digits instead")
    # Piped, an epoch is one line besides its number.
    assert finished.stdout.count("Epoch ") == 4 + 4
    assert finished.stdout.count("s/step - ") == 4 + 4
    assert "\b" not in finished.stdout and "\r" not in finished.stdout


@pytest.mark.skipif(not MNIST_NPZ, reason="MNIST_NPZ names no file")
def test_the_second_tells_the_story_on_some_of_mnist(check_run, tmp_path):
    path = tmp_path / "some.npz"
    with np.load(MNIST_NPZ) as mnist:
        train = {name: mnist[name][:4_800] for name in ("x_train", "y_train")}
        test = {name: mnist[name][:250] for name in ("x_test", "y_test")}
        np.savez(path, **train, **test)
    given = ["--data", path, "--batch-size", 32, "--eps", 0.15]
    given += ["--epochs", 2, "--fine-tune-epochs", 1]
    used = f"[INFO] using {path} instead of MNIST\n"
    expected = STORY.format(used, SECOND_TUNING, "250", "")
    assert check_run(SECOND, given, path, expected).stderr == ""


def test_another_command_is_refused_until_force(run_script, start, tmp_path):
    path = tmp_path / "run"
    wrong = tmp_path / "wrong.keras"
    build_classifier((8, 8, 1), classes=5).save(wrong)
    given = ["--output", path, "--model", start]
    run_script(FIRST, *given)
    before = contents(path)
    for script, changed in [(FIRST, ["--seed", 1]), (SECOND, [])]:
        _, error = run_script(script, *given, *changed, status=2)
        assert f"{path} holds another run's results.json" in error
        assert "--force" in error
    run_script(FIRST, *given, "--model", wrong, "--force", status=2)
    assert contents(path) == before
    run_script(FIRST, *given, "--seed", 1, "--force")
    assert read_results(path)["settings"]["--seed"] == 1
    for name in ("results.json", "trained.keras", "accuracy.png"):  # somebody else's
        other = tmp_path / f"other {name}"
        other.mkdir()
        (other / name).write_text("precious")
        _, error = run_script(FIRST, *given, "--output", other, status=2)
        assert f"{other} holds another run's {name}" in error
        assert contents(other) == {name: b"precious"}


def test_full_disk_is_one_line_and_leaves_whole_files(
    run_script, start, tmp_path, monkeypatch
):
    full = OSError(errno.ENOSPC, "No space left on device")
    given = ["--output", tmp_path, "--model", start]
    with failing(monkeypatch, 3, full):
        _, error = run_script(FIRST, *given, status=1)
    hint = "; the same command goes on from the last finished phase"
    assert error.endswith(f"No space left on device{hint}")
    assert set(contents(tmp_path)) == FILES - NETWORKS
    check_files(tmp_path)


PUBLISHED = {
    FIRST: ["0.0443 0.9892", "17.2824 0.0170", "0.0594 0.9844", "0.0366 0.9906"],
    SECOND: ["0.0477 0.9891", "14.0658 0.0188", "0.0315 0.9906", "0.1190 0.9641"],
}


@pytest.mark.parametrize("script", [FIRST, SECOND])
def test_published_figures_stand_beside_a_tutorials_run(
    script, start, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(run, "check_defence", leave_out)
    monkeypatch.setattr(run, "save_pictures", leave_out)
    images = np.zeros((64, 8, 8, 1), np.float32)
    model = keras.saving.load_model(start)

    def finish(*given, data="mnist"):
        argv = [f"{script}.py", "--output", str(tmp_path), *given]
        monkeypatch.setattr(sys, "argv", argv)
        begun = run.Run(PARSERS[script]("a script"), Data(data, (images, []), None))
        for number in range(5):
            begun.show(f"images {number}", 1.25 + number, 0.125 * number)
        with pytest.raises(FloatingPointError, match="loss on images 5 is nan"):
            begun.show("images 5", math.nan, 0.125)
        begun.save_trained(model)
        begun.finish(model, None)
        _, _, table = capsys.readouterr().out.partition("published")
        return table.splitlines()[1:], read_results(tmp_path)["published"]

    table, saved = finish()
    assert len(table) == len(saved) == 4
    for number, (line, theirs) in enumerate(zip(table, PUBLISHED[script], strict=True)):
        what = f"images {number}"
        ours = f"{1.25 + number:.4f} {0.125 * number:.4f}"
        assert " ".join(line.split()) == f"[INFO] {what} {theirs} {ours}"
        loss, accuracy = map(float, theirs.split())
        assert saved[what] == {"loss": loss, "accuracy": accuracy}

    changed = "--honest" if script == FIRST else "--split=0.4"
    for given, data in [
        (changed, "mnist"),
        (f"--model={start}", "mnist"),
        ("--quiet", "faces.npz"),
    ]:
        assert finish("--force", given, data=data) == ([], {})


def test_what_does_not_fit_the_data_is_one_line(run_script, tmp_path):
    path = tmp_path / "model.keras"
    for model, message in [
        (build_classifier((8, 8, 1), activation=None), "must return probabilities"),
        (keras.layers.Dense(3), "must be a Keras model of one output, got .*Dense"),
    ]:
        keras.saving.save_model(model, path)
        _, error = run_script(SECOND, "--model", path, status=2)
        assert re.search(f"{path} {message}", error)
    _, error = run_script(FIRST, "--batch-size", 201, status=2)
    assert "--batch-size must be at most 200" in error


@pytest.mark.parametrize(
    ("script", "rate", "left"),
    [(FIRST, 1e-3, set()), (SECOND, 1e-4, FILES - {"defended.keras"})],
)
def test_training_that_diverges_is_one_line(
    script, rate, left, run_script, tmp_path, monkeypatch
):
    def optimizer(learning_rate):
        return keras.optimizers.SGD(math.inf if learning_rate == rate else 1e-3)

    monkeypatch.setattr(SimpleCNN, "build", small_network)
    monkeypatch.setattr(keras.optimizers, "Adam", optimizer)
    _, error = run_script(script, "--output", tmp_path, status=1)
    assert "training has diverged" in error
    assert set(contents(tmp_path)) == left


def test_honest_fine_tuning_has_not_seen_the_test_images(
    tiny_data, run_script, start, tmp_path, monkeypatch
):
    """Where the test images have other labels than such images in the training."""
    path = tmp_path / "shifted.npz"
    with np.load(tiny_data) as arrays:
        np.savez(path, **{**arrays, "y_test": (arrays["y_test"] + 1) % 3})
    given = ["--data", path, "--model", start, "--batch-size", 4]
    given += ["--fine-tune-epochs", 10]
    printed, _ = run_script(FIRST, *given)
    seen = printed_figures(printed)
    monkeypatch.setattr(run, "check_defence", check_defence)
    printed, _ = run_script(FIRST, *given, "--honest")
    assert "has seen these test images" not in printed
    unseen = printed_figures(printed)
    assert unseen[:2] == seen[:2]
    assert float(seen[2][1]) < float(seen[0][1]) < float(unseen[2][1])
    assert float(seen[3][1]) < float(unseen[3][1])
