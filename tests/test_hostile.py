"""Whatever is passed, the answer is a result, or an error that names the argument."""

from functools import partial

import keras
import numpy as np
import pytest
from conftest import build_classifier

from pyimagesearch.attacks import projected_gradient_descent, square_attack
from pyimagesearch.datagen import (
    generate_adversarial_batch,
    generate_mixed_adverserial_batch,
    in_step,
)
from pyimagesearch.fgsm import generate_image_adversary
from pyimagesearch.robustness import evaluate_robustness, transfer
from pyimagesearch.simplecnn import SimpleCNN

DIMS = (6, 6, 1)
IMAGES = np.random.default_rng(0).random((12, *DIMS), dtype=np.float32)
LABELS = np.arange(12) % 3


def two_inputs():
    one, two = keras.Input(DIMS), keras.Input(DIMS)
    hidden = keras.layers.Flatten()(keras.layers.Add()([one, two]))
    return keras.Model([one, two], keras.layers.Dense(3)(hidden))


def two_outputs():
    one = keras.Input(DIMS)
    hidden = keras.layers.Flatten()(one)
    return keras.Model(one, [keras.layers.Dense(3)(hidden), hidden])


def endless():
    while True:
        yield 0.5


JUNK = {
    "None": lambda: None,
    "text": lambda: "cw",
    "NaN": lambda: float("nan"),
    "infinity": lambda: float("inf"),
    "zero": lambda: 0,
    "minus one": lambda: -1,
    "complex": lambda: 1j,
    "truth": lambda: True,
    "list": list,
    "ragged list": lambda: [[1, 2], [3]],
    "dictionary": lambda: {"a": 1},
    "endless generator": endless,
    "empty array": lambda: np.empty((0, *DIMS)),
    "array of objects": lambda: np.array([None, {}], object),
    "array of text": lambda: np.full((12, *DIMS), "a"),
    "array of NaN": lambda: np.full((12, *DIMS), np.nan),
    "array of infinity": lambda: np.full((12, *DIMS), np.inf),
    "array of dates": lambda: np.zeros(12, "datetime64[s]"),
    "array too short": lambda: IMAGES[:5],
    "single image": lambda: IMAGES[0],
    "image of 255": lambda: IMAGES * 255,
    "array of other shape": lambda: np.zeros((12, 5, 5, 1)),
    "stray class": lambda: LABELS + 1,
    "negative class": lambda: LABELS - 1,
    "fraction of a class": lambda: LABELS + 0.5,
    "other model": lambda: build_classifier((5, 5, 1)),
    "regression": lambda: build_classifier(classes=1, activation=None),
    "two inputs": two_inputs,
    "two outputs": two_outputs,
    "function": lambda: lambda *args: None,
}


def draw(generate):
    return lambda **arguments: next(generate(**arguments))


ATTACK = {"model": build_classifier(), "eps": 0.1, "clip": (0, 1)}
GRADIENT = ATTACK | {"loss": "cross_entropy"}
BATCH = {"images": IMAGES, "labels": LABELS, "rng": 0}
PGD = {"steps": 2, "step_size": 0.1, "restarts": 2}
GENERATOR = BATCH | {"model": ATTACK["model"], "total": 4, "dims": DIMS, "eps": 0.1}
GENERATOR |= {"attack": generate_image_adversary}
REPORT = ATTACK | BATCH | {"steps": 1, "queries": 2, "attacker_images": None}
ANSWERS = {"images": IMAGES, "answers": LABELS, "clip": (0, 1), "classes": 3}
NETWORK = {"width": 8, "height": 8, "depth": 1, "classes": 3}

# Functions, and what makes valid arguments for them.
FUNCTIONS = {
    "FGSM": (
        generate_image_adversary,
        lambda: GRADIENT | {"image": IMAGES, "label": LABELS},
    ),
    "PGD": (projected_gradient_descent, lambda: GRADIENT | BATCH | PGD),
    "Square": (square_attack, lambda: ATTACK | BATCH | {"queries": 2}),
    "adversaries": (draw(generate_adversarial_batch), lambda: GENERATOR),
    "mixed": (
        draw(generate_mixed_adverserial_batch),
        lambda: GENERATOR | {"split": 0.5},
    ),
    "in_step": (in_step, lambda: {"batches": iter([(IMAGES, LABELS)])}),
    "report": (partial(evaluate_robustness, verbose=False), lambda: REPORT),
    "substitute": (transfer.train_substitute, lambda: ANSWERS),
    "network": (SimpleCNN.build, lambda: NETWORK),
}
OWN_CODE = ("loss", "attack")  # what the user's own functions raise passes through
THEIRS = (
    "dictionary",
    "other model",
    "regression",
    "two inputs",
    "two outputs",
)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FUNCTIONS)
def test_wrong_arguments_are_named(name, monkeypatch):
    monkeypatch.setattr(transfer, "_STEPS", 1)
    function, valid = FUNCTIONS[name]
    for argument in valid():
        for junk, make in JUNK.items():
            if argument in OWN_CODE and junk in THEIRS:
                continue
            try:
                function(**valid() | {argument: make()})
            except (TypeError, ValueError) as error:
                # Of two that do not fit each other either may be named.
                named = [name for name in valid() if name in str(error)]
                assert named, f"{junk} as {argument}: {error}"
                assert argument in named or "shape" in str(error), f"{junk}: {error}"
                if argument != "loss":  # of a wrong name Keras itself tells
                    assert len(str(error)) <= 300 and "\n" not in str(error)
