import functools
import re

import keras
import numpy as np
import pytest
from benchmark import art_classifier
from conftest import answers, as_shown, build_classifier, network_of
from keras import layers, ops
from keras.losses import BinaryCrossentropy, SparseCategoricalCrossentropy
from keras.metrics import BinaryAccuracy

from pyimagesearch.fgsm import generate_image_adversary
from pyimagesearch.robustness import evaluate_robustness

SQUARE = "Square, on what is left"
ATTACKS = [
    "uniform noise",
    "random signs",
    "FGSM",
    "BIM",
    "PGD, cross-entropy",
    "PGD, margin",
    "PGD, targeted",
    "PGD, chords of ReLUs",
    SQUARE,
]

quick = functools.partial(evaluate_robustness, steps=5, queries=50, verbose=False)


def by_attack(rows, eps):
    return {row.attack: row for row in rows if row.eps == eps}


@pytest.fixture
def hard_labels(model, images):
    """Class ids of which the model gets three in four right."""
    return (answers(model, images) + (np.arange(20) % 4 == 0)) % 3


def brightness(images):
    """Return logits (n, 2), as far from each other as the mean is from 0.5."""
    mean = ops.mean(images, axis=(1, 2))
    return ops.concatenate([0.5 - mean, mean - 0.5], axis=1)


@pytest.fixture
def dark_and_bright():
    """Images of mean 0.4 and 0.6, and whether they are bright."""
    noise = np.random.default_rng(0).uniform(-0.2, 0.2, (40, 6, 6, 1))
    noise -= noise.mean(axis=(1, 2, 3), keepdims=True)
    bright = np.arange(40) % 2
    return np.float32(0.4 + 0.2 * bright[:, None, None, None] + noise), bright


@pytest.mark.filterwarnings("error")
def test_rows_and_what_they_mean(model, images, hard_labels):
    """No warning doubts gradients that are of use."""
    rows = quick(model, images, hard_labels, [0.02, 0.05], rng=0)
    one_eps = [*ATTACKS, "worst case"]
    assert [row.attack for row in rows] == ["clean", *one_eps, *one_eps]
    assert [row.eps for row in rows] == [0, *[0.02] * 10, *[0.05] * 10]
    clean, *others = rows
    assert clean.accuracy == 0.75
    assert clean.mean_perturbation == clean.largest_perturbation == 0
    for row in others:
        assert 0 < row.mean_perturbation <= row.largest_perturbation
        assert 0.99 * row.eps < row.largest_perturbation < 1.00001 * row.eps
        assert row.seconds > 0 and row.accuracy <= 0.75
    for eps in (0.02, 0.05):
        *attacks, worst = by_attack(rows, eps).values()
        assert worst.accuracy <= min(row.accuracy for row in attacks)
        as_strong = [row.loss for row in attacks if row.accuracy == worst.accuracy]
        assert worst.loss >= max(as_strong)
        adversaries = generate_image_adversary(
            model, images, hard_labels, eps, loss="cross_entropy", clip=(0, 1)
        )
        stands = answers(model, images) == hard_labels
        stands &= answers(model, adversaries) == hard_labels
        assert 0 < stands.mean() < 0.75
        assert by_attack(rows, eps)["FGSM"].accuracy == pytest.approx(stands.mean())


def test_worst_case_joins_attacks_that_fool_on_different_images():
    def function(images):
        """Return logits: the corner tells which attack is of use."""
        corner = images[:, :1, 0]
        rest = images[:, 1:]
        changed = ops.min(ops.abs(ops.stop_gradient(rest) - 0.5), axis=(1, 2))
        by_signs = ops.where(changed > 0.099, 1.0, -1.0)  # and by nothing else
        by_gradient = 10 * (ops.mean(rest, axis=(1, 2)) - 0.55)
        score = ops.where(corner[:, 0] > 0.5, by_signs, by_gradient)
        return ops.concatenate([-score, score], axis=1)

    images = np.full((4, 6, 6, 1), 0.5, np.float32)
    images[2:] = 0.1  # nothing fools
    images[:, 0] = np.float32([1, 0, 0, 0])[:, None, None]
    model = network_of(layers.Lambda(function))
    with pytest.warns(UserWarning, match="gradient of the loss is zero") as found:
        rows = quick(model, images, np.zeros(4), 0.1, rng=0)
    accuracies = {row.attack: row.accuracy for row in rows[1:]}
    gradient_attacks = dict.fromkeys(ATTACKS[2:8], 0.75)
    assert accuracies == {
        "uniform noise": 1.0,
        "random signs": 0.75,
        **gradient_attacks,
        SQUARE: 0.5,
        "worst case": 0.5,
    }
    assert not any("Square" in str(warning.message) for warning in found)


