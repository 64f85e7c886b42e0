"""The scripts from start to finish, as a user runs them."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
FIRST = "train_adversarial_defense.py"
SECOND = "train_mixed_adversarial_defense.py"
MNIST_NPZ = os.environ.get("MNIST_NPZ")

pytestmark = pytest.mark.slow

# What a script prints after loading its data, without any figures.
STORY = """[INFO] compiling model...
[INFO] training network...
[INFO] normal testing images:
LOSS
[INFO] generating adversarial examples with FGSM...

[INFO] adversarial testing images:
LOSS
[INFO] re-compiling model...
FINE-TUNING

[INFO] normal testing images *after* fine-tuning:
LOSS
[INFO] adversarial images *after* fine-tuning:
LOSS
[INFO] fresh adversarial images, FGSM:
LOSS
[INFO] fresh adversarial images, FGSM, clipped to valid images:
LOSS
[INFO] fresh adversarial images, PGD, clipped, first {pgd}:
LOSS
[INFO] fresh adversarial images, Square attack, clipped, first 200:
LOSS
[INFO] in short: the network is right on 0% of the adversarial images made before
[INFO] fine-tuning, on 0% of fresh ones of the same kind, on 0% of stronger ones
"""
FINE_TUNING = {
    FIRST: "[INFO] fine-tuning network on adversarial examples...",
    SECOND: "[INFO] creating mixed data generator...\n"
    "[INFO] fine-tuning network on dynamic mixed data...",
}
SEEN = "[INFO] fine-tuning has seen these test images; --honest keeps them unseen\n"


def run_script(script, *options, **environment):
    environment = os.environ | environment
    environment.pop("TF_CPP_MIN_LOG_LEVEL", None)  # TensorFlow's start-up lines
    return subprocess.run(
        [sys.executable, str(ROOT / script), *options],
        capture_output=True,
        text=True,
        env=environment,
    )


def figures(finished):
    """Return the printed losses and accuracies, in their order."""
    assert finished.returncode == 0, finished.stderr
    found = re.findall(r"\[INFO\] loss: (\S+), acc: (\S+)", finished.stdout)
    return [(float(loss), float(accuracy)) for loss, accuracy in found]


def expected_story(script, pgd):
    """Return the story of a script, with the number of images for PGD."""
    loss = "[INFO] loss: 0.0000, acc: 0.0000\n"
    story = STORY.replace("LOSS", loss).replace("FINE-TUNING", FINE_TUNING[script])
    return story.format(pgd=pgd) + (SEEN if script == FIRST else "")


def story(stdout):
    """Return a script's own lines, without Keras's and without figures."""
    text = re.sub(r"(Downloading |Epoch \d+/|\d+/\d+ - ).*\n", "", stdout)
    text = re.sub(r"(loss: |acc: )\d+\.\d{4}\b", r"\g<1>0.0000", text)
    return re.sub(r"[\d.]+%", "0%", text)


def check_story(finished, script):
    """Check that each tutorial's story is told, and how it goes on."""
    normal, attacked, normal_after, attacked_after, *fresh = figures(finished)
    fgsm, clipped, pgd, square = fresh
    assert normal[1] >= 0.92
    assert attacked[1] <= 0.30
    assert attacked_after[1] >= attacked[1] + 0.3
    assert fgsm[1] < attacked_after[1]
    assert pgd[1] < clipped[1]
    if script == SECOND:
        assert normal_after[1] >= 0.92
    printed = re.findall(r"([\d.]+)%", finished.stdout)
    shares = [attacked_after[1], fgsm[1], min(pgd[1], square[1])]
    expected = [100 * share for share in shares]
    np.testing.assert_allclose(list(map(float, printed)), expected, atol=0.06)


@pytest.fixture
def offline(tmp_path):
    """The environment of a machine without a network, and without Keras's files."""
    proxies = ("http_proxy", "https_proxy", "HTTPS_PROXY")
    homes = {"HOME": str(tmp_path), "KERAS_HOME": str(tmp_path)}
    return homes | dict.fromkeys(proxies, "http://127.0.0.1:9")


def test_without_data_and_network_the_first_tells_the_story_on_digits(offline):
    options = ["--batch-size", "16", "--epochs", "6", "--fine-tune-epochs", "6"]
    finished = run_script(FIRST, *options, **offline)
    check_story(finished, FIRST)
    loading, printed = story(finished.stdout).split("\n", 1)
    assert loading == "[INFO] loading MNIST dataset..."
    assert printed == expected_story(FIRST, "360")
    (warning,) = finished.stderr.splitlines()
    assert warning.startswith("warning: mnist is neither cached nor downloadable")
    assert warning.endswith("; using scikit-learn's digits instead")
    # Piped, an epoch is one line besides its number.
    assert finished.stdout.count("Epoch ") == 6 + 6
    assert finished.stdout.count("s/step - ") == 6 + 6
    assert "\b" not in finished.stdout and "\r" not in finished.stdout


def test_torn_mnist_without_a_network_is_one_line(offline, tmp_path):
    path = tmp_path / "datasets" / "mnist.npz"
    path.parent.mkdir()
    path.write_bytes(b"PK\3\4 torn")
    finished = run_script(FIRST, **offline)
    assert finished.returncode == 2
    (line,) = finished.stderr.splitlines()
    assert line.startswith(f"{FIRST}: error: --data: {path} was damaged")
    assert "[INFO] loading" in finished.stdout and "digits" not in finished.stdout


@pytest.mark.skipif(not MNIST_NPZ, reason="MNIST_NPZ names no file")
def test_the_second_tells_the_story_on_some_of_mnist(tmp_path):
    path = tmp_path / "some.npz"
    with np.load(MNIST_NPZ) as mnist:
        train = {name: mnist[name][:9_600] for name in ("x_train", "y_train")}
        test = {name: mnist[name][:500] for name in ("x_test", "y_test")}
        np.savez(path, **train, **test)
    options = ["--data", str(path), "--batch-size", "32"]
    options += ["--epochs", "2", "--fine-tune-epochs", "1"]
    finished = run_script(SECOND, *options)
    check_story(finished, SECOND)
    first, second, printed = story(finished.stdout).split("\n", 2)
    assert first == "[INFO] loading MNIST dataset..."
    assert second == f"[INFO] using {path} instead of MNIST"
    assert printed == expected_story(SECOND, "500")
    assert finished.stderr == ""
