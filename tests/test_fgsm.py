import functools
import gc
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import (
    answers,
    as_shown,
    build_classifier,
    gradients,
    network_of,
    no_warning,
)
from keras import layers, losses, ops
from numpy.testing import assert_allclose, assert_array_equal

from pyimagesearch.attacks import projected_gradient_descent as pgd
from pyimagesearch.attacks import square_attack
from pyimagesearch.core import compiled
from pyimagesearch.datagen import generate_adversarial_batch
from pyimagesearch.fgsm import generate_image_adversary as fgsm

DIMS = (6, 6, 1)
EPS = np.float32(0.1)
BOTH_NORMS = pytest.mark.parametrize("norm", [np.inf, 2])


def per_image_loop(model, images, targets, *loss):
    return images + EPS * np.sign(gradients(model, images, targets, *loss))


def assert_follows(model, images, targets):
    adversaries = fgsm(model, images[:5], targets[:5], 0.1)
    assert_array_equal(adversaries, per_image_loop(model, images[:5], targets[:5]))


def test_single_image_as_the_tutorial_calls_it(model, images, labels, one_hot):
    expected = per_image_loop(model, images[:1], one_hot[:1])
    for label in (one_hot[0], one_hot[:1], list(one_hot[0]), labels[:1], labels[0]):
        adversary = fgsm(model, images[:1], label, eps=0.1)
        assert isinstance(adversary, np.ndarray)
        assert adversary.dtype == np.float32
        assert_array_equal(adversary, expected)


@pytest.mark.parametrize("dims", [(6, 6, 3), (128, 128, 1)])
def test_batch_equals_the_per_image_loop(dims):
    """Of 128 x 128 pixels there are 24 images in a chunk."""
    model = build_classifier(dims)
    images = np.random.default_rng(3).random((30, *dims), dtype=np.float32)
    one_hot = np.eye(3, dtype=np.float32)[np.arange(30) % 3]
    adversaries = fgsm(model, images, one_hot, 0.1)
    assert_array_equal(adversaries, per_image_loop(model, images, one_hot))


def an_image(targets, outputs):
    return 1e-37 * tf.reduce_sum(outputs - targets, axis=-1)


def a_batch(targets, outputs):
    return tf.reduce_mean(an_image(targets, outputs))


def an_element(targets, outputs):
    return 1e-37 * (outputs - targets)


@pytest.mark.parametrize("loss", [an_image, a_batch, an_element])
def test_small_gradients_do_not_vanish_by_averages(loss):
    """Averaged over the images, these are below float32's smallest."""
    model = network_of(layers.Flatten(), image_shape=(1, 1, 1))
    images = np.full((99, 1, 1, 1), 1e-42, np.float32)
    assert_array_equal(fgsm(model, images, np.zeros((99, 1)), 1.0, loss=loss), 1.0)


BFLOAT16 = tf.bfloat16.as_numpy_dtype


@pytest.mark.parametrize("dtype", [np.uint8, np.float64, np.float16, BFLOAT16, bool])
def test_other_dtypes_are_cast_and_left_unchanged(dtype, model, one_hot):
    values = np.random.default_rng(3).integers(2, size=(20, *DIMS))
    images = values.astype(dtype)
    adversaries = fgsm(model, images, one_hot.astype(dtype), 0.1)
    assert adversaries.dtype == np.float32
    expected = per_image_loop(model, values.astype(np.float32), one_hot)
    assert_array_equal(adversaries, expected)
    assert_array_equal(images, values)


@pytest.mark.parametrize(("norm", "eps"), [(np.inf, 0.3), (2, 3.0)])
def test_clip_and_targeted(model, images, one_hot, norm, eps):
    attack = functools.partial(fgsm, model, images, one_hot, eps, norm=norm)
    free = attack()
    assert free.min() < 0 and free.max() > 1
    assert_array_equal(attack(clip=(0, 1)), np.clip(free, 0, 1))
    assert_allclose(attack(targeted=True) - images, images - free, atol=1e-6)


def test_logits_and_every_label_format(images, labels, one_hot):
    model = build_classifier(activation=None)
    dense = losses.CategoricalCrossentropy(from_logits=True)
    expected = per_image_loop(model, images, one_hot, dense)
    for loss in (
        dense,
        losses.SparseCategoricalCrossentropy(from_logits=True),
        functools.partial(losses.sparse_categorical_crossentropy, from_logits=True),
    ):
        for given in (one_hot, labels, labels[:, np.newaxis]):
            assert_array_equal(fgsm(model, images, given, 0.1, loss=loss), expected)