def test_what_is_wrong_unaided_is_not_attacked(model, images):
    inside = 0.2 + 0.6 * images
    labels = (answers(model, inside) + 1) % 3
    rows = quick(model, inside, labels, 0.1)
    assert {row.accuracy for row in rows} == {0}
    assert {row.largest_perturbation for row in rows} == {0}
    labels[3] = answers(model, inside)[3]
    rows = by_attack(quick(model, inside, labels, 0.1), 0.1)
    assert rows["random signs"].mean_perturbation == pytest.approx(0.1 / 20)


def test_every_attack_makes_valid_images_in_its_own_way(model, images):
    def nan_if_invalid(images):
        is_valid = ops.all((images >= 0) & (images <= 1), axis=(1, 2), keepdims=True)
        return images + ops.where(is_valid, 0.0, np.nan)

    guarded = network_of(layers.Lambda(nan_if_invalid), model)
    assert np.isnan(guarded(images + 1)).all()
    labels = answers(model, images)
    rows = by_attack(quick(guarded, images, labels, 0.3, rng=0), 0.3)
    assert rows["FGSM"].loss > rows["random signs"].loss > rows["uniform noise"].loss
    assert rows["BIM"].loss > rows["FGSM"].loss
    inside = 0.4 + 0.2 * images
    labels = answers(model, inside)
    rows = by_attack(quick(guarded, inside, labels, 0.3, rng=0), 0.3)
    assert rows["uniform noise"].mean_perturbation == pytest.approx(0.15, rel=0.05)
    assert rows["random signs"].mean_perturbation == pytest.approx(0.3, rel=1e-4)


def test_same_seed_same_rows_in_any_label_format(model, images, hard_labels):
    def figures(labels, rng):
        rows = quick(model, images, labels, 0.05, rng=rng)
        return [row._replace(seconds=0) for row in rows]

    expected = figures(hard_labels, 1)
    assert figures(hard_labels, 2) != expected
    for labels in (hard_labels, hard_labels[:, np.newaxis], np.eye(3)[hard_labels]):
        assert figures(labels, 1) == expected


@pytest.mark.parametrize("shape", [(36,), (18, 2), (128, 128, 3)])
def test_vectors_series_and_colour_images_from_0_to_255(shape):
    images = np.random.default_rng(0).integers(256, size=(12, *shape), dtype=np.uint8)
    hidden = layers.Flatten(), layers.Dense(8, "relu"), layers.Dense(3)
    model = network_of(layers.Rescaling(1 / 255), *hidden, image_shape=shape)
    rows = by_attack(quick(model, images, answers(model, images), 64, (0, 255)), 64)
    assert rows["uniform noise"].largest_perturbation <= 64
    assert rows["FGSM"].largest_perturbation == pytest.approx(64)
    assert rows["worst case"].accuracy < 0.5


def balanced(classes, activation, images):
    """Build a classifier that answers with each class."""
    model = build_classifier(classes=classes, activation=None)
    model.layers[-1].bias.assign(-np.median(model(images), axis=0))
    model.layers[-1].activation = keras.activations.get(activation)
    return model


@pytest.mark.parametrize(
    ("classes", "activation", "loss", "metric"),
    [
        (1, None, BinaryCrossentropy(from_logits=True), BinaryAccuracy(threshold=0)),
        (1, "sigmoid", "binary_crossentropy", "accuracy"),
        (3, None, SparseCategoricalCrossentropy(from_logits=True), "accuracy"),
        (3, "softmax", "sparse_categorical_crossentropy", "accuracy"),
    ],
)
def test_clean_row_is_what_evaluate_says(classes, activation, loss, metric, images):
    model = balanced(classes, activation, images)
    model.compile("adam", loss, metrics=[metric])
    labels = np.arange(20) % max(2, classes)
    clean, *_, worst = quick(model, images, labels, 0.5)
    mean_loss, accuracy = model.evaluate(images, labels, verbose=0)
    assert clean.accuracy == pytest.approx(accuracy)
    assert clean.loss == pytest.approx(mean_loss, rel=1e-4)
    assert worst.accuracy < 0.2 < clean.accuracy < 0.8


