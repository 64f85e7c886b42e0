import functools
from collections.abc import Callable
from typing import NamedTuple

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import (
    answers,
    art_classifier,
    build_classifier,
    counted_mse,
    gradients,
    network_of,
    no_warning,
    saturate,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers, losses, ops
from numpy.testing import assert_allclose, assert_array_equal

from pyimagesearch.attacks import projected_gradient_descent as pgd
from pyimagesearch.attacks import shrinking_steps
from pyimagesearch.core.chords import chord_slopes
from pyimagesearch.fgsm import generate_image_adversary as fgsm

DIMS = (6, 6, 1)
MODEL = build_classifier()
ON_LOGITS = pytest.mark.parametrize("loss", ["cross_entropy", "margin"])


def test_without_a_random_start_it_is_the_plain_loop(model, images, one_hot):
    eps = np.float32(0.1)
    sizes = np.float32([0.08, 0.04, 0.02])
    attack = functools.partial(pgd, model, images, one_hot, eps, random_start=False)
    adversaries = attack(steps=3, step_size=sizes, clip=(0, 1))
    expected = images
    for size in sizes:
        found = gradients(model, expected, one_hot, losses.categorical_crossentropy)
        expected = np.clip(expected + size * np.sign(found), images - eps, images + eps)
        expected = np.clip(expected, 0, 1)
    assert adversaries.dtype == np.float32
    assert_allclose(adversaries, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("norm", "eps", "step_size", "clip"),
    [
        (np.inf, 0.1, 0.03, (0.0, 1.0)),
        (2, 0.5, 0.2, (-9.0, 9.0)),  # the ball decides
        (2, 5.0, 0.3, (0.0, 1.0)),  # the range decides
    ],
)
def test_agrees_with_the_adversarial_robustness_toolbox(
    model, images, one_hot, norm, eps, step_size, clip
):
    from art.attacks.evasion import ProjectedGradientDescent

    classifier = art_classifier(model, losses.CategoricalCrossentropy(), clip)
    theirs = ProjectedGradientDescent(
        classifier, norm=norm, eps=eps, eps_step=step_size, max_iter=7, verbose=False
    )
    attack = functools.partial(pgd, model, images, one_hot, eps, random_start=False)
    ours = attack(steps=7, step_size=step_size, clip=clip, norm=norm)
    assert_allclose(ours, theirs.generate(images, one_hot), atol=2e-5)


@settings(max_examples=25, deadline=None)
@given(
    eps=st.floats(0, 2),
    step_size=st.none() | st.floats(0, 4),
    steps=st.integers(1, 3),
    clip=st.sampled_from([None, (0, 1), (0.25, 0.5)]),
    targeted=st.booleans(),
    norm=st.sampled_from([np.inf, 2]),
)
def test_neither_ball_nor_range_is_left(eps, step_size, steps, clip, targeted, norm):
    images = np.random.default_rng(1).random((5, *DIMS), dtype=np.float32)
    if clip is not None:
        images = np.clip(images, *clip)
    attack = functools.partial(pgd, MODEL, images, [0, 1, 2, 1, 0], eps, restarts=2)
    adversaries = attack(
        steps=steps, step_size=step_size, clip=clip, targeted=targeted, norm=norm
    )
    changes = (adversaries - images).reshape(5, -1)
    assert np.linalg.norm(changes, norm, axis=1).max() <= eps * (1 + 1e-6) + 2e-6
    if clip is not None:
        assert adversaries.min() >= clip[0] and adversaries.max() <= clip[1]


def random_starts(model, images, **settings):
    labels = np.zeros(len(images), int)
    return pgd(model, images, labels, 0.2, steps=1, step_size=0, **settings) - images


def test_random_start_is_uniform_in_the_ball(model):
    images = np.full((50, *DIMS), 0.5, np.float32)
    counts, _ = np.histogram(random_starts(model, images), bins=4, range=(-0.2, 0.2))
    assert counts.sum() == 1800  # all inside the ball
    assert counts.min() > 380  # 450 expected, 18 the standard deviation


def test_random_start_is_uniform_in_the_ball_of_norm_2():
    """Half the volume of the square's disc lies within 0.707 of its radius."""
    model = network_of(layers.Flatten(), layers.Dense(2), image_shape=(2, 1))
    images = np.zeros((4000, 2, 1), np.float32)
    noise = random_starts(model, images, norm=2)[..., 0]
    radii = np.linalg.norm(noise, axis=1)
    assert 0.19 < radii.max() <= 0.2 * (1 + 1e-6)
    assert abs((radii < 0.2 * 0.5**0.5).mean() - 0.5) < 0.04  # five deviations
    quadrants = np.unique(noise > 0, axis=0, return_counts=True)[1]
    assert len(quadrants) == 4 and abs(quadrants - 1000).max() < 140


def test_random_start_is_governed_by_the_seed(model):
    images = np.full((50, *DIMS), 0.5, np.float32)
    start = functools.partial(random_starts, model, images)
    noise = start(rng=3)
    assert_array_equal(start(rng=3), noise)
    assert (start(rng=4) != noise).mean() > 0.99
    generator = np.random.default_rng(3)
    assert_array_equal(start(rng=generator), noise)
    assert (start(rng=generator) != noise).mean() > 0.99
    keras.utils.set_random_seed(7)
    first = start()
    assert (start() != first).mean() > 0.99
    keras.utils.set_random_seed(7)
    assert_array_equal(start(), first)


@pytest.mark.parametrize("targeted", [False, True])
def test_restarts_keep_what_fools_or_else_the_highest_loss(model, images, targeted):
    labels = (answers(model, images) + targeted) % 3  # all correct, or none
    one_hot = np.eye(3, dtype=np.float32)[labels]

    def losses_and_fooled(adversaries):
        outputs = model(adversaries).numpy()
        loss = losses.categorical_crossentropy(one_hot, outputs).numpy()
        hit = outputs.argmax(axis=-1) == labels
        return (-loss, hit) if targeted else (loss, ~hit)

    copy = images.copy()
    attack = functools.partial(
        pgd, model, images, labels, 0.06, steps=1, step_size=0.03, rng=5
    )
    once = attack(targeted=targeted)
    many = attack(targeted=targeted, restarts=30)
    loss_once, fooled_once = losses_and_fooled(once)
    loss_many, fooled_many = losses_and_fooled(many)
    assert 0 < fooled_once.sum() < fooled_many.sum() < 20
    assert_array_equal(many[fooled_once], once[fooled_once])
    stands = ~fooled_many
    assert (loss_many[stands] >= loss_once[stands] - 1e-6).all()
    assert (loss_many[stands] > loss_once[stands]).any()
    assert_array_equal(images, copy)


def test_restarts_prefer_what_fools_to_a_higher_loss(model, images):
    """A loss that falls where the model is fooled."""
    labels = answers(model, images)

    def contrary(targets, outputs):
        return tf.reduce_sum(targets * outputs, axis=-1)

    attack = functools.partial(pgd, model, images, labels, 0.5, steps=1, step_size=0)

    def count_fooled(restarts):
        found = attack(restarts=restarts, loss=contrary, rng=0)
        return np.sum(answers(model, found) != labels)

    assert count_fooled(1) < count_fooled(40)


BINARY = functools.partial(losses.binary_crossentropy, from_logits=True)


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize(
    ("outputs", "loss", "each_loss"),
    [
        (1, "cross_entropy", BINARY),
        (1, "mse", losses.mean_squared_error),
        (2, BINARY, BINARY),  # several labels an image
    ],
)
def test_restarts_without_classes_keep_the_highest_loss(
    images, outputs, loss, each_loss, targeted
):
    model = build_classifier(classes=outputs, activation=None)
    targets = np.ones((20, outputs), np.float32)
    targets[:10, 0] = 0
    attack = functools.partial(
        pgd, model, images, targets, 0.1, steps=1, step_size=0.01, loss=loss, rng=2
    )
    once = each_loss(targets, model(attack(targeted=targeted))).numpy()
    many = attack(targeted=targeted, restarts=12)
    gained = each_loss(targets, model(many)).numpy() - once
    if targeted:
        gained = -gained
    assert gained.min() >= -1e-6
    assert (gained > 0).mean() > 0.7


@pytest.mark.parametrize(
    "loss",
    [
        lambda targets, outputs: tf.reduce_mean((targets - outputs) ** 2),
        lambda targets, outputs: (targets - outputs) ** 2,  # a value an element
        losses.MeanSquaredError(reduction="sum"),
    ],
)
def test_restarts_with_losses_of_any_shape(loss, model, images, labels):
    attack = functools.partial(
        pgd, model, images, labels, 0.1, steps=3, restarts=3, rng=0
    )
    assert_allclose(attack(loss=loss), attack(loss="mse"), atol=1e-6)


def test_a_gradient_that_comes_back_after_the_start_is_not_warned_of():
    """PGD leaves the point that has no gradient, from where FGSM cannot start."""
    hidden = layers.Flatten(), layers.ReLU(), layers.Dense(2)
    model = network_of(*hidden, image_shape=(4, 4, 1))
    images = np.zeros((20, 4, 4, 1))
    labels = np.zeros(20, int)
    with pytest.warns(UserWarning, match="gradient of the loss is zero"):
        fgsm(model, images, labels, 0.1)
    with no_warning():
        pgd(model, images, labels, 0.1, rng=1)


@pytest.mark.parametrize(("eps", "norm"), [(0.5, np.inf), (3.0, 2)])
def test_targeted_reaches_its_label(model, images, eps, norm):
    goals = (answers(model, images) + 1) % 3
    found = pgd(model, images, goals, eps, loss="margin", targeted=True, norm=norm)
    assert (answers(model, found) == goals).all()


class Nested(keras.Model):
    """A subclassed model around another one."""

    def __init__(self, last):
        super().__init__()
        self.inner = keras.Sequential([layers.Flatten(), layers.Dense(3), last])

    def call(self, images):
        return self.inner(images)


@pytest.mark.parametrize(
    "end",
    [
        lambda: layers.Activation("softmax"),
        lambda: layers.Lambda(lambda x: tf.nn.softmax(x)),
        lambda: keras.Sequential([layers.Softmax(), layers.Softmax()]),
        lambda: layers.Activation("linear"),
    ],
)
@pytest.mark.parametrize(
    ("loss", "is_wrapped"), [("cross_entropy", False), ("margin", True)]
)
@pytest.mark.filterwarnings("error")
def test_confidence_does_not_blind_it(images, end, loss, is_wrapped):
    model = Nested(end())
    model(images)
    attacked = network_of(model) if is_wrapped else model
    labels = answers(model, images)
    fallen = []
    for _ in range(2):
        adversaries = fgsm(attacked, images, labels, 0.2, loss=loss)
        fallen.append((answers(model, adversaries) != labels).sum())
        saturate(model.inner)  # float32 then rounds every answer's probability to 1.0
    assert 5 < fallen[0] <= fallen[1]


@pytest.mark.parametrize("activation", ["sigmoid", None])
def test_binary_classifier_of_one_output(images, activation):
    model = build_classifier(classes=1, activation=activation)
    threshold = 0.5 if activation else 0
    labels = (model(images).numpy() > threshold).astype(int)
    for given_labels in (labels, labels[:, 0]):
        adversaries = pgd(model, images, given_labels, 0.5, restarts=2)
        assert ((model(adversaries).numpy() > threshold) != labels).all()


def test_regression_needs_the_loss_it_was_trained_with(images):
    """The default loss is for classifiers; it would climb the wrong thing, silently."""
    model = build_classifier(classes=1, activation=None)
    targets = np.linspace(-2, 30, 20, dtype=np.float32)
    with pytest.raises(ValueError, match=r"labels .*regression.*loss="):
        pgd(model, images, targets)
    found = pgd(model, images, targets, 0.1, steps=5, random_start=False, loss="mse")
    before = np.mean((model(images).numpy()[:, 0] - targets) ** 2)
    assert np.mean((model(found).numpy()[:, 0] - targets) ** 2) > before


@ON_LOGITS
def test_several_labels_an_image_need_another_loss(images, loss):
    model = build_classifier(activation="sigmoid")
    with pytest.raises(ValueError, match=r"label .*several labels an image"):
        fgsm(model, images, np.ones((20, 3)), loss=loss)


def test_an_output_that_is_no_row_of_classes(images):
    model = network_of(layers.Conv2D(1, 1))
    with pytest.raises(ValueError, match=r"model .*row of classes.*\(6, 6, 1\)"):
        fgsm(model, images, images, loss="margin")
    adversaries = pgd(model, images, images, 0.1, steps=1, loss="mse", restarts=2)
    assert (adversaries != images).any()


@ON_LOGITS
def test_losses_are_those_of_the_literature(loss):
    """By the slope at points of which the right one is known: a linear network."""
    kernel = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
    model = network_of(layers.Dense(4, use_bias=False), image_shape=(8,))
    model.set_weights([kernel])
    images = np.random.default_rng(1).normal(size=(10, 8)).astype(np.float32)
    labels = np.arange(10) % 4
    logits = images @ kernel
    others = np.where(np.eye(4)[labels] > 0, -np.inf, logits)
    weights = np.exp(others) / np.exp(others).sum(axis=1, keepdims=True)
    if loss == "margin":
        weights = np.eye(4)[others.argmax(axis=1)]
    slopes = (weights - np.eye(4)[labels]) @ kernel.T
    adversaries = fgsm(model, images, labels, 1.0, loss=loss, norm=2)
    slopes /= np.linalg.norm(slopes, axis=1, keepdims=True)
    assert_allclose(adversaries - images, slopes, atol=1e-5)


def test_compiled_once_for_all_settings_of_a_norm(model, images, labels):
    loss, traced = counted_mse()
    for n in (1, 7, 20):
        attack = functools.partial(pgd, model, images[:n], labels[:n], 0.1 * n)
        attack(steps=n, step_size=0.1 / n, clip=(0, n), loss=loss)
    assert set(traced) == {(None, 3)} and len(traced) <= 2  # a loop may trace twice


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"step_size": [1, 2]}, r"step_size .*array of 40.*\[1, 2\]"),
        ({"restarts": 2, "random_start": False}, "restarts .*2"),
        ({"norm": "l2"}, "norm .*l2"),
    ],
)
def test_settings_that_do_not_fit(model, images, labels, changed, message):
    with pytest.raises(ValueError, match=message):
        pgd(model, images, labels, **changed)


