import functools
import gc
import inspect
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import (
    answers,
    art_classifier,
    build_classifier,
    gradients,
    network_of,
    no_warning,
    saturate,
    two_inputs,
    two_outputs,
    under_policy,
)
from keras import layers, losses, ops
from numpy.testing import assert_allclose, assert_array_equal

from pyimagesearch.attacks import projected_gradient_descent as pgd
from pyimagesearch.attacks import square_attack
from pyimagesearch.core.compiled import predict_logits
from pyimagesearch.core.gradients import DivergedError
from pyimagesearch.datagen import generate_mixed_adversarial_batch
from pyimagesearch.fgsm import generate_image_adversary as fgsm

DIMS = (6, 6, 1)
EPS = np.float32(0.1)
BOTH_NORMS = pytest.mark.parametrize("norm", [np.inf, 2])


def per_image_loop(model, images, targets, *loss):
    return images + EPS * np.sign(gradients(model, images, targets, *loss))


def assert_follows(model, images, targets):
    adversaries = fgsm(model, images, targets, 0.1)
    assert_array_equal(adversaries, per_image_loop(model, images, targets))


# What the tutorials rely on.


def test_signature_of_the_tutorial():
    parameters = list(inspect.signature(fgsm).parameters.values())
    assert [p.name for p in parameters[:4]] == ["model", "image", "label", "eps"]
    assert parameters[3].default == 2 / 255.0
    assert all(p.kind is p.KEYWORD_ONLY for p in parameters[4:])


def test_single_image_as_the_tutorial_calls_it(model, images, labels, one_hot):
    expected = per_image_loop(model, images[:1], one_hot[:1])
    ids = labels[0], labels[:1], int(labels[0])
    for label in (one_hot[0], one_hot[:1], list(one_hot[0]), *ids):
        adversary = fgsm(model, images[:1], label, eps=0.1)
        assert isinstance(adversary, np.ndarray)
        assert (adversary.shape, adversary.dtype) == ((1, *DIMS), np.float32)
        assert_array_equal(adversary, expected)


@pytest.mark.parametrize("dims", [(6, 6, 1), (6, 6, 3), (128, 128, 1)])
def test_batch_equals_the_per_image_loop(dims):
    """Of 128 x 128 pixels there are 24 images in a chunk."""
    images = np.random.default_rng(3).random((30, *dims), dtype=np.float32)
    one_hot = np.eye(3, dtype=np.float32)[np.arange(30) % 3]
    assert_follows(build_classifier(dims), images, one_hot)


def test_small_gradients_do_not_vanish_in_a_large_batch():
    """Averaged over 10,000 images, this gradient is below float32's smallest."""
    model = network_of(layers.Flatten(), image_shape=(2, 2, 1))
    images = np.full((10_000, 2, 2, 1), 1e-42, np.float32)

    def scaled(targets, outputs):
        return tf.reduce_sum(outputs - targets, axis=-1) * 1e-37

    for loss, count in [(scaled, 10_000), (lambda *a: tf.reduce_mean(scaled(*a)), 99)]:
        zeros = np.zeros((count, 4))
        assert_array_equal(fgsm(model, images[:count], zeros, 1.0, loss=loss), 1.0)


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float64, np.float16, bool])
def test_other_dtypes_are_cast_and_left_unchanged(model, one_hot, dtype):
    images = np.random.default_rng(3).integers(2, size=(20, *DIMS)).astype(dtype)
    copy = images.copy()
    adversaries = fgsm(model, images, one_hot, 0.1)
    assert adversaries.dtype == np.float32
    assert_array_equal(images, copy)
    expected = per_image_loop(model, images.astype(np.float32), one_hot)
    assert_array_equal(adversaries, expected)


@pytest.mark.parametrize(("norm", "eps"), [(np.inf, 0.3), (2, 3.0)])
def test_clip_and_targeted(model, images, one_hot, norm, eps):
    attack = functools.partial(fgsm, model, images, one_hot, eps, norm=norm)
    free = attack()
    assert free.min() < 0 and free.max() > 1
    assert_array_equal(attack(clip=(0, 1)), np.clip(free, 0, 1))
    assert_allclose(attack(targeted=True) - images, images - free, atol=1e-6)


@pytest.mark.parametrize(
    "loss",
    [
        losses.CategoricalCrossentropy(from_logits=True),
        losses.SparseCategoricalCrossentropy(from_logits=True),
        functools.partial(losses.sparse_categorical_crossentropy, from_logits=True),
    ],
)
def test_logits_and_every_label_format(loss, images, labels, one_hot):
    model = build_classifier(activation=None)
    dense = functools.partial(losses.categorical_crossentropy, from_logits=True)
    expected = per_image_loop(model, images, one_hot, dense)
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