def test_a_single_score_is_what_the_user_says(images):
    """It is from 0 to 1, with no sigmoid at the end; as a logit, it means class 1."""
    model = balanced(1, "sigmoid", images)
    labels = (model(images).numpy()[:, 0] > 0.5).astype(int)
    model.add(layers.Rescaling(1.0))
    with pytest.raises(ValueError, match="a logit or a probability: give from_logits="):
        quick(model, images, labels, 0)
    with pytest.warns(UserWarning, match="no logits"):
        clean, *_ = quick(model, images, labels, 0, from_logits=False)
    assert clean.accuracy == 1
    rows = quick(model, images, labels, 0, from_logits=True)
    assert {row.accuracy for row in rows} == {labels.mean()} == {0.5}


def climbing(value, function):
    """Return a value whose gradient is that of another one."""
    return ops.stop_gradient(value - function) + function


def test_useless_gradients_are_told_once_at_the_users_line(dark_and_bright):
    def function(images):
        return brightness(ops.floor(images * 255) / 255)

    images, labels = dark_and_bright
    model = network_of(layers.Lambda(function))
    with as_shown() as found:
        rows = quick(model, images, labels, [0.05, 0.12], queries=400, rng=0)
    assert rows[0].accuracy == 1
    (zero,) = [warning for warning in found if "is zero" in str(warning.message)]
    assert zero.filename == __file__
    told = "\n".join(str(warning.message) for warning in found)
    assert re.search("eps 0.05: .* withstand even half of the range", told)
    assert re.search("eps 0.12: the Square attack, without a gradient", told)
    rows = by_attack(rows, 0.12)
    assert rows[SQUARE].accuracy < rows["PGD, margin"].accuracy - 0.2
    assert rows["worst case"].accuracy == rows[SQUARE].accuracy


def test_pgd_that_is_weaker_than_fgsm_is_doubted(dark_and_bright):
    """Off the values that images have, the gradient points the wrong way."""
    images, labels = dark_and_bright
    images = np.round(images * 16) / 16
    images[1::4] = 1.0  # and stands

    def function(images):
        true = brightness(images)
        on_grid = ops.abs(images * 16 - ops.round(images * 16)) < 1e-3
        side = ops.where(ops.all(on_grid, axis=(1, 2)), 1.0, -1.0)
        return climbing(true, side * true)

    with pytest.warns(UserWarning, match="PGD is weaker than FGSM"):
        quick(network_of(layers.Lambda(function)), images, labels, 0.15)


def test_steps_that_find_more_when_there_are_more_are_doubted():
    """A small spot inside the ball fools, which coarse steps miss."""

    def function(images):
        distances = ops.abs(images - 0.535)
        nearest = ops.max(distances, axis=(1, 2)) - 0.003
        score = climbing(nearest, ops.mean(distances, axis=(1, 2)))
        return ops.concatenate([score, -score], axis=1)

    images = np.full((4, 6, 6, 1), 0.5)
    with pytest.warns(UserWarning, match="eps 0.1: more steps leave 100.0% less"):
        rows = quick(network_of(layers.Lambda(function)), images, np.zeros(4), rng=0)
    assert {row.accuracy for row in rows} == {1}


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_attacks_in_mixed_precision_are_as_strong(policy, model, images, hard_labels):
    keras.config.set_dtype_policy(policy)
    mixed = build_classifier()
    keras.config.set_dtype_policy("float32")
    mixed.set_weights(model.get_weights())
    rows = quick(mixed, images, hard_labels, 0.05, rng=0)
    expected = quick(model, images, hard_labels, 0.05, rng=0)
    for figure, tolerance in [("accuracy", 0.051), ("loss", 0.01)]:
        values = [[getattr(row, figure) for row in both] for both in (rows, expected)]
        np.testing.assert_allclose(*values, rtol=0, atol=tolerance)


@pytest.mark.slow
def test_worst_case_is_no_weaker_than_arts_auto_pgd(digits):
    art = pytest.importorskip("art.attacks.evasion")
    model, test = digits
    images, labels = [array[:20] for array in test]
    logits = network_of(*model.layers[:-1], image_shape=(28, 28, 1))
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    attack = art.AutoProjectedGradientDescent(
        art_classifier(logits, loss, clip=(0.0, 1.0)),
        eps=0.07,
        max_iter=20,
        nb_random_init=1,
        loss_type="difference_logits_ratio",
        verbose=False,
    )
    adversaries = attack.generate(images, labels)
    left = (answers(model, adversaries) == labels.argmax(axis=1)).mean()
    settings = {"steps": 40, "queries": 200, "rng": 0, "verbose": False}
    *_, worst = evaluate_robustness(model, images, labels, 0.07, **settings)
    assert 0.1 < left < 0.95  # otherwise it says little
    assert worst.accuracy <= left
