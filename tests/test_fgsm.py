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
    as_shown,
    build_classifier,
    gradients,
    network_of,
    no_warning,
    saturate,
    two_outputs,
    under_policy,
)
from keras import layers, losses, ops
from numpy.testing import assert_allclose, assert_array_equal

from pyimagesearch.attacks import projected_gradient_descent as pgd
from pyimagesearch.attacks import square_attack
from pyimagesearch.core import compiled
from pyimagesearch.core.gradients import DivergedError, warn_of_gradients
from pyimagesearch.datagen import generate_mixed_adversarial_batch
from pyimagesearch.fgsm import generate_image_adversary as fgsm

DIMS = (6, 6, 1)
EPS = np.float32(0.1)
BOTH_NORMS = pytest.mark.parametrize("norm", [np.inf, 2])


def per_image_loop(model, images, targets, *loss):
    return images + EPS * np.sign(gradients(model, images, targets, *loss))


def logits_of(model, images, from_logits=None):
    predict, _ = compiled.compile_logits(model, images, from_logits)
    return predict(images)


def assert_follows(model, images, targets, count=5):
    images = images[:count]
    targets = targets[:count]
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
    assert_follows(build_classifier(dims), images, one_hot, count=30)


def test_small_gradients_do_not_vanish_in_a_large_batch():
    """Averaged over 10,000 images, this gradient is below float32's smallest."""
    model = network_of(layers.Flatten(), image_shape=(2, 2, 1))
    images = np.full((10_000, 2, 2, 1), 1e-42, np.float32)

    def scaled(targets, outputs):
        return tf.reduce_sum(outputs - targets, axis=-1) * 1e-37

    for loss, count in [(scaled, 10_000), (lambda *a: tf.reduce_mean(scaled(*a)), 99)]:
        zeros = np.zeros((count, 4))
        assert_array_equal(fgsm(model, images[:count], zeros, 1.0, loss=loss), 1.0)