def test_models_that_are_not_built_yet(images, one_hot):
    deferred = keras.Sequential([layers.Flatten(), layers.Dense(3, "softmax")])
    assert_follows(deferred, images, one_hot)
    model = Subclassed()
    adversaries = fgsm(model, images, one_hot, 0.1)

    def classes(images, training):
        return model(images, training=training)["classes"]

    assert_array_equal(adversaries, per_image_loop(classes, images, one_hot))


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16", "float64"])
def test_other_dtype_policies(policy, images, one_hot):
    model = under_policy(policy, build_classifier)
    adversaries = fgsm(model, images, one_hot, 0.1)
    assert adversaries.dtype == np.float32
    moved = np.abs(adversaries - images)
    assert_allclose(moved[moved > 0], 0.1, atol=1e-6)
    assert (moved > 0).mean() > 0.9


# Both norms.


@BOTH_NORMS
def test_agrees_with_the_adversarial_robustness_toolbox(model, images, one_hot, norm):
    from art.attacks.evasion import FastGradientMethod

    classifier = art_classifier(model, losses.MeanSquaredError())
    theirs = FastGradientMethod(classifier, norm=norm, eps=0.3)
    ours = fgsm(model, images, one_hot, 0.3, clip=(0.0, 1.0), norm=norm)
    assert_allclose(ours, theirs.generate(images, one_hot), atol=1e-6)


@pytest.mark.parametrize("scale", [1e-30, 1e18])
def test_norm_2_of_gradients_whose_squares_leave_float32(model, images, one_hot, scale):
    def scaled(targets, outputs):
        return scale * losses.mean_squared_error(targets, outputs)

    attack = functools.partial(fgsm, model, images, one_hot, 0.5, norm=2)
    assert_allclose(attack(loss=scaled), attack(), atol=1e-5)


# Gradients of no use.


@pytest.mark.filterwarnings("ignore:.*received `from_logits=True`")
@pytest.mark.parametrize(
    ("activation", "loss"),
    [
        ("softmax", "mse"),
        ("sigmoid", "mse"),
        ("softmax", "categorical_crossentropy"),
        (None, "categorical_crossentropy"),
        ("softmax", losses.CategoricalCrossentropy(from_logits=True)),
        (None, "categorical_hinge"),
    ],
)
def test_zero_gradients_are_counted_and_the_loss_that_works_is_named(
    activation, loss, images
):
    model = saturate(build_classifier(activation=activation))
    labels = answers(model, images)
    one_hot = np.eye(3, dtype=np.float32)[labels]
    found = gradients(model, images, one_hot, losses.get(loss))
    still = (found == 0).all(axis=(1, 2, 3)).sum()
    assert still > 0
    with pytest.warns(UserWarning, match=f"{still} of 20 .*'cross_entropy'") as seen:
        fgsm(model, images, labels, 0.1, loss=loss)
    # In one line that speaks of the user's own.
    (warning,) = [w for w in seen if "of 20" in str(w.message)]
    assert warning.filename == __file__
    assert len(str(warning.message)) <= 300 and "\n" not in str(warning.message)
    with no_warning():
        moved = fgsm(model, images, labels, 0.1, loss="cross_entropy")
    assert (moved != images).mean() > 0.9


@pytest.mark.parametrize(
    ("dtype", "policy"), [(np.uint8, "float32"), (np.float32, "mixed_float16")]
)
def test_zero_gradients_in_other_dtypes(policy, dtype):
    model = saturate(under_policy(policy, build_classifier))
    images = np.random.default_rng(0).integers(16, size=(20, *DIMS)).astype(dtype)
    labels = answers(model, images.astype(np.float32))
    with pytest.warns(UserWarning, match="of 20 .*cross_entropy"):
        fgsm(model, images, labels, 8)


@pytest.mark.parametrize("function", [ops.stop_gradient, ops.round])
@pytest.mark.parametrize("attack", [fgsm, functools.partial(pgd, steps=2, restarts=3)])
def test_networks_that_stop_gradients_need_another_attack(function, attack, images):
    model = network_of(layers.Lambda(function), build_classifier())
    labels = answers(model, images)
    with pytest.warns(UserWarning, match=r"(\d+) of \1 .*square_attack") as seen:
        attack(model, images, labels, 0.5)
    assert len(seen) == 1
    found = square_attack(model, images, labels, 0.5, queries=50, rng=0)
    assert (answers(model, found) != labels).any()


