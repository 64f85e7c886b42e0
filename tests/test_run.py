"""Runs in this process: their folder, their figures, and how they go on."""

import contextlib
import csv
import errno
import importlib
import json
import math
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import build_classifier, network_of

from pyimagesearch.experiment import console, options, run
from pyimagesearch.experiment.data import Data
from pyimagesearch.simplecnn import SimpleCNN

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parent.parent
FIRST = "train_adversarial_defense"
SECOND = "train_mixed_adversarial_defense"
RECIPE = "pyimagesearch.training.__main__"
NETWORKS = {"trained.keras", "defended.keras"}
FILES = NETWORKS | {"history.csv", "results.json"}
# Command, history and trained network; then defended network, history and results.
SAVES = range(1, 7)

network = partial(build_classifier, (8, 8, 1))


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
    """Return a function that runs a script in this process, by default a short run."""

    def run_script(script, *arguments, is_whole=False):
        monkeypatch.syspath_prepend(ROOT)
        module = importlib.import_module(script)
        short = ["--data", tiny_data, "--epochs", 2, "--quiet"]
        name = f"{script.replace('.', '/')}.py"
        if script == RECIPE:
            parse = module.parse_options
        else:
            parse = module.__dict__.get("parse_mixed_options", options.parse_options)
            short += ["--fine-tune-epochs", 2]
        monkeypatch.setattr(sys, "argv", [name, *map(str, [*short, *arguments])])
        status = 0
        with monkeypatch.context() as patch:
            if not is_whole:
                patch.setattr(run, "check_defence", leave_out)
                patch.setattr(run, "save_pictures", leave_out)
            try:
                console.run_script(module.main, parse, module.__doc__)
            except SystemExit as exit:
                status = exit.code
        return status, *capsys.readouterr()

    return run_script


def one_line(error):
    (line,) = error.strip().splitlines()
    return line


def read_results(path):
    return json.loads((path / "results.json").read_text())


def read_table(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def history(path):
    return [row | {"seconds": None} for row in read_table(path / "history.csv")]


def contents(path):
    return {file.name: file.read_bytes() for file in path.iterdir()}


def outcome(path):
    """Return all that a run leaves but its times, after a look at every file."""
    check_files(path)
    return read_results(path)["figures"], history(path), set(contents(path))


def check_files(path):
    """Check that every file is whole."""
    for file in path.glob("[!.]*"):
        if file.suffix == ".keras":
            keras.saving.load_model(file, compile=False)
        elif file.suffix == ".json":
            json.loads(file.read_text())
        elif file.suffix == ".csv":
            for row in read_table(file):
                assert None not in {*row, *row.values()}


@contextlib.contextmanager
def failing(monkeypatch, save, error, torn):
    """Let a run's n-th save end in an error: half-written, or before its rename."""
    replace = Path.replace
    count = 0

    def replace_until_failure(path, target):
        nonlocal count
        count += 1
        if count < save:
            return replace(path, target)
        if torn:
            path.write_bytes(b"PK\3\4 torn")
        if isinstance(error, PowerLoss):
            patch.setattr(Path, "unlink", leave_out)
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", replace_until_failure)
        yield
    assert count == save


def lose_power_in_fine_tuning(monkeypatch):
    """Let a run end after the first epoch of its fine-tuning."""
    make_phase = run.Run.phase

    def phase(self, name):
        callback = make_phase(self, name)
        begin = callback.on_epoch_begin

        def on_epoch_begin(epoch, logs=None):
            if name == "fine-tuning" and epoch == 1:
                raise PowerLoss
            begin(epoch, logs)

        callback.on_epoch_begin = on_epoch_begin
        return callback

    monkeypatch.setattr(run.Run, "phase", phase)


def printed_figures(printed):
    return re.findall(r"\[INFO\] (.*):\n\[INFO\] loss: (\S+), acc: (\S+)", printed)


@pytest.mark.parametrize("script", [FIRST, SECOND])
def test_finished_run_and_the_same_in_another_process(script, run_script, tmp_path):
    path = tmp_path / "run"
    more = ["--seed", "3", "--fine-tune-epochs", "1", "--output", path]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "matplotlib", None)
        status, printed, _ = run_script(script, *more, is_whole=True)
    assert status == 0
    assert "pip install matplotlib" in printed
    assert set(contents(path)) == FILES
    saved = read_results(path)
    assert saved["settings"]["script"] == f"{script}.py"
    assert saved["settings"]["--seed"] == 3
    assert saved["versions"]["keras"] == keras.__version__
    assert saved["seconds"]["run"] > saved["seconds"]["training"] > 0
    assert saved["seconds"]["fine-tuning"] > 0
    assert saved["published"] == {}
    figures = printed_figures(printed)
    assert len(figures) == 8
    assert figures == [
        (what, f"{figures['loss']:.4f}", f"{figures['accuracy']:.4f}")
        for what, figures in saved["figures"].items()
    ]
    assert ("has seen these test images" in printed) == (script == FIRST)
    rows = history(path)
    epochs = [("training", "1"), ("training", "2"), ("fine-tuning", "1")]
    assert [(row["phase"], row["epoch"]) for row in rows] == epochs
    normal = saved["figures"]["normal testing images"]["accuracy"]
    assert float(rows[1]["val_accuracy"]) == pytest.approx(normal)

    command = [sys.executable, *sys.argv[:-2]]
    if script == SECOND:  # from the trained network
        command += ["--model", path / "trained.keras"]
    other = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ("training network" in other.stdout) == (script == FIRST)
    assert printed_figures(other.stdout) == figures, other.stderr


