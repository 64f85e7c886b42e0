"""Whatever is passed, the answer is a result, or an error that names the argument."""

from functools import partial

import numpy as np
import pytest
from conftest import build_classifier, two_inputs, two_outputs

from pyimagesearch.attacks import projected_gradient_descent, square_attack
from pyimagesearch.datagen import (
    generate_adversarial_batch,
    generate_mixed_adverserial_batch,
    in_step,
)
from pyimagesearch.fgsm import generate_image_adversary
from pyimagesearch.robustness import evaluate_robustness
from pyimagesearch.robustness.suite import Suite
from pyimagesearch.simplecnn import SimpleCNN

DIMS = (6, 6, 1)
IMAGES = np.random.default_rng(0).random((12, *DIMS), dtype=np.float32)
LABELS = np.arange(12) % 3


def endless():
    while True:
        yield 0.5


# Slips that users make: a missing or misplaced argument, data as they were loaded,
# labels of another count, another network.
JUNK = {
    "None": None,
    "text": "cw",
    "NaN": float("nan"),
    "zero": 0,
    "minus one": -1,
    "truth": True,
    "list": [],
    "ragged list": [[1, 2], [3]],
    "empty array": np.empty((0, *DIMS)),
    "array of text": np.full((12, *DIMS), "a"),
    "array of NaN": np.full((12, *DIMS), np.nan),
    "array too short": IMAGES[:5],
    "single image": IMAGES[0],
    "image of 255": IMAGES * 255,
    "array of other shape": np.zeros((12, 5, 5, 1)),
    "stray class": LABELS + 1,
    "negative class": LABELS - 1,
    "fraction of a class": LABELS + 0.5,
    "function": lambda *args: None,
    "endless generator": endless(),
    "other model": build_classifier((5, 5, 1)),
    "regression": build_classifier(classes=1, activation=None),
    "two inputs": two_inputs(),
    "two outputs": two_outputs(),
}
# What the user's own functions raise passes through.
OWN_CODE = ("loss", "attack")
MODELS = ("other model", "regression", "two inputs", "two outputs")


def draw(generate):
    return lambda **arguments: next(generate(**arguments))


def two_attacks(suite):
    """Return enough of the report's attacks to check its arguments."""
    return {"FGSM": suite.fgsm, "PGD": suite.pgd}


ATTACK = {"model": build_classifier(), "eps": 0.1, "clip": (0, 1)}
GRADIENT = ATTACK | {"loss": "cross_entropy"}
BATCH = {"images": IMAGES, "labels": LABELS, "rng": 0}
PGD = {"steps": 2, "step_size": 0.1, "restarts": 2}
GENERATOR = BATCH | {"model": ATTACK["model"], "total": 4, "dims": DIMS, "eps": 0.1}
GENERATOR |= {"attack": generate_image_adversary}
REPORT = ATTACK | BATCH | {"steps": 1, "queries": 2}
NETWORK = {"width": 8, "height": 8, "depth": 1, "classes": 3}

# Functions, and valid arguments for them.
FUNCTIONS = {
    "FGSM": (generate_image_adversary, GRADIENT | {"image": IMAGES, "label": LABELS}),
    "PGD": (projected_gradient_descent, GRADIENT | BATCH | PGD),
    "Square": (square_attack, ATTACK | BATCH | {"queries": 2}),
    "adversaries": (draw(generate_adversarial_batch), GENERATOR),
    "mixed": (draw(generate_mixed_adverserial_batch), GENERATOR | {"split": 0.5}),
    "in_step": (in_step, {"batches": [(IMAGES, LABELS)]}),
    "report": (partial(evaluate_robustness, verbose=False), REPORT),
    "network": (SimpleCNN.build, NETWORK),
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FUNCTIONS)
def test_wrong_arguments_are_named(name, monkeypatch):
    monkeypatch.setattr(Suite, "attacks", two_attacks)
    function, valid = FUNCTIONS[name]
    function(**valid)
    for argument in valid:
        for junk, value in JUNK.items():
            if argument in OWN_CODE and junk in MODELS:
                continue
            try:
                function(**valid | {argument: value})
            except (TypeError, ValueError) as error:
                # Of two that do not fit each other either may be named.
                named = [name for name in valid if name in str(error)]
                assert named, f"{junk} as {argument}: {error}"
                assert argument in named or "shape" in str(error), f"{junk}: {error}"
                if argument != "loss":  # of a wrong name Keras itself tells
                    assert len(str(error)) <= 300 and "\n" not in str(error)