def test_shrinking_steps_go_from_twice_eps_to_a_hundredth_of_it():
    sizes = shrinking_steps(0.3, 5)
    assert_allclose(sizes[[0, -1]], [0.6, 0.003])
    ratios = sizes[1:] / sizes[:-1]
    assert_allclose(ratios, ratios[0])


# Gradients that see through the first ReLUs.


@pytest.mark.parametrize(
    "relu",
    [lambda: layers.Activation("relu"), layers.ReLU, lambda: layers.Lambda(ops.relu)],
)
def test_chords_see_through_dead_relus(relu):
    """Dead at the image, alive within eps: true gradients are zero all the way."""
    hidden = layers.Dense(1), relu(), layers.Dense(2)
    model = network_of(*hidden, image_shape=(4,))
    kernel = np.ones((4, 1), np.float32)
    model.set_weights([kernel, np.float32([-1]), np.float32([[-1, 1]]), np.zeros(2)])
    images = np.full((20, 4), 0.2, np.float32)
    labels = np.zeros(20, int)
    attack = functools.partial(pgd, model, images, labels, 0.15, random_start=False)
    with pytest.warns(UserWarning, match="gradient of the loss is zero"):
        assert_array_equal(attack(steps=5), images)
    found = attack(steps=5, chords=True)
    assert_allclose(found, images + np.float32(0.15), atol=1e-6)
    assert (answers(model, found) == 1).all()


def test_chords_change_nothing_without_relus(model, images, labels):
    attack = functools.partial(pgd, model, images, labels, 0.1, steps=3, rng=0)
    assert_array_equal(attack(chords=True), attack())


def test_slopes_of_chords_are_what_a_relu_gains():
    """Of an affine input: u / (u - l), 0 where it is dead and 1 where it is alive."""
    model = network_of(layers.Dense(3), layers.ReLU(), image_shape=(1,))
    model.set_weights([np.float32([[1, 2, 1]]), np.float32([-5, -0.5, 5])])

    class Network(NamedTuple):
        output: Callable

    @tf.function
    def slopes():
        return chord_slopes(Network(model), tf.constant([[0.0]]), tf.constant([[1.0]]))

    assert_allclose(slopes()[0], [[0, 1.5 / 2, 1]], atol=1e-6)