@pytest.mark.parametrize(
    ("activation", "loss"), [("sigmoid", "binary_crossentropy"), (None, "huber")]
)
def test_sigmoid_and_regression_targets(images, activation, loss):
    model = build_classifier(classes=1, activation=activation)
    column = np.arange(20, dtype=np.float32)[:, np.newaxis] % 2
    expected = per_image_loop(model, images, column, losses.get(loss))
    for targets in (column, column[:, 0]):
        assert_array_equal(fgsm(model, images, targets, 0.1, loss=loss), expected)


def test_model_runs_in_inference_mode(images, one_hot):
    hidden = [layers.BatchNormalization(), layers.Flatten(), layers.Dropout(0.9)]
    model = network_of(*hidden, layers.Dense(3, "softmax"))
    before = model.get_weights()
    assert_follows(model, images, one_hot)
    for old, new in zip(before, model.get_weights(), strict=True):
        assert_array_equal(old, new)


class Subclassed(keras.Model):
    """Not built before its first call, and with an output by name."""

    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(3, activation="softmax")

    def call(self, images, training):
        return {"classes": self.dense(ops.reshape(images, (-1, 36)))}


def test_a_model_that_is_not_built_yet(images, one_hot):
    model = Subclassed()
    adversaries = fgsm(model, images, one_hot, 0.1)

    def classes(images, training):
        return model(images, training=training)["classes"]

    assert_array_equal(adversaries, per_image_loop(classes, images, one_hot))


@pytest.mark.parametrize("attack", [fgsm, pgd, square_attack])
def test_eps_of_each_row_of_pixels(attack, model, images):
    eps = np.linspace(0, 0.2, 6)[:, np.newaxis, np.newaxis]
    changes = np.abs(attack(model, images, answers(model, images), eps) - images)
    assert (changes <= eps + 1e-6).all()
    assert_allclose(changes.max(axis=(0, 2, 3)), eps[:, 0, 0], atol=1e-6)


@pytest.mark.parametrize("scale", [1e-30, 1e18])
def test_norm_2_of_gradients_whose_squares_leave_float32(model, images, one_hot, scale):
    def scaled(targets, outputs):
        return scale * losses.mean_squared_error(targets, outputs)

    attack = functools.partial(fgsm, model, images, one_hot, 0.5, norm=2)
    assert_allclose(attack(loss=scaled), attack(), atol=1e-5)


# Gradients of no use.


def draw_a_batch(model, images, labels, eps):
    next(generate_adversarial_batch(model, 8, images, labels, DIMS, eps))


@pytest.mark.parametrize(
    "attack", [fgsm, functools.partial(pgd, steps=2, restarts=3), draw_a_batch]
)
def test_stopped_gradients_are_told_once_at_the_users_line(attack, images, labels):
    model = network_of(layers.Lambda(ops.round), build_classifier())
    with as_shown() as seen:
        for _ in range(3):
            attack(model, images, labels, 0.5)
    (warning,) = seen
    text = str(warning.message)
    assert "loss='cross_entropy'" in text and "square_attack" in text
    assert len(text) <= 300 and "\n" not in text
    assert warning.filename == __file__


def test_zero_gradients_are_warned_of_from_one_percent_on():
    hidden = layers.Flatten(), layers.ReLU(), layers.Dense(2)
    model = network_of(*hidden, image_shape=(2, 2, 1))
    images = np.ones((200, 2, 2, 1))
    images[:2] = -1  # no gradient there
    with pytest.warns(UserWarning, match="zero for 1%"):
        fgsm(model, images, np.zeros(200, int), 0.1)
    with no_warning():
        fgsm(model, images[1:], np.zeros(199, int), 0.1)
        fgsm(model, images, np.zeros(200, int), eps=0)
        pgd(model, images, np.zeros(200, int), eps=0)


def root(images):
    """Return a root whose slope at 0 is NaN: infinite, times zero."""
    return ops.where(images > 0, ops.power(images, 0.4), 0)