def test_run_killed_at_any_save_goes_on(run_script, start, tmp_path, monkeypatch):
    """Also one that replaces another run, from whose network it must not go on."""
    more = ["--model", start, "--force", "--output"]
    whole = tmp_path / "whole"
    run_script(FIRST, *more, whole)
    expected = outcome(whole)
    assert expected[2] == FILES
    for save in SAVES:
        path = tmp_path / str(save)
        path.mkdir()
        for name in NETWORKS:
            network().save(path / name)
        (path / "results.json").write_text("{}")
        torn = failing(monkeypatch, save, PowerLoss(), torn=save % 2 == 0)
        with torn, pytest.raises(PowerLoss):
            run_script(FIRST, *more, path)
        check_files(path)
        status, printed, error = run_script(FIRST, *more, path)
        assert status == 0, error
        is_going_on = "going on from" in printed.rpartition("loading MNIST")[2]
        assert is_going_on == (save > 3)
        assert outcome(path) == expected
    status, printed, _ = run_script(FIRST, *more, whole)  # which is finished
    assert status == 0 and "going on from" in printed
    assert outcome(whole) == expected


@pytest.mark.parametrize("script", [FIRST, SECOND, RECIPE])
def test_run_killed_in_its_fine_tuning_goes_on(
    script, run_script, start, tmp_path, monkeypatch
):
    whole = tmp_path / "whole"
    killed = tmp_path / "killed"
    more = [start] if script == RECIPE else []
    monkeypatch.setattr(SimpleCNN, "build", small_network)
    assert run_script(script, *more, "--output", whole)[0] == 0
    with monkeypatch.context() as patch, pytest.raises(PowerLoss):
        lose_power_in_fine_tuning(patch)
        run_script(script, *more, "--output", killed)
    assert set(contents(killed)) == FILES - {"defended.keras"}
    check_files(killed)
    status, printed, error = run_script(script, *more, "--output", killed)
    assert status == 0, error
    going_on = printed.partition(f"going on from {killed / 'trained.keras'}\n")[2]
    assert "fine-tuning network" in going_on
    assert "training network" not in going_on
    assert outcome(killed) == outcome(whole)


def test_another_command_is_refused_until_force(run_script, start, tmp_path):
    path = tmp_path / "run"
    wrong = tmp_path / "wrong.keras"
    network(classes=5).save(wrong)
    more = ["--output", path, "--model", start]
    assert run_script(FIRST, *more)[0] == 0
    before = contents(path)
    for script, changed in [(FIRST, ["--seed", 1]), (SECOND, [])]:
        status, _, error = run_script(script, *more, *changed)
        assert status == 2
        assert f"{path} holds another run's results.json" in one_line(error)
        assert "--force" in error
        assert contents(path) == before
    assert run_script(FIRST, *more, "--model", wrong, "--force")[0] == 2
    assert contents(path) == before
    assert run_script(FIRST, *more, "--seed", 1, "--force")[0] == 0
    assert read_results(path)["settings"]["--seed"] == 1