def test_other_dtypes_are_cast_and_left_unchanged(model, one_hot):
    values = np.random.default_rng(3).integers(2, size=(20, *DIMS))
    expected = per_image_loop(model, values.astype(np.float32), one_hot)
    for dtype in (np.uint8, np.int64, np.float64, np.float16, bool):
        images = values.astype(dtype)
        adversaries = fgsm(model, images, one_hot, 0.1)
        assert adversaries.dtype == np.float32
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
    dense = functools.partial(losses.categorical_crossentropy, from_logits=True)
    sparse = losses.sparse_categorical_crossentropy
    expected = per_image_loop(model, images, one_hot, dense)
    for loss in (
        losses.CategoricalCrossentropy(from_logits=True),
        losses.SparseCategoricalCrossentropy(from_logits=True),
        functools.partial(sparse, from_logits=True),
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


@pytest.mark.parametrize("attack", [fgsm, pgd, square_attack])
def test_eps_of_each_row_of_pixels(attack, model, images):
    eps = np.linspace(0, 0.2, 6)[:, np.newaxis, np.newaxis]
    changes = np.abs(attack(model, images, answers(model, images), eps) - images)
    assert (changes <= eps + 1e-6).all()
    assert_allclose(changes.max(axis=(0, 2, 3)), eps[:, 0, 0], atol=1e-6)


# Both norms.


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
def test_zero_gradients_are_told_and_the_loss_that_works_is_named(
    activation, loss, images
):
    # Three images, since in larger batches softmax may round 1 to a little less.
    images = images[:3]
    model = saturate(build_classifier(activation=activation))
    labels = answers(model, images)
    one_hot = np.eye(3, dtype=np.float32)[labels]
    found = gradients(model, images, one_hot, losses.get(loss))
    assert (found == 0).all(axis=(1, 2, 3)).any()
    with as_shown() as seen:
        for _ in range(3):
            fgsm(model, images, labels, 0.1, loss=loss)
    # In one line that speaks of the user's own.
    (warning,) = [w for w in seen if "'cross_entropy'" in str(w.message)]
    assert "is zero for 1% of the images" in str(warning.message)
    assert warning.filename == __file__
    assert len(str(warning.message)) <= 300 and "\n" not in str(warning.message)
    with no_warning():
        moved = fgsm(model, images, labels, 0.1, loss="cross_entropy")
    assert (moved != images).mean() > 0.9


@pytest.mark.parametrize("function", [ops.stop_gradient, ops.round])
@pytest.mark.parametrize("attack", [fgsm, functools.partial(pgd, steps=2, restarts=3)])
def test_networks_that_stop_gradients_need_another_attack(function, attack, images):
    model = network_of(layers.Lambda(function), build_classifier())
    labels = answers(model, images)
    with as_shown() as seen:
        attack(model, images, labels, 0.5)
    (warning,) = seen  # however many restarts
    assert "square_attack needs no gradient" in str(warning.message)
    assert warning.filename == __file__
    found = square_attack(model, images, labels, 0.5, queries=50, rng=0)
    assert (answers(model, found) != labels).any()


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


def test_each_trouble_of_gradients_is_told():
    with as_shown() as seen:
        warn_of_gradients(np.float32([np.nan, 0, 1]))
    of_nan, of_zeros = (str(warning.message) for warning in seen)
    assert "NaN for some images" in of_nan
    assert "zero for 1%" in of_zeros


def srgb(linear):
    """Return sRGB's values, and NaN for the slope at 0."""
    curve = 1.055 * ops.power(linear, 1 / 2.4) - 0.055
    return ops.where(linear <= 0.003, 12.9 * linear, curve)


@BOTH_NORMS
def test_nan_in_a_gradient_counts_as_zero(norm, images, one_hot):
    images[:5, 1:4] = 0
    model = network_of(layers.Lambda(srgb), build_classifier())
    found = np.nan_to_num(gradients(model, images, one_hot))
    expected = np.sign(found)
    if norm == 2:
        expected = found / np.sqrt((found**2).sum(axis=(1, 2, 3), keepdims=True))
    with pytest.warns(UserWarning, match="NaN for some images") as seen:
        adversaries = fgsm(model, images, one_hot, 0.1, norm=norm)
    assert [warning.filename for warning in seen] == [__file__]
    assert_allclose(adversaries, images + 0.1 * expected, atol=1e-6)
    with pytest.warns(UserWarning, match="NaN for some images"):
        found = pgd(model, images, one_hot, 0.1, norm=norm)
    assert np.isfinite(found).all()


@BOTH_NORMS
def test_infinite_gradients_get_all_of_the_step(norm, images, labels):
    """The square root's slope at 0 is infinite."""
    images[:5, :2] = 0
    model = network_of(layers.Lambda(tf.math.sqrt), build_classifier())
    adversaries = fgsm(model, images, labels, 0.5, loss="cross_entropy", norm=norm)
    changes = adversaries - images
    lengths = np.linalg.norm(changes.reshape(20, -1), norm, axis=1)
    assert_allclose(lengths, 0.5, rtol=1e-5)  # nor is anything NaN
    if norm == 2:  # where others are infinite, finite gradients are nothing
        assert_allclose(changes[:5, 2:], 0, atol=1e-6)
    found = pgd(model, images, labels, 0.5, steps=2, clip=(0, 1), norm=norm)
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


def test_probabilities_without_logits_behind_them(images, one_hot):
    """The average of two networks has none."""
    image = keras.Input(DIMS)
    members = [build_classifier() for _ in range(2)]
    model = keras.Model(image, layers.Average()([member(image) for member in members]))
    with pytest.warns(UserWarning, match="no logits behind .*better than it is"):
        adversaries = fgsm(model, images, one_hot, 0.1, loss="cross_entropy")
    expected = per_image_loop(model, images, one_hot, losses.categorical_crossentropy)
    assert_array_equal(adversaries, expected)
    with pytest.warns(UserWarning, match="no logits behind"):
        found = logits_of(model, images)
    expected = np.diff(np.log(model(images).numpy()))
    assert_allclose(np.diff(found), expected, atol=1e-4)


@pytest.mark.filterwarnings("ignore:there are no logits")
@pytest.mark.parametrize(
    ("compiled_from_logits", "from_logits", "are_logits"),
    [
        (True, None, True),
        (False, None, False),
        (None, True, True),
        (False, True, True),
        (True, False, False),
    ],
)
def test_a_single_score_is_what_the_user_or_the_compiled_loss_says(
    images, compiled_from_logits, from_logits, are_logits
):
    model = network_of(layers.GlobalAveragePooling2D())
    if compiled_from_logits is not None:
        loss = losses.BinaryCrossentropy(from_logits=compiled_from_logits)
        model.compile("sgd", loss)
    means = images.mean(axis=(1, 2))
    expected = means if are_logits else np.log(means / (1 - means))
    found = np.diff(logits_of(model, images, from_logits))
    assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("loss", [None, "mse", losses.Huber()])
def test_a_single_score_that_nothing_tells_about(images, loss):
    """It is not judged, but either way its gradient points in one direction."""
    model = network_of(layers.GlobalAveragePooling2D())
    if loss is not None:
        model.compile("sgd", loss)
    with pytest.raises(
        ValueError, match=r"model .*single score.*from_logits="
    ) as raised:
        logits_of(model, images)
    assert len(str(raised.value)) <= 300
    labels = np.arange(20) % 2
    signs = np.where(labels == 1, -EPS, EPS).reshape(20, 1, 1, 1)
    with no_warning():
        adversaries = fgsm(model, images, labels, EPS, loss="cross_entropy")
    assert_array_equal(adversaries, images + signs)


@pytest.mark.filterwarnings("ignore:there are no logits")
@pytest.mark.parametrize("factor", [1, 3])
def test_two_scores_are_probabilities_if_they_add_up_to_one(images, factor):
    def scores(images):
        means = ops.mean(images, axis=(1, 2))
        return factor * ops.concatenate([1 - means, means], axis=1)

    model = network_of(layers.Lambda(scores))
    outputs = scores(images).numpy()
    expected = outputs if factor == 3 else np.log(outputs)
    assert_allclose(logits_of(model, images), expected, atol=1e-5)


# Compiled once, and never stale.


class Gain(layers.Layer):
    gain = 1.0

    def call(self, images):
        return images * self.gain


def test_follows_a_layers_own_attributes_after_compile(images, one_hot):
    gain = Gain()
    scaling = layers.Rescaling(1.0)
    hidden = layers.Flatten(), layers.Dense(8, "sigmoid"), layers.Dense(3, "softmax")
    model = network_of(gain, scaling, *hidden)
    model.compile("sgd", "mse")
    before = fgsm(model, images, one_hot, 0.1)
    for layer, attribute in [(gain, "gain"), (scaling, "scale")]:
        setattr(layer, attribute, -2.0)
        model.compile("sgd", "mse")
        assert_follows(model, images, one_hot)
        after = fgsm(model, images, one_hot, 0.1)
        assert (after != before).any()
        before = after


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


def bound_to_a_list(weight):
    return bound([weight])


@pytest.mark.parametrize("make", [closure, reading_a_global, bound, bound_to_a_list])
def test_losses_that_differ_in_a_setting_are_told_apart(make, model, images, one_hot):
    up = fgsm(model, images, one_hot, 0.1, loss=make(1.0))
    down = fgsm(model, images, one_hot, 0.1, loss=make(-1.0))
    assert_allclose(up - images, images - down, atol=1e-6)
    assert (up != down).mean() > 0.9


def test_losses_of_keras_that_differ_in_a_setting(model, images, one_hot):
    for gamma in (0.01, 9.0):
        loss = losses.CategoricalFocalCrossentropy(gamma=gamma)
        expected = per_image_loop(model, images, one_hot, loss)
        assert_array_equal(fgsm(model, images, one_hot, 0.1, loss=loss), expected)


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


class Trainer:
    def __init__(self, model):
        self.model = model

    def loss(self, targets, outputs):
        return distance(targets, outputs) * len(self.model.layers)


def of_model(targets, outputs, model):
    return distance(targets, outputs) * len(model.layers)


@pytest.mark.parametrize(
    "make",
    [
        lambda model: Trainer(model).loss,
        lambda model: functools.partial(of_model, model=model),
        lambda model: lambda *pair: of_model(*pair, model),
    ],
)
def test_a_loss_that_holds_its_model_does_not_keep_it_alive(make, images, labels):
    model = build_classifier()
    loss = make(model)
    fgsm(model, images, labels, 0.1, loss=loss)
    reference = weakref.ref(model)
    del model, loss
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
def test_model_is_asked_for_valid_images_only_if_clip_says_so(attack, images, labels):
    model = network_of(AtMostOne(), build_classifier())
    adversaries = attack(model, images, labels, 0.2, clip=(0, 1))
    assert (adversaries != images).any()
    if attack in (pgd, square_attack):  # FGSM asks for the user's images alone
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


def test_a_call_inside_a_compiled_function(model, one_hot):
    def attack(image):
        return fgsm(model, image, one_hot)

    compiled_attack = tf.function(attack, autograph=False)
    with pytest.raises(TypeError, match=r"image .*tensor.*tf\.numpy_function"):
        compiled_attack(tf.zeros((20, *DIMS)))


def failing():
    def fail(images):
        raise RuntimeError("no " * 1000)

    return keras.Sequential([layers.Lambda(fail, output_shape=(3,))])


def eager_only():
    return network_of(layers.Lambda(lambda images: images.numpy()), layers.Flatten())


def preprocessing():
    model = build_classifier()
    model.preprocessor = layers.Rescaling(1 / 255)
    return model


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"model": two_outputs}, ValueError, "model must have one output"),
        ({"model": failing}, ValueError, "model .*no no"),
        ({"image": np.zeros(DIMS), "label": 0}, ValueError, "image.*batch axis"),
        ({"image": np.full((20, *DIMS), 1e39)}, ValueError, "image .*infinity"),
        ({"label": np.zeros((20, 4))}, ValueError, r"label .*\(20, 3\).*\(20, 4\)"),
        ({"label": np.full(20, -1)}, ValueError, "label .*0 to 2.*-1"),
        ({"model": eager_only}, ValueError, "model .*tf.function"),
        ({"model": preprocessing}, ValueError, "model preprocesses.*keras.Model"),
        ({"eps": np.ones(5)}, ValueError, r"eps .*\(5,\) for \(20, 6, 6, 1\)"),
        ({"eps": -np.ones(1)}, ValueError, "eps .*from 0"),
        ({"eps": np.ones(6), "norm": 2}, ValueError, "eps .*number for norm 2"),
        ({"targeted": "no"}, TypeError, "targeted .*'no'"),
        ({"loss": "no such loss"}, ValueError, "loss.*no such loss"),
        ({"clip": (1, 0)}, ValueError, "clip.*1, 0"),
        ({"clip": (0, 0.5)}, ValueError, "image .*clip, 0 to 0.5"),
        ({"norm": 1}, ValueError, "norm .*1"),
    ],
)
def test_wrong_arguments_are_named(model, images, one_hot, changed, error, message):
    arguments = {"model": model, "image": images, "label": one_hot, "eps": 0.1}
    if "model" in changed:
        changed = {"model": changed["model"]()}
    with pytest.raises(error, match=message) as raised:
        fgsm(**(arguments | changed))
    assert len(str(raised.value)) <= 300 and "\n" not in str(raised.value)


@pytest.mark.parametrize("attack", [fgsm, pgd, square_attack])
def test_images_outside_clip_by_no_more_than_rounding(attack, model, labels):
    images = np.full((20, *DIMS), 1 + 1e-6, np.float32)
    assert attack(model, images, labels, 0.1, clip=(0, 1)).max() <= 1
    with pytest.raises(ValueError, match=r"clip, 0 to 1, .*1\.01"):
        attack(model, images + 0.01, labels, 0.1, clip=(0, 1))