@BOTH_NORMS
def test_nan_in_a_gradient_counts_as_zero(norm, images, one_hot):
    images[:5, 1:4] = 0
    model = network_of(layers.Lambda(root), build_classifier())
    found = np.nan_to_num(gradients(model, images, one_hot))
    expected = np.sign(found)
    if norm == 2:
        expected = found / np.sqrt((found**2).sum(axis=(1, 2, 3), keepdims=True))
    with pytest.warns(UserWarning, match="NaN for some images"):
        adversaries = fgsm(model, images, one_hot, 0.1, norm=norm)
    assert_allclose(adversaries, images + 0.1 * expected, atol=1e-6)


@BOTH_NORMS
def test_infinite_gradients_get_all_of_the_step(norm, images, labels):
    """The square root's slope at 0 is infinite."""
    images[:5, :2] = 0
    model = network_of(layers.Lambda(tf.math.sqrt), build_classifier())
    adversaries = fgsm(model, images, labels, 0.5, loss="cross_entropy", norm=norm)
    changes = adversaries - images
    lengths = np.linalg.norm(changes.reshape(20, -1), norm, axis=1)
    assert_allclose(lengths, 0.5, rtol=1e-5)  # nor is anything NaN


# Probabilities or logits.


def test_probabilities_without_logits_behind_them(images, one_hot):
    """The average of two networks has none."""
    image = keras.Input(DIMS)
    members = [build_classifier() for _ in range(2)]
    model = keras.Model(image, layers.Average()([member(image) for member in members]))
    with pytest.warns(UserWarning, match="no logits behind .*better than it is"):
        adversaries = fgsm(model, images, one_hot, 0.1, loss="cross_entropy")
    expected = per_image_loop(model, images, one_hot, losses.categorical_crossentropy)
    assert_array_equal(adversaries, expected)


@pytest.mark.filterwarnings("ignore:there are no logits")
@pytest.mark.parametrize(("from_logits", "threshold"), [(True, 0), (False, 0.5)])
def test_a_single_score_is_what_the_compiled_loss_says(images, from_logits, threshold):
    """Square leaves alone what is not of class 1."""
    model = network_of(layers.GlobalAveragePooling2D())
    model.compile("sgd", losses.BinaryCrossentropy(from_logits=from_logits))
    found = square_attack(model, images, np.ones(20), 0.1, queries=1)
    is_attacked = (found != images).any(axis=(1, 2, 3))
    assert_array_equal(is_attacked, images.mean(axis=(1, 2, 3)) > threshold)


@pytest.mark.parametrize("loss", [None, "mse", losses.Huber()])
def test_a_single_score_that_nothing_tells_about(images, loss):
    """It is not judged, but either way its gradient points in one direction."""
    model = network_of(layers.GlobalAveragePooling2D())
    model.compile("sgd", loss)
    with pytest.raises(ValueError, match=r"model .*single score.*from_logits="):
        square_attack(model, images, np.zeros(20))
    with no_warning():
        adversaries = fgsm(model, images, np.zeros(20), EPS, loss="cross_entropy")
    assert_array_equal(adversaries, images + EPS)


# Compiled once, and never stale.


def test_follows_a_layers_own_attributes_after_compile(images, one_hot):
    scaling = layers.Rescaling(1.0)
    model = network_of(scaling, build_classifier())
    before = fgsm(model, images, one_hot, 0.1)
    scaling.scale = -2.0
    model.compile("sgd", "mse")
    assert_follows(model, images, one_hot)
    assert (fgsm(model, images, one_hot, 0.1) != before).any()


@pytest.mark.parametrize("nested", [False, True])
def test_follows_weights_activations_and_layers_at_once(nested, images, one_hot):
    model = inner = build_classifier()
    if nested:
        model = network_of(inner, layers.Softmax())
    assert_follows(model, images, one_hot)
    model.set_weights([-2 * weight for weight in model.get_weights()])
    assert_follows(model, images, one_hot)
    before = fgsm(model, images, one_hot, 0.1)
    inner.layers[-1].activation = keras.activations.softplus
    assert_follows(model, images, one_hot)
    assert (fgsm(model, images, one_hot, 0.1) != before).any()
    inner.pop()
    inner.add(layers.Dense(3, activation="softmax"))
    assert_follows(model, images, one_hot)