@pytest.mark.parametrize("name", [*sorted(FILES), "accuracy.png"])
def test_somebody_elses_file_is_not_overwritten(name, run_script, start, tmp_path):
    (tmp_path / name).write_text("precious")
    more = ["--output", tmp_path, "--model", start]
    status, _, error = run_script(FIRST, *more)
    assert status == 2 and name in one_line(error)
    assert contents(tmp_path) == {name: b"precious"}


@pytest.mark.parametrize(
    ("name", "more", "expected"),
    [
        ("results.json", [], 2),
        ("results.json", ["--force"], 1),
        ("trained.keras", ["--force"], 1),
    ],
)
def test_folder_of_odd_things_is_one_line(
    name, more, expected, run_script, start, tmp_path
):
    (tmp_path / name).mkdir()
    more = ["--output", tmp_path, "--model", start, *more]
    status, _, error = run_script(FIRST, *more)
    assert status == expected
    assert name in one_line(error)


@pytest.mark.parametrize(
    ("error", "status", "says"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device"),
            1,
            "No space left on device",
        ),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_full_disk_and_interruption_are_one_line(
    error, status, says, run_script, start, tmp_path, monkeypatch
):
    more = ["--output", tmp_path, "--model", start]
    with failing(monkeypatch, 3, error, torn=True):
        got, _, line = run_script(FIRST, *more)
    assert got == status
    hint = "; the same command goes on from the last finished phase"
    assert one_line(line).endswith(says + hint)
    assert set(contents(tmp_path)) == FILES - NETWORKS


def test_network_that_would_be_replaced_is_refused(run_script, tmp_path):
    path = tmp_path / "trained.keras"
    network().save(path)
    for script, model in [(FIRST, ["--model", path]), (RECIPE, [path])]:
        status, _, error = run_script(script, *model, "--output", tmp_path, "--force")
        assert status == 2 and "--model must not be replaced" in one_line(error)


PUBLISHED = {
    FIRST: ["0.0443 0.9892", "17.2824 0.0170", "0.0594 0.9844", "0.0366 0.9906"],
    SECOND: ["0.0477 0.9891", "14.0658 0.0188", "0.0315 0.9906", "0.1190 0.9641"],
}


@pytest.fixture
def finish(start, monkeypatch, capsys):
    """Return a function that ends a script's run with made-up figures."""

    def finish(script, path, *arguments, data="mnist"):
        argv = [f"{script}.py", "--output", str(path), *map(str, arguments)]
        monkeypatch.setattr(sys, "argv", argv)
        monkeypatch.setattr(run, "check_defence", leave_out)
        monkeypatch.setattr(run, "save_pictures", leave_out)
        parse = (
            options.parse_options if script == FIRST else options.parse_mixed_options
        )
        images = np.zeros((64, 8, 8, 1), np.float32)
        split = (images, images)
        begun = run.Run(parse("a script"), Data(data, split, split))
        for number in range(5):
            begun.show(f"images {number}", 1.25 + number, 0.125 * number)
        model = keras.saving.load_model(start)
        begun.save_trained(model)
        begun.finish(model, split)
        return capsys.readouterr().out, read_results(path)["published"]

    return finish


@pytest.mark.parametrize("script", [FIRST, SECOND])
def test_published_figures_stand_beside_a_tutorials_run(script, finish, tmp_path):
    printed, saved = finish(script, tmp_path)
    table = printed.partition("published")[2].splitlines()[1:]
    assert len(table) == len(saved) == 4
    for number, (line, theirs) in enumerate(zip(table, PUBLISHED[script], strict=True)):
        what = f"images {number}"
        ours = f"{1.25 + number:.4f} {0.125 * number:.4f}"
        assert " ".join(line.split()) == f"[INFO] {what} {theirs} {ours}"
        loss, accuracy = map(float, theirs.split())
        assert saved[what] == {"loss": loss, "accuracy": accuracy}


def test_other_runs_have_no_published_figures(finish, start, tmp_path):
    for name, script, more, data in [
        ("model", FIRST, ["--model", start], "mnist"),
        ("data", FIRST, [], "faces.npz"),
        ("honest", FIRST, ["--honest"], "mnist"),
        ("split", SECOND, ["--split", 0.4], "mnist"),
        ("eps", SECOND, ["--eps", 0.2], "mnist"),
    ]:
        printed, saved = finish(script, tmp_path / name, *more, data=data)
        assert "published" not in printed and saved == {}, name


def nan_network():
    model = network()
    model.set_weights([weights * np.nan for weights in model.get_weights()])
    return model


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (partial(network, classes=1), r"3 classes .*\(1,\)"),
        (partial(network, activation=None), "probabilities"),
        (build_classifier, r"images of shape \(8, 8, 1\).*6, 6, 1\)"),
        (nan_network, "probabilities.* nan"),
        (
            partial(keras.layers.Dense, 3),
            "must be a Keras model of one output, got .*Dense",
        ),
    ],
)
def test_network_that_does_not_fit_is_one_line(build, message, run_script, tmp_path):
    keras.saving.save_model(build(), tmp_path / "model.keras")
    status, _, error = run_script(SECOND, "--model", tmp_path / "model.keras")
    assert status == 2
    assert re.search(rf"model.keras\b.*{message}", one_line(error))


