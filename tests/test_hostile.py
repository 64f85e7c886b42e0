"""Whatever is passed, the answer is a result, or an error that names the argument."""

from functools import partial

import keras
import numpy as np
import pytest
from conftest import build_classifier

from pyimagesearch import transfer
from pyimagesearch.datagen import (
    generate_adversarial_batch,
    generate_mixed_adverserial_batch,
    in_step,
)
from pyimagesearch.fgsm import generate_image_adversary
from pyimagesearch.pgd import projected_gradient_descent
from pyimagesearch.robustness import evaluate_robustness
from pyimagesearch.simplecnn import SimpleCNN
from pyimagesearch.transfer import train_substitute

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


class Fails:
    def __array__(self, *args, **kwargs):
        raise RuntimeError("not for you")

    __float__ = __index__ = __iter__ = __array__


JUNK = {
    "None": lambda: None,
    "text": lambda: "cw",
    "object": object,
    "failing object": Fails,
    "NaN": lambda: float("nan"),
    "infinity": lambda: float("inf"),
    "zero": lambda: 0,
    "minus one": lambda: -1,
    "too large for a float": lambda: 10**400,
    "complex": lambda: 1j,
    "truth": lambda: True,
    "list": list,
    "ragged list": lambda: [[1, 2], [3]],
    "dictionary": lambda: {"a": 1},
    "empty array": lambda: np.empty((0, *DIMS)),
    "scalar array": lambda: np.array(0.5),
    "array of objects": lambda: np.array([None, {}], object),
    "array of text": lambda: np.full((12, *DIMS), "a"),
    "array of NaN": lambda: np.full((12, *DIMS), np.nan),
    "array of infinity": lambda: np.full((12, *DIMS), np.inf),
    "array of dates": lambda: np.zeros(12, "datetime64[s]"),
    "array too short": lambda: IMAGES[:5],
    "array of other shape": lambda: np.zeros((12, 5, 5, 1)),
    "stray class": lambda: LABELS + 1,
    "negative class": lambda: LABELS - 1,
    "fraction of a class": lambda: LABELS + 0.5,
    "other model": lambda: build_classifier((5, 5, 1)),
    "two inputs": two_inputs,
    "two outputs": two_outputs,
    "function": lambda: lambda *args: None,
    "function that fails": lambda: lambda *args: {}["no"],
}


def draw(generate):
    return lambda **arguments: next(generate(**arguments))


MODEL = build_classifier()
ATTACK = {"model": MODEL, "eps": 0.1, "loss": "cross_entropy", "clip": (0, 1)}
ATTACK["targeted"] = False
PGD = {"images": IMAGES, "labels": LABELS, "steps": 2, "step_size": 0.1}
PGD |= {"random_start": True, "restarts": 2, "rng": 0}
BATCH = {"model": MODEL, "total": 4, "images": IMAGES, "labels": LABELS, "dims": DIMS}
BATCH |= {"eps": 0.1, "attack": generate_image_adversary, "rng": 0}
REPORT = {"model": MODEL, "images": IMAGES, "labels": LABELS, "eps": 0.1}
REPORT |= {"clip": (0, 1), "steps": 1, "attacker_images": None, "rng": 0}
ANSWERS = {"images": IMAGES, "answers": LABELS, "clip": (0, 1), "classes": 3}
NETWORK = {"width": 8, "height": 8, "depth": 1, "classes": 3}

# Functions, and what makes valid arguments for them.
FUNCTIONS = {
    "FGSM": (
        generate_image_adversary,
        lambda: ATTACK | {"image": IMAGES, "label": LABELS},
    ),
    "PGD": (projected_gradient_descent, lambda: ATTACK | PGD),
    "adversaries": (draw(generate_adversarial_batch), lambda: BATCH),
    "mixed": (draw(generate_mixed_adverserial_batch), lambda: BATCH | {"split": 0.5}),
    "in_step": (in_step, lambda: {"batches": iter([(IMAGES, LABELS)])}),
    "report": (partial(evaluate_robustness, verbose=False), lambda: REPORT),
    "substitute": (train_substitute, lambda: ANSWERS),
    "network": (SimpleCNN.build, lambda: NETWORK),
}
OWN_CODE = ("loss", "attack")  # what the user's own functions raise passes through
CALLABLE = ("other model", "two inputs", "two outputs", "function that fails")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FUNCTIONS)
def test_wrong_arguments_are_named(name, monkeypatch):
    monkeypatch.setattr(transfer, "_STEPS", 1)
    function, valid = FUNCTIONS[name]
    for argument in valid():
        for junk, make in JUNK.items():
            if argument in OWN_CODE and junk in CALLABLE:
                continue
            try:
                function(**valid() | {argument: make()})
            except (TypeError, ValueError) as error:
                # Of two that do not fit each other either may be named.
                named = [name for name in valid() if name in str(error)]
                assert named, f"{junk} as {argument}: {error}"
                assert argument in named or "shape" in str(error)
                assert len(str(error)) < 500
