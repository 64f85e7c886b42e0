import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import (
    answers,
    build_classifier,
    gradients,
    network_of,
    no_warning,
    saturate,
)
from keras import layers, losses, ops
from numpy.testing import assert_allclose, assert_array_equal

from pyimagesearch.attacks import projected_gradient_descent as pgd
from pyimagesearch.attacks import shrinking_steps
from pyimagesearch.fgsm import generate_image_adversary as fgsm

DIMS = (6, 6, 1)
ON_LOGITS = pytest.mark.parametrize("loss", ["cross_entropy", "margin"])


def lengths_of(changes):
    return np.sqrt(np.sum(changes**2, axis=(1, 2, 3), keepdims=True))


@pytest.mark.parametrize(
    ("norm", "eps", "clip"),
    [(np.inf, 0.1, (0.0, 1.0)), (2, 0.5, (-9.0, 9.0)), (2, 5.0, (0.0, 1.0))],
)
def test_without_a_random_start_it_is_the_plain_loop(
    model, images, one_hot, norm, eps, clip
):
    sizes = eps * np.float32([0.8, 0.4, 0.2])
    attack = functools.partial(pgd, model, images, one_hot, eps, norm=norm, clip=clip)
    adversaries = attack(steps=3, step_size=sizes, random_start=False)
    expected = images
    for size in sizes:
        found = gradients(model, expected, one_hot, losses.categorical_crossentropy)
        if norm == 2:
            changes = expected + size * found / lengths_of(found) - images
            changes = changes * np.minimum(1, eps / lengths_of(changes))
        else:
            changes = np.clip(expected + size * np.sign(found) - images, -eps, eps)
        expected = np.clip(images + changes, *clip)
    assert adversaries.dtype == np.float32
    assert_allclose(adversaries, expected, atol=1e-5)


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


@pytest.mark.parametrize("targeted", [False, True])
def test_restarts_keep_what_fools_or_else_the_highest_loss(model, images, targeted):
    labels = (answers(model, images) + targeted) % 3  # all correct, or none

    def losses_and_fooled(adversaries):
        outputs = model(adversaries)
        loss = losses.sparse_categorical_crossentropy(labels, outputs).numpy()
        is_label = answers(model, adversaries) == labels
        return (-loss, is_label) if targeted else (loss, ~is_label)

    attack = functools.partial(
        pgd, model, images, labels, 0.06, steps=1, step_size=0.03, rng=5
    )
    once = attack(targeted=targeted)
    many = attack(targeted=targeted, restarts=30)
    loss_once, fooled_once = losses_and_fooled(once)
    loss_many, fooled_many = losses_and_fooled(many)
    assert 0 < fooled_once.sum() < fooled_many.sum() < 20
    assert_array_equal(many[fooled_once], once[fooled_once])
    gained = (loss_many - loss_once)[~fooled_many]
    assert gained.min() >= -1e-6
    assert gained.max() > 0


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


@pytest.mark.parametrize(
    ("outputs", "loss", "each_loss", "largest"),
    [
        (1, "cross_entropy", BINARY, 1),
        (1, "mse", losses.mean_squared_error, 1),
        (2, "mse", losses.mean_squared_error, 0.7),  # of a regression
        (2, BINARY, BINARY, 1),  # several labels, which happen to be one-hot
    ],
)
def test_restarts_without_classes_keep_the_highest_loss(
    images, outputs, loss, each_loss, largest
):
    model = build_classifier(classes=outputs, activation=None)
    targets = largest * np.eye(2, dtype=np.float32)[np.arange(20) % 2, :outputs]
    attack = functools.partial(
        pgd, model, images, targets, 0.1, steps=1, step_size=0.01, loss=loss, rng=2
    )
    once = each_loss(targets, model(attack()))
    many = each_loss(targets, model(attack(restarts=12)))
    gained = (many - once).numpy()
    assert gained.min() >= -1e-6
    assert (gained > 0).mean() > 0.7


def test_a_gradient_that_comes_back_after_the_start_is_not_warned_of():
    hidden = layers.Flatten(), layers.ReLU(), layers.Dense(2)
    model = network_of(*hidden, image_shape=(4, 4, 1))
    with no_warning():
        pgd(model, np.zeros((20, 4, 4, 1)), np.zeros(20, int), 0.1, rng=1)


@pytest.mark.parametrize(("eps", "norm"), [(0.5, np.inf), (3.0, 2)])
def test_targeted_reaches_its_label(model, images, eps, norm):
    goals = (answers(model, images) + 1) % 3
    found = pgd(model, images, goals, eps, loss="margin", targeted=True, norm=norm)
    assert (answers(model, found) == goals).all()


@pytest.mark.parametrize(
    "end",
    [
        lambda: layers.Activation("softmax"),
        lambda: layers.Lambda(lambda logits: tf.nn.softmax(logits)),
        lambda: keras.Sequential([layers.Softmax(), layers.Softmax()]),
        lambda: layers.Activation("linear"),
    ],
)
@ON_LOGITS
@pytest.mark.filterwarnings("error")
def test_confidence_does_not_blind_it(images, end, loss):
    inner = keras.Sequential([layers.Flatten(), layers.Dense(3), end()])
    model = network_of(inner)
    labels = answers(model, images)

    def count_fallen():
        adversaries = fgsm(model, images, labels, 0.2, loss=loss)
        return (answers(model, adversaries) != labels).sum()

    unsure = count_fallen()
    saturate(inner)  # float32 then rounds every answer's probability to 1.0
    assert 5 < unsure <= count_fallen()


def test_an_output_that_is_no_row_of_classes(images):
    model = network_of(layers.Conv2D(1, 1))
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


def test_shrinking_steps_go_from_twice_eps_to_a_hundredth_of_it():
    sizes = shrinking_steps(0.3, 5)
    assert_allclose(sizes[[0, -1]], [0.6, 0.003])
    ratios = sizes[1:] / sizes[:-1]
    assert_allclose(ratios, ratios[0])


@pytest.mark.parametrize(
    "relu",
    [lambda: layers.Activation("relu"), layers.ReLU, lambda: layers.Lambda(ops.relu)],
)
def test_every_other_step_goes_by_the_chords_of_relus(relu):
    """The slope is u / (u - l), also where a ReLU is dead at the image itself."""
    model = network_of(layers.Dense(3), relu(), layers.Dense(1), image_shape=(3,))
    biases = np.float32([-5, -0.5, 5])  # from which each may move by eps, 1
    model.set_weights([np.eye(3), biases, np.ones((3, 1)), np.zeros(1)])
    images = np.zeros((20, 3))
    attack = functools.partial(pgd, model, images, np.zeros(20), 1.0, norm=2)
    attack = functools.partial(attack, step_size=0.5, random_start=False)
    own = np.array([0, 0, 0.5])
    chord = np.array([0, 0.5 / 2, 1])
    chord *= 0.5 / np.linalg.norm(chord)
    assert_allclose(attack(steps=1), images + own, atol=1e-6)
    assert_allclose(attack(steps=1, chords=True), images + chord, atol=1e-6)
    assert_allclose(attack(steps=2, chords=True), images + chord + own, atol=1e-6)


def test_chords_change_nothing_without_relus(model, images, labels):
    attack = functools.partial(pgd, model, images, labels, 0.1, steps=3, rng=0)
    assert_array_equal(attack(chords=True), attack())