@pytest.mark.parametrize(
    ("script", "rate", "left"),
    [(FIRST, 1e-3, set()), (SECOND, 1e-4, FILES - {"defended.keras"})],
)
def test_training_that_diverges_is_one_line(
    script, rate, left, run_script, start, tmp_path, monkeypatch
):
    def optimizer(learning_rate):
        return keras.optimizers.SGD(math.inf if learning_rate == rate else 1e-3)

    monkeypatch.setattr(keras.optimizers, "Adam", optimizer)
    more = [] if script == FIRST else ["--model", start]
    status, _, error = run_script(script, *more, "--output", tmp_path)
    assert status == 1
    assert "diverged" in one_line(error)
    assert set(contents(tmp_path)) == left


def test_figure_that_is_nan_is_refused(finish, tmp_path, monkeypatch):
    def check_defence(model, test, run):
        run.show("fresh images", float("nan"), 0.1)

    finish(FIRST, tmp_path)
    monkeypatch.setattr(sys.modules[__name__], "leave_out", check_defence)
    with pytest.raises(FloatingPointError, match="loss on fresh images is nan"):
        finish(FIRST, tmp_path)


def test_batch_larger_than_the_data_is_one_line(run_script, start):
    more = ["--model", start, "--batch-size"]
    for script in (FIRST, SECOND):
        status, _, error = run_script(script, *more, 201)
        assert status == 2
        assert "--batch-size must be at most 200" in one_line(error)
        assert error.endswith("got 201 (see --help)\n")
    assert run_script(SECOND, *more, 200)[0] == 0


def test_data_of_any_size_make_a_run(run_script, tmp_path):
    """One pixel of two channels, two classes, one test image."""
    path = tmp_path / "tiny.npz"
    images = np.uint8([[[[0, 200]]], [[[255, 0]]], [[[7, 8]]]])
    arrays = {"x_train": images, "y_train": [0, 1, 1]}
    np.savez(path, **arrays, x_test=images[:1], y_test=[0])
    folder = tmp_path / "run"
    more = ["--data", path, "--batch-size", 2]
    assert run_script(SECOND, *more, "--split", 0)[0] == 0
    more += ["--honest", "--output", folder]
    status, printed, error = run_script(FIRST, *more, is_whole=True)
    assert status == 0, error
    assert "has seen these test images" not in printed
    assert "saved 5 pictures" in printed
    check_files(folder)
    pictures = "adversaries_trained steps_trained adversaries_defended steps_defended"
    written = FILES | {f"{name}.png" for name in ("accuracy", *pictures.split())}
    assert set(contents(folder)) == written
    assert all(contents(folder).values())


def test_honest_fine_tuning_has_not_seen_the_test_images(
    tiny_data, run_script, start, tmp_path
):
    """Where the test images have other labels than such images in the training."""
    path = tmp_path / "shifted.npz"
    with np.load(tiny_data) as arrays:
        np.savez(path, **{**arrays, "y_test": (arrays["y_test"] + 1) % 3})
    more = ["--data", path, "--model", start, "--batch-size", 4]
    more += ["--fine-tune-epochs", 10]
    seen = printed_figures(run_script(FIRST, *more)[1])
    unseen = printed_figures(run_script(FIRST, *more, "--honest")[1])
    assert unseen[:2] == seen[:2]
    assert float(seen[2][1]) < float(seen[0][1]) < float(unseen[2][1])
    assert float(seen[3][1]) < float(unseen[3][1])