def test_zero_gradients_are_warned_of_from_one_percent_on():
    hidden = layers.Flatten(), layers.ReLU(), layers.Dense(2)
    model = network_of(*hidden, image_shape=(2, 2, 1))
    images = np.ones((200, 2, 2, 1))
    images[:2] = -1  # no gradient there
    with pytest.warns(UserWarning, match="2 of 200"):
        fgsm(model, images, np.zeros(200, int), 0.1)
    with no_warning():
        fgsm(model, images[1:], np.zeros(199, int), 0.1)
        fgsm(model, images, np.zeros(200, int), eps=0)


def srgb(linear):
    """Return sRGB's values, and NaN for the slope at 0."""
    curve = 1.055 * ops.power(linear, 1 / 2.4) - 0.055
    return ops.where(linear <= 0.003, 12.9 * linear, curve)


@BOTH_NORMS
def test_nan_in_a_gradient_counts_as_zero(norm, images, one_hot):
    images[:5, 1:4] = 0
    model = network_of(layers.Lambda(srgb), build_classifier())
    found = np.nan_to_num(gradients(model, images, one_hot))
    if norm == 2:
        expected = found / np.sqrt((found**2).sum(axis=(1, 2, 3), keepdims=True))
    else:
        expected = np.sign(found)
    with pytest.warns(UserWarning, match="NaN .*5 of 20") as seen:
        adversaries = fgsm(model, images, one_hot, 0.1, norm=norm)
    assert len(seen) == 1 and model.name in str(seen[0].message)
    assert_allclose(adversaries, images + 0.1 * expected, atol=1e-6)
    with pytest.warns(UserWarning, match=r"NaN .*\d+ of 20"):
        found = pgd(model, images, one_hot, 0.1, norm=norm)
    assert np.isfinite(found).all()


@BOTH_NORMS
def test_infinite_gradients_get_all_of_the_step(norm, images, labels):
    """The square root's slope at 0 is infinite."""
    images[:5, :2] = 0
    model = network_of(layers.Lambda(tf.math.sqrt), build_classifier())
    how = {"loss": "cross_entropy", "norm": norm}
    changes = fgsm(model, images, labels, 0.5, **how) - images
    lengths = np.linalg.norm(changes.reshape(20, -1), norm, axis=1)
    assert_allclose(lengths, 0.5, rtol=1e-5)  # nor is anything NaN
    if norm == 2:  # where others are infinite, finite gradients are nothing
        assert_allclose(changes[:5, 2:], 0, atol=1e-6)
    found = pgd(model, images, labels, 0.5, steps=2, clip=(0, 1), **how)
    assert np.isfinite(found).all()


@pytest.mark.parametrize(
    ("attack", "value"),
    [(fgsm, np.nan), (fgsm, 1e38), (pgd, np.nan), (square_attack, np.nan)],
)
def test_a_model_that_returns_no_numbers_is_named(attack, value, images, labels):
    model = build_classifier(activation=None)
    kernel, bias = model.layers[-1].get_weights()
    model.layers[-1].set_weights([np.full_like(kernel, value), bias])
    model.name = "walker"
    with pytest.raises(DivergedError, match=r"'walker' .*of 20 .*diverged") as raised:
        attack(model, images, labels, 0.1)
    assert isinstance(raised.value, ValueError) and len(str(raised.value)) <= 300


# Probabilities or logits.


@pytest.mark.filterwarnings("ignore:no logits")
@pytest.mark.parametrize(
    ("activation", "classes", "loss"),
    [
        ("sigmoid", 1, losses.binary_crossentropy),
        ("softmax", 3, losses.categorical_crossentropy),
    ],
)
def test_probabilities_without_logits_behind_them(images, activation, classes, loss):
    """The average of two networks has none."""
    image = keras.Input(DIMS)
    members = [build_classifier(DIMS, classes, activation) for _ in range(2)]
    model = keras.Model(image, layers.Average()([member(image) for member in members]))
    targets = np.eye(2, classes, dtype=np.float32)[np.arange(20) % 2]
    with pytest.warns(UserWarning, match=f"no logits .*{model.name}") as seen:
        for _ in range(2):
            adversaries = fgsm(model, images, targets, 0.1, loss="cross_entropy")
    assert len(seen) == 1
    assert_array_equal(adversaries, per_image_loop(model, images, targets, loss))
    probabilities = model(images).numpy()
    if classes == 1:
        probabilities = np.concatenate([1 - probabilities, probabilities], axis=1)
    expected = np.diff(np.log(probabilities))
    assert_allclose(np.diff(predict_logits(model, images)), expected, atol=1e-4)


