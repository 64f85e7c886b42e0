"""The scripts from start to finish."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
FIRST, SECOND = "train_adversarial_defense.py", "train_mixed_adversarial_defense.py"
MNIST_NPZ = os.environ.get("MNIST_NPZ")

pytestmark = pytest.mark.slow

FINE_TUNING = {
    FIRST: ["fine-tuning network on adversarial examples..."],
    SECOND: [
        "creating mixed data generator...",
        "fine-tuning network on dynamic mixed data...",
    ],
}


def run_script(script, *options, **environment):
    return subprocess.run(
        [sys.executable, str(ROOT / script), *options],
        capture_output=True,
        text=True,
        env=os.environ | environment,
    )


def figures(finished):
    """Return the printed losses and accuracies, in their order."""
    assert finished.returncode == 0, finished.stderr
    found = re.findall(r"\[INFO\] loss: (\S+), acc: (\S+)", finished.stdout)
    return [(float(loss), float(accuracy)) for loss, accuracy in found]


def expected_info_lines(script):
    figures_line = "loss: 0.0000, acc: 0.0000"
    return [
        "compiling model...",
        "training network...",
        "normal testing images:",
        figures_line,
        "generating adversarial examples with FGSM...",
        "adversarial testing images:",
        figures_line,
        "re-compiling model...",
        *FINE_TUNING[script],
        "normal testing images *after* fine-tuning:",
        figures_line,
        "adversarial images *after* fine-tuning:",
        figures_line,
        "fresh adversarial images, FGSM:",
        figures_line,
        "fresh adversarial images, FGSM, clipped to valid images:",
        figures_line,
        "fresh adversarial images, PGD, clipped, first 0:",
        figures_line,
        "in short: correct are 0% of the adversarial images made before fine-tuning,",
        "0% of fresh ones of the same kind, and 0% of a stronger attacker's",
        "fine-tuning has seen these test images; --honest keeps them unseen",
    ][: None if script == FIRST else -1]


def info_lines(stdout):
    lines = re.findall(r"^\[INFO\] (.*)$", stdout, flags=re.MULTILINE)
    lines = [re.sub(r"\d+\.\d{4}\b", "0.0000", line) for line in lines]
    lines = [re.sub(r"first [\d,]+:", "first 0:", line) for line in lines]
    return [re.sub(r"[\d.]+%", "0%", line) for line in lines]


@pytest.fixture
def offline(tmp_path):
    """An empty home folder, and a proxy that refuses every connection."""
    proxies = dict.fromkeys(
        ("http_proxy", "https_proxy", "HTTPS_PROXY"), "http://127.0.0.1:9"
    )
    return {"HOME": str(tmp_path), "KERAS_HOME": str(tmp_path / ".keras")} | proxies


@pytest.mark.parametrize("script", [FIRST, SECOND])
def test_bare_and_offline_it_tells_the_story_on_digits(script, offline):
    finished = run_script(script, **offline)
    normal, attacked, normal_after, attacked_after, *fresh = figures(finished)
    assert normal[1] >= 0.97
    assert attacked[1] <= 0.30
    assert attacked_after[1] >= 0.85
    assert fresh[0][1] < attacked_after[1]
    assert fresh[2][1] < fresh[1][1]
    if script == SECOND:
        assert normal_after[1] >= 0.97
    loading, stand_in, *story = info_lines(finished.stdout)
    assert loading == "loading MNIST dataset..."
    assert "mnist is neither cached nor downloadable" in stand_in
    assert stand_in.endswith("using scikit-learn's digits instead")
    assert story == expected_info_lines(script)
    # Piped, an epoch is one line besides its number, and nothing goes to stderr.
    assert finished.stdout.count("Epoch ") == 40 + 30
    assert finished.stdout.count("ms/step") == 40 + 30
    assert "\b" not in finished.stdout and "\r" not in finished.stdout
    assert finished.stderr == ""


def test_one_seed_gives_one_result(tiny_data):
    options = ["--data", str(tiny_data), "--epochs", "2", "--fine-tune-epochs", "2"]
    options.append("--quiet")
    normal = set()
    for script, seed in [(FIRST, "4"), (SECOND, "5")]:
        once, again = (run_script(script, *options, "--seed", seed) for _ in range(2))
        assert figures(once) == figures(again)
        assert "Epoch" not in once.stdout
        normal.add(figures(once)[0])
    assert len(normal) == 2


@pytest.mark.skipif(not MNIST_NPZ, reason="MNIST_NPZ names no file")
@pytest.mark.parametrize("script", [FIRST, SECOND])
def test_short_run_on_mnist(script):
    options = ["--data", MNIST_NPZ, "--epochs", "1", "--fine-tune-epochs", "1"]
    finished = run_script(script, *options)
    normal, attacked, normal_after, attacked_after, *fresh = figures(finished)
    assert normal[1] >= 0.97
    assert attacked[1] <= 0.30
    assert attacked_after[1] > attacked[1] + 0.3
    assert fresh[0][1] < attacked_after[1]
    assert fresh[2][1] < fresh[1][1]
    printed = re.findall(r"([\d.]+)%", finished.stdout)
    expected = [
        100 * figure for figure in (attacked_after[1], fresh[0][1], fresh[2][1])
    ]
    np.testing.assert_allclose(list(map(float, printed)), expected, atol=0.06)
    if script == SECOND:
        assert normal_after[1] >= 0.97
        assert attacked_after[1] >= 0.85
    assert info_lines(finished.stdout)[1:] == expected_info_lines(script)
    assert finished.stderr == ""


def test_honest_fine_tuning_has_not_seen_the_test_images(digits_file, tmp_path):
    options = ["--data", "digits", "--model", str(digits_file), "--quiet"]
    options += ["--fine-tune-epochs", "15"]
    seen = run_script(FIRST, *options)
    honest = run_script(FIRST, *options, "--honest", "--output", str(tmp_path / "run"))
    assert "has seen these test images" in seen.stdout
    assert "has seen these test images" not in honest.stdout
    assert figures(honest)[:2] == figures(seen)[:2]
    assert figures(honest)[3][1] < figures(seen)[3][1]
    written = {"accuracy.png", "history.csv", "results.json"} | {
        f"{kind}_{name}.png"
        for kind in ("adversaries", "steps")
        for name in ("trained", "defended")
    }
    written |= {"trained.keras", "defended.keras"}
    assert {path.name for path in (tmp_path / "run").iterdir()} == written
    assert "saved 5 pictures" in honest.stdout


def test_robust_recipe_from_a_saved_network_withstands_pgd(digits_file):
    options = ["--data", "digits", "--model", str(digits_file), "--quiet"]
    options += ["--fine-tune-epochs", "12", "--recipe"]
    tutorial, robust = (
        run_script(SECOND, *options, recipe) for recipe in ("tutorial", "robust")
    )
    assert figures(robust)[:2] == figures(tutorial)[:2]
    assert figures(robust)[6][1] > figures(tutorial)[6][1] + 0.1
    assert figures(robust)[2][1] > 0.95


def test_batch_larger_than_the_data_is_one_line():
    finished = run_script(FIRST, "--data", "digits", "--batch-size", "1438")
    assert finished.returncode == 2
    (line,) = finished.stderr.splitlines()
    assert "--batch-size" in line and "1437" in line and "1438" in line


def test_interrupt_is_one_line():
    command = [sys.executable, ROOT / FIRST, "--data", "digits"]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Jobs in the background ignore Ctrl-C, and so would their children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as running:
        while "Epoch 2/" not in running.stdout.readline():
            pass
        running.send_signal(signal.SIGINT)
        _, stderr = running.communicate()
    assert running.returncode == 130
    assert stderr.split() == ["interrupted"]


def test_wrong_data_is_one_line(tmp_path):
    path = tmp_path / "data.npz"
    np.savez(path, x_train=np.zeros((3, 8, 8)), y_train=np.zeros(3, int))
    finished = run_script(SECOND, "--data", str(path))
    assert finished.returncode == 2
    (line,) = finished.stderr.splitlines()
    assert line.startswith(f"{SECOND}: error: --data: {path}")
    assert "x_test" in line


def test_named_data_that_cannot_be_had_is_one_line(offline):
    finished = run_script(FIRST, "--data", "mnist", **offline)
    assert finished.returncode == 2
    (line,) = finished.stderr.splitlines()
    assert "mnist is neither cached nor downloadable" in line


def test_network_that_hangs_is_given_up(offline):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        proxy = f"http://127.0.0.1:{silent.getsockname()[1]}"
        started = time.monotonic()
        finished = run_script(
            FIRST, "--data", "mnist", **dict.fromkeys(offline, proxy) | {
                key: offline[key] for key in ("HOME", "KERAS_HOME")
            },
        )  # fmt: skip
    assert finished.returncode == 2
    assert "timed out" in finished.stderr
    assert time.monotonic() - started >= 10
