"""Whatever is passed, the answer is a result, or an error that names the argument."""

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import build_classifier, network_of
from keras import layers
from sklearn.linear_model import LogisticRegression

from pyimagesearch.attacks import projected_gradient_descent as pgd
from pyimagesearch.attacks import square_attack
from pyimagesearch.datagen import generate_mixed_adversarial_batch as generate
from pyimagesearch.datagen import in_step
from pyimagesearch.fgsm import generate_image_adversary as fgsm
from pyimagesearch.robustness import evaluate_robustness as report
from pyimagesearch.simplecnn import SimpleCNN
from pyimagesearch.training import hold_out, robust_attack

DIMS = (6, 6, 1)
IMAGES = np.random.default_rng(0).random((12, *DIMS), dtype=np.float32)
LABELS = np.arange(12) % 3
MODEL = build_classifier()
ATTACK = {"model": MODEL, "eps": 0.1, "clip": (0, 1)}
GRADIENT = ATTACK | {"loss": "margin", "targeted": False}
BATCH = {"images": IMAGES, "labels": LABELS, "rng": 0}
PGD = {"steps": 2, "step_size": 0.1, "restarts": 2, "chords": False}
GENERATOR = {"model": MODEL, "total": 8, "dims": DIMS, "eps": 0.1, "attack": fgsm}

# Functions, and valid arguments for them.
VALID = {
    fgsm: GRADIENT | {"image": IMAGES, "label": LABELS},
    pgd: GRADIENT | BATCH | PGD,
    square_attack: ATTACK | BATCH | {"queries": 2},
    generate: GENERATOR | BATCH | {"split": 0.5},
    report: ATTACK | BATCH | {"steps": 1, "queries": 2},
    SimpleCNN.build: {"width": 8, "height": 8, "depth": 1, "classes": 3},
}


class Endless:
    """Batches without end, as Keras's `flow` and PyTorch's loaders have them."""

    def __getitem__(self, index):
        raise AssertionError("it was read")

    def __len__(self):
        return 10**9


IMAGE = keras.Input(DIMS)
OTHER_IMAGE = keras.Input(DIMS)
TWO_INPUTS = keras.Model([IMAGE, OTHER_IMAGE], layers.add([IMAGE, OTHER_IMAGE]))
TWO_OUTPUTS = keras.Model(IMAGE, [layers.Flatten()(IMAGE), IMAGE])

# Slips that users make: a missing or misplaced argument, data as they were loaded,
# labels of another count, another network.
RIGHT_SOMEWHERE = [None, True, IMAGES[0]]
JUNK = [
    *RIGHT_SOMEWHERE,
    "cw",
    float("nan"),
    -1,
    [[1, 2], [3]],
    np.empty((0, *DIMS)),
    np.full((12, *DIMS), "a"),
    np.full((12, *DIMS), np.nan),
    IMAGES[:5],
    np.zeros((12, 6, 1, 6)),
    LABELS + 1,
    LABELS - 1,
    LABELS + 0.5,
    Endless(),
    build_classifier((5, 5, 1)),
    TWO_INPUTS,
    TWO_OUTPUTS,
]


def is_one_line(error):
    return len(str(error)) <= 300 and "\n" not in str(error)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("function", VALID)
def test_slips_are_named(function):
    valid = VALID[function]
    function(**valid)
    for argument, junk in itertools.product(valid, JUNK):
        if argument in ("loss", "attack") and callable(junk):
            continue  # what a user's own function raises passes through
        try:
            function(**valid | {argument: junk})
        except (TypeError, ValueError) as error:
            # Of two that do not fit each other either may be named.
            named = [name for name in valid if name in str(error)]
            assert argument in named or (named and "shape" in str(error)), error
            assert is_one_line(error)
        else:
            is_right = argument == "rng" or any(junk is one for one in RIGHT_SOMEWHERE)
            assert is_right, f"{argument} took {junk}"


def failing(images):
    raise RuntimeError("no " * 1000)


def add_noise(images):
    return images + tf.random.normal(tf.shape(images))


class OnePyDataset(keras.utils.PyDataset):
    def __getitem__(self, index):
        return IMAGES, LABELS


def preprocessing():
    model = build_classifier()
    model.preprocessor = layers.Rescaling(1 / 255)
    return model


FAILING = keras.Sequential([layers.Lambda(failing, output_shape=(3,))])
SHRINK = layers.Resizing(3, 3, interpolation="area")
WITHOUT_GRADIENT = network_of(SHRINK, layers.Flatten(), layers.Dense(3))
NOISY = network_of(layers.Lambda(add_noise), build_classifier())
BROKEN = network_of(layers.Rescaling(np.nan), build_classifier())
TO_INFINITY = [layers.Rescaling(1e38), layers.Rescaling(1e38)]
DIVERGED = network_of(build_classifier(activation=None), *TO_INFINITY)
PYTHON = layers.Lambda(lambda images: images * float(images[0, 0, 0, 0]), DIMS)
EAGER = network_of(PYTHON, layers.Flatten(), layers.Dense(3))
REGRESSION = build_classifier(classes=1, activation=None)
NO_TUPLES = "batches must be tuples of arrays, a row an image"
ON_LOGITS = {"model": REGRESSION, "from_logits": True}