@pytest.mark.filterwarnings("ignore:no logits")
@pytest.mark.parametrize(
    ("compiled", "given", "are_logits"),
    [
        (None, None, False),  # they look like it
        (True, None, True),
        (False, None, False),
        (None, True, True),
        (False, True, True),
        (True, False, False),
    ],
)
def test_output_from_0_to_1_is_what_the_user_or_the_compiled_loss_says(
    images, compiled, given, are_logits
):
    model = network_of(layers.GlobalAveragePooling2D())
    if compiled is not None:
        model.compile("sgd", losses.BinaryCrossentropy(from_logits=compiled))
    means = images.mean(axis=(1, 2))
    expected = means if are_logits else np.log(means / (1 - means))
    found = np.diff(predict_logits(model, images, from_logits=given))
    assert_allclose(found, expected, atol=1e-5)


# Compiled once, and never stale.


class Gain(layers.Layer):
    gain = 1.0

    def call(self, images):
        return images * self.gain


@pytest.mark.parametrize(
    ("layer", "attribute", "value", "nested"),
    [
        (0, "gain", -2.0, False),
        (1, "scale", -2.0, False),
        (3, "activation", keras.activations.softmax, True),
    ],
)
def test_follows_the_model_after_compile(
    layer, attribute, value, nested, images, one_hot
):
    hidden = [Gain(), layers.Rescaling(1.0), layers.Flatten()]
    hidden += [layers.Dense(8, "sigmoid"), layers.Dense(3, "softmax")]
    model = inner = network_of(*hidden)
    if nested:
        model = network_of(inner)
    model.compile("sgd", "mse")
    assert_follows(model, images, one_hot)
    before = fgsm(model, images, one_hot, 0.1)
    setattr(inner.layers[layer], attribute, value)
    model.compile("sgd", "mse")
    assert_follows(model, images, one_hot)
    assert (fgsm(model, images, one_hot, 0.1) != before).any()


@pytest.mark.parametrize("nested", [False, True])
def test_follows_weights_and_exchanged_layers_at_once(nested, images, one_hot):
    model = inner = build_classifier()
    if nested:
        model = network_of(inner, layers.Softmax())
    assert_follows(model, images, one_hot)
    model.set_weights([-2 * weight for weight in model.get_weights()])
    assert_follows(model, images, one_hot)
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


def reading_a_global(weight):
    """As in a loop at a script's top level, or in a notebook's cell that runs again."""
    global WEIGHT
    WEIGHT = weight
    return lambda targets, outputs: WEIGHT * distance(targets, outputs)


@pytest.mark.parametrize(
    "make",
    [
        losses.SparseCategoricalCrossentropy,
        lambda: losses.CategoricalCrossentropy(label_smoothing=0.1),
        lambda: "mse",
        bound,
    ],
)
def test_equal_losses_are_compiled_once_for_all_batch_sizes(make, images, labels):
    traced = []

    def count_traces(images):
        if not tf.executing_eagerly():
            traced.append(images.shape)
        return images

    model = network_of(layers.Lambda(count_traces), build_classifier())
    fgsm(model, images, labels, 0.1, loss=make())
    once = len(traced)
    for count in (1, 7, 20, 3):
        rows, eps = slice(count), 0.1 * count
        fgsm(model, images[rows], labels[rows], eps, loss=make())
    assert len(traced) == once > 0


@pytest.mark.parametrize("make", [closure, reading_a_global, bound])
def test_losses_that_differ_in_a_setting_are_told_apart(make, model, images, one_hot):
    up, down = (
        fgsm(model, images, one_hot, 0.1, loss=make(weight)) for weight in (1.0, -1.0)
    )
    assert_allclose(up - images, images - down, atol=1e-6)
    assert (up != down).mean() > 0.9


def test_losses_of_keras_that_differ_in_a_setting(model, images, one_hot):
    for gamma in (0.01, 9.0):
        loss = losses.CategoricalFocalCrossentropy(gamma=gamma)
        expected = per_image_loop(model, images, one_hot, loss)
        assert_array_equal(fgsm(model, images, one_hot, 0.1, loss=loss), expected)


@pytest.mark.slow
def test_cache_has_a_limit(model, images, labels):
    alive = weakref.WeakSet()
    with pytest.warns(UserWarning, match="again and again: make loss= once"):
        for weight in range(50):
            loss = closure(weight + 1.0)
            alive.add(loss)
            fgsm(model, images[:1], labels[:1], 0.1, loss=loss)
    gc.collect()
    assert len(alive) < 40