def distance(targets, outputs):
    return tf.reduce_sum((targets - outputs) ** 2, axis=-1)


def weighted(targets, outputs, weight):
    return weight * distance(targets, outputs)


def bound(weight=2.0):
    return functools.partial(weighted, weight=weight)


def closure(weight):
    return lambda targets, outputs: weight * distance(targets, outputs)


def of_keras(weight=2.0):
    return losses.CategoricalFocalCrossentropy(alpha=weight)


def pgd_of_other_settings(model, images, labels, eps, loss):
    n = len(images)
    pgd(model, images, labels, eps, steps=n, step_size=eps / n, clip=(0, n), loss=loss)


@pytest.mark.parametrize("make", [bound, of_keras])
@pytest.mark.parametrize("attack", [fgsm, pgd_of_other_settings])
def test_equal_losses_are_compiled_once_for_all_batch_sizes(
    attack, make, images, labels
):
    traced = []

    def count_traces(images):
        if not tf.executing_eagerly():
            traced.append(images.shape)
        return images

    model = network_of(layers.Lambda(count_traces), build_classifier())
    attack(model, images, labels, 0.1, loss=make())
    once = len(traced)
    for count in (1, 7, 20):
        attack(model, images[:count], labels[:count], 0.1 * count, loss=make())
    assert len(traced) == once > 0


def bound_to_a_list(weight):
    return bound([weight])


@pytest.mark.parametrize("make", [closure, bound, bound_to_a_list, of_keras])
def test_losses_that_differ_in_a_setting_are_told_apart(make, model, images, one_hot):
    up = fgsm(model, images, one_hot, 0.1, loss=make(1.0))
    down = fgsm(model, images, one_hot, 0.1, loss=make(-1.0))
    assert_allclose(up - images, images - down, atol=1e-6)
    assert (up != down).mean() > 0.9


def test_cache_has_a_limit(model, images, labels, monkeypatch):
    monkeypatch.setattr(compiled, "_MOST_FUNCTIONS", 3)
    alive = weakref.WeakSet()
    with pytest.warns(UserWarning, match="again and again: make loss= once"):
        for weight in range(6):
            loss = closure(weight + 1.0)
            alive.add(loss)
            fgsm(model, images[:1], labels[:1], 0.1, loss=loss)
    gc.collect()
    assert len(alive) <= 4


class Trainer:
    def __init__(self, model):
        self.model = model

    def loss(self, targets, outputs):
        return distance(targets, outputs) * len(self.model.layers)


def by_a_method(model, *arguments):
    fgsm(model, *arguments, loss=Trainer(model).loss)


def by_a_partial(model, *arguments):
    fgsm(model, *arguments, loss=functools.partial(Trainer.loss, Trainer(model)))


def by_a_closure(model, *arguments):
    fgsm(model, *arguments, loss=lambda *pair: Trainer(model).loss(*pair))


@pytest.mark.parametrize(
    "attack", [fgsm, pgd, square_attack, by_a_method, by_a_partial, by_a_closure]
)
def test_model_can_be_freed_even_if_the_loss_holds_it(attack, images, labels):
    model = build_classifier()
    attack(model, images, labels, 0.1)
    reference = weakref.ref(model)
    del model
    gc.collect()
    assert reference() is None


def at_most_one(images):
    tf.debugging.assert_less_equal(tf.reduce_max(images), 1.0)
    return images


@pytest.mark.parametrize("attack", [pgd, square_attack])
def test_model_is_asked_for_valid_images_only_if_clip_says_so(attack, images, labels):
    model = network_of(layers.Lambda(at_most_one), build_classifier())
    adversaries = attack(model, images, labels, 0.2, clip=(0, 1))
    assert (adversaries != images).any()
    with pytest.raises(ValueError, match=r"model .*clip="):
        attack(model, images, labels, 1.0)


@pytest.mark.parametrize("attack", [fgsm, pgd, square_attack])
def test_images_outside_clip_by_no_more_than_rounding(attack, model, labels):
    images = np.full((20, *DIMS), 1 + 1e-6, np.float32)
    assert attack(model, images, labels, 0.1, clip=(0, 1)).max() <= 1
    with pytest.raises(ValueError, match=r"clip, 0 to 1, .*1\.01"):
        attack(model, images + 0.01, labels, 0.1, clip=(0, 1))