@pytest.mark.parametrize(
    ("function", "changed", "message"),
    [
        (fgsm, {"model": FAILING}, "model .*no no"),
        (fgsm, {"model": WITHOUT_GRADIENT}, "model .*gradient.*ResizeArea"),
        (fgsm, {"model": EAGER}, "model .*cannot be compiled by tf"),
        (fgsm, {"model": BROKEN}, "model '.*' .*of 12 .*diverged"),
        (fgsm, {"model": DIVERGED}, "model '.*' .*of 12 .*diverged"),
        (pgd, {"model": BROKEN}, "model '.*' .*of 12 .*diverged"),
        (square_attack, {"model": BROKEN}, "model '.*' .*of 12 .*diverged"),
        (fgsm, {"model": preprocessing()}, "model preprocesses.*keras.Model"),
        (fgsm, {"image": np.zeros(DIMS), "label": 0}, "image.*batch axis"),
        (fgsm, {"image": np.full((12, *DIMS), 1e39)}, "image .*infinity"),
        (fgsm, {"label": np.ones((12, 3))}, "label .*several labels an image"),
        (fgsm, {"eps": np.ones(5)}, r"eps .*\(5,\) for \(12, 6, 6, 1\)"),
        (fgsm, {"eps": -np.ones(1)}, "eps .*from 0"),
        (fgsm, {"eps": np.ones(6), "norm": 2}, "eps .*number for norm 2"),
        (fgsm, {"loss": "no such loss"}, "loss.*no such loss"),
        (fgsm, {"loss": lambda *batch: None}, "loss must return a tensor, got None"),
        (fgsm, {"clip": (1, 0)}, "clip.*1, 0"),
        (fgsm, {"norm": 1}, "norm .*1"),
        (pgd, {"model": REGRESSION, "labels": LABELS * 9}, "labels .*loss="),
        (pgd, {"model": network_of(layers.ReLU())}, r"model .*row.*\(6, 6, 1\)"),
        (pgd, {"step_size": [1, 2, 3]}, r"step_size .*array of 2.*\[1, 2, 3\]"),
        (pgd, {"restarts": 2, "random_start": False}, "restarts .*2"),
        (pgd, {"random_start": "False"}, "random_start must be True or False"),
        (square_attack, {"model": LogisticRegression()}, "model .*function.*Logistic"),
        (square_attack, {"model": lambda rows: rows[:5]}, "model .*scores"),
        (square_attack, {"images": np.zeros((12, 2, 2, 2, 2))}, "images"),
        (square_attack, {"labels": np.full((12, 3), 0.7)}, "labels .*one"),
        (square_attack, ON_LOGITS | {"labels": LABELS * 9}, "labels .*0 or 1"),
        (generate, {"total": 25}, "total .*12 images.*25"),
        (generate, {"total": 13, "split": 1.0}, "total .*13"),
        (generate, {"dims": (4, 9, 1), "images": np.zeros((12, 36))}, "dims"),
        (generate, {"eps": np.ones(5)}, "eps must broadcast"),
        (report, {"images": np.full((12, *DIMS), 1.1)}, "images .*1.1"),
        (report, {"images": np.zeros(DIMS), "labels": [1]}, "batch axis"),
        (report, {"labels": np.ones((12, 3))}, "labels .*one class .*several labels"),
        (report, {"clip": None}, "clip .*None"),
        (report, {"eps": [0.1, 1.5]}, "eps .*0 to 1.*1.5"),
        (report, {"eps": []}, "eps must be a number, or several"),
        (report, {"eps": [[0.1, 0.0]]}, "eps must be a number, or several"),
        (report, {"from_logits": "no"}, "from_logits must be"),
        (report, {"model": TWO_OUTPUTS}, "one output"),
        (report, {"model": network_of(layers.Conv2D(3, 1))}, "a row of classes"),
        (report, {"model": BROKEN}, "NaN or infinity for 12 of 12"),
        (report, {"model": NOISY}, "answers at random: .* differ"),
        (robust_attack, {"steps": 0}, "steps .*0"),
        (robust_attack, {"steps": 1, "clip": None}, "clip must be"),
        (hold_out, {"data": (IMAGES[:5], LABELS), "seed": 0}, "must be 12, as labels"),
        (in_step, {"batches": iter([])}, "batches must .*got an empty one"),
        (in_step, {"batches": 5}, "batches must be an iterator or a list, got 5"),
        (in_step, {"batches": OnePyDataset()}, "batches must be an iter.*PyDataset"),
        (in_step, {"batches": [{"images": IMAGES}]}, NO_TUPLES),
        (in_step, {"batches": [({"image": IMAGES}, LABELS)]}, NO_TUPLES),
        (in_step, {"batches": [(IMAGES, [LABELS, IMAGES])]}, NO_TUPLES),
        (in_step, {"batches": [(IMAGES, None)]}, NO_TUPLES),
        (in_step, {"batches": [(IMAGES, 1.0)]}, NO_TUPLES),
        (in_step, {"batches": [(IMAGES, LABELS[1:])]}, NO_TUPLES),
    ],
)
def test_wrong_arguments_are_named_at_the_call(function, changed, message):
    with pytest.raises((TypeError, ValueError), match=message) as raised:
        function(**VALID.get(function, {}) | changed)
    assert is_one_line(raised.value)