def test_many_models_raise_no_retracing_warnings(images, one_hot, caplog):
    for _ in range(6):
        fgsm(build_classifier(), images, one_hot, 0.1)
    assert "retracing" not in caplog.text


def draw_a_batch(model, images, labels, eps):
    next(generate_mixed_adversarial_batch(model, 8, images, labels, DIMS, eps))


@pytest.mark.parametrize("attack", [fgsm, pgd, square_attack, draw_a_batch])
def test_model_can_be_freed(attack, images, labels):
    model = build_classifier()
    attack(model, images, labels, 0.1)
    reference = weakref.ref(model)
    del model
    gc.collect()
    assert reference() is None


# What the model is asked, and what errors say.


class AtMostOne(layers.Layer):
    def call(self, images):
        tf.debugging.assert_less_equal(tf.reduce_max(images), 1.0)
        return images


@pytest.mark.parametrize(
    "attack", [functools.partial(fgsm, loss="cross_entropy"), pgd, square_attack]
)
def test_model_is_asked_nothing_but_the_users_own_images(attack, images, labels):
    model = network_of(AtMostOne(), build_classifier())
    adversaries = attack(model, images, labels, 0.2, clip=(0, 1))
    assert (adversaries != images).any()


@pytest.mark.parametrize("attack", [pgd, square_attack])
def test_model_that_checks_its_images_needs_clip(attack, images, labels):
    model = network_of(AtMostOne(), build_classifier())
    with pytest.raises(ValueError, match=r"model .*clip=") as raised:
        attack(model, images, labels, 1.0)
    assert len(str(raised.value)) <= 300


@pytest.mark.parametrize("attack", [fgsm, pgd])
def test_operation_without_a_gradient(attack, images, labels):
    shrink = layers.Resizing(3, 3, interpolation="area")
    model = network_of(shrink, layers.Flatten(), layers.Dense(3))
    with pytest.raises(ValueError, match=r"model .*gradient.*ResizeArea") as raised:
        attack(model, images, labels, 0.1)
    assert len(str(raised.value)) <= 300


def failing():
    def fail(images):
        raise RuntimeError("no " * 1000)

    return keras.Sequential([layers.Lambda(fail, output_shape=(3,))])


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"model": two_inputs()}, ValueError, "model must take"),
        ({"model": two_outputs()}, ValueError, "model must have one output"),
        ({"model": failing()}, ValueError, "model .*no no"),
        ({"model": build_classifier((7, 7, 1))}, ValueError, r"\(6, 6, 1\)"),
        ({"image": np.zeros(DIMS), "label": 0}, ValueError, "image.*batch axis"),
        ({"image": np.full((20, *DIMS), 1e39)}, ValueError, "image .*infinity"),
        ({"label": np.zeros((20, 4))}, ValueError, r"label .*\(20, 3\).*\(20, 4\)"),
        ({"label": np.full(20, 3)}, ValueError, "label .*0 to 2.*3"),
        ({"label": np.full(20, -1)}, ValueError, "label .*0 to 2.*-1"),
        ({"label": np.full(20, 0.5)}, ValueError, "label .*0.5"),
        ({"eps": -0.1}, ValueError, "eps .*-0.1"),
        ({"eps": "0.1"}, TypeError, "eps .*'0.1'"),
        ({"loss": "no such loss"}, ValueError, "loss.*no such loss"),
        ({"clip": (1, 0)}, ValueError, "clip.*1, 0"),
        ({"clip": (0, 0.5)}, ValueError, "image .*clip, 0 to 0.5"),
        ({"norm": 1}, ValueError, "norm .*1"),
    ],
)
def test_wrong_arguments_are_named(model, images, one_hot, changed, error, message):
    arguments = {"model": model, "image": images, "label": one_hot, "eps": 0.1}
    with pytest.raises(error, match=message) as raised:
        fgsm(**(arguments | changed))
    assert len(str(raised.value)) <= 300 and "\n" not in str(raised.value)


@pytest.mark.parametrize("attack", [fgsm, pgd, square_attack])
def test_images_outside_clip_by_no_more_than_rounding(attack, model, labels):
    images = np.full((20, *DIMS), 1 + 1e-6, np.float32)
    assert attack(model, images, labels, 0.1, clip=(0, 1)).max() <= 1
    with pytest.raises(ValueError, match=r"clip, 0 to 1, .*1\.01"):
        attack(model, images + 0.01, labels, 0.1, clip=(0, 1))
