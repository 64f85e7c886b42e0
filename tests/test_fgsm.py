import functools
import gc
import inspect
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import (
    art_classifier,
    build_classifier,
    no_warning,
    saturate,
    under_policy,
)
from keras import layers, ops

from pyimagesearch.attacks import projected_gradient_descent, square_attack
from pyimagesearch.core.compiled import predict_logits
from pyimagesearch.core.gradients import DivergedError
from pyimagesearch.fgsm import generate_image_adversary

DIMS = (6, 6, 1)
EPS = np.float32(0.1)
DENSE_FROM_LOGITS = functools.partial(
    keras.losses.categorical_crossentropy, from_logits=True
)


def gradients(model, images, targets, loss=keras.losses.mean_squared_error):
    """Return the gradient of each image the tutorials' way, by an eager tape each."""
    result = []
    for image, target in zip(images, targets, strict=True):
        image = tf.constant(image[np.newaxis])
        with tf.GradientTape() as tape:
            tape.watch(image)
            value = loss(target[np.newaxis], model(image, training=False))
        result.append(tape.gradient(value, image, unconnected_gradients="zero")[0])
    return np.array(result)


def per_image_loop(model, images, targets, *loss, eps=EPS):
    return images + eps * np.sign(gradients(model, images, targets, *loss))


def assert_follows(model, images, targets):
    np.testing.assert_array_equal(
        generate_image_adversary(model, images, targets, 0.1),
        per_image_loop(model, images, targets),
    )


# What the tutorials rely on.


def test_signature_of_the_tutorial():
    parameters = list(inspect.signature(generate_image_adversary).parameters.values())
    assert [p.name for p in parameters[:4]] == ["model", "image", "label", "eps"]
    assert parameters[3].default == 2 / 255.0
    assert all(p.kind is p.KEYWORD_ONLY for p in parameters[4:])


def test_single_image_as_the_tutorial_calls_it(model, images, one_hot):
    adversary = generate_image_adversary(model, images[:1], one_hot[0], eps=0.1)
    assert isinstance(adversary, np.ndarray)
    assert (adversary.shape, adversary.dtype) == ((1, *DIMS), np.float32)
    expected = per_image_loop(model, images[:1], one_hot[:1])
    np.testing.assert_array_equal(adversary, expected)


def test_single_image_takes_a_label_without_batch_axis(model, images, labels, one_hot):
    expected = generate_image_adversary(model, images[:1], one_hot[:1], 0.1)
    for label in (one_hot[0], labels[0], labels[:1], int(labels[0]), list(one_hot[0])):
        adversary = generate_image_adversary(model, images[:1], label, 0.1)
        np.testing.assert_array_equal(adversary, expected)


def test_steps_up_the_finite_differences_of_the_loss(model, images, one_hot):
    def loss(image):
        return np.mean((model(image[np.newaxis]).numpy()[0] - one_hot[0]) ** 2)

    sign = generate_image_adversary(model, images[:1], one_hot[0], eps=1) - images[:1]
    compared = 0
    for pixel in np.ndindex(DIMS):
        step = np.zeros(DIMS, np.float32)
        step[pixel] = 0.01
        difference = loss(images[0] + step) - loss(images[0] - step)
        if abs(difference) > 1e-5:  # below, float32 has no say
            assert round(float(sign[0][pixel])) == np.sign(difference)
            compared += 1
    assert compared > 25


@pytest.mark.parametrize("dims", [(6, 6, 1), (6, 6, 3), (128, 128, 1)])
def test_batch_equals_the_per_image_loop(dims):
    """Of 128 x 128 pixels there are 24 images in a chunk."""
    images = np.random.default_rng(3).random((30, *dims), dtype=np.float32)
    assert_follows(
        build_classifier(dims), images, np.eye(3, dtype="f4")[[0, 1, 2] * 10]
    )


def test_small_gradients_do_not_vanish_in_a_large_batch():
    """Averaged over 10,000 images, this gradient is below float32's smallest."""
    model = keras.Sequential([keras.Input((2, 2, 1)), layers.Flatten()])
    images = np.full((10_000, 2, 2, 1), 1e-42, np.float32)

    def scaled(targets, outputs):
        return tf.reduce_sum(outputs - targets, axis=-1) * 1e-37

    for loss, count in [(scaled, 10_000), (lambda *a: tf.reduce_mean(scaled(*a)), 99)]:
        adversaries = generate_image_adversary(
            model, images[:count], np.zeros((count, 4)), 1.0, loss=loss
        )
        np.testing.assert_array_equal(adversaries, 1.0)


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float64, np.float16, bool])
def test_other_dtypes_are_cast_and_left_unchanged(model, one_hot, dtype):
    images = np.random.default_rng(3).integers(2, size=(20, *DIMS)).astype(dtype)
    copy = images.copy()
    adversaries = generate_image_adversary(model, images, one_hot, 0.1)
    assert adversaries.dtype == np.float32
    np.testing.assert_array_equal(images, copy)
    expected = per_image_loop(model, images.astype(np.float32), one_hot)
    np.testing.assert_array_equal(adversaries, expected)


def test_clip_and_targeted(model, images, one_hot):
    free = generate_image_adversary(model, images, one_hot, 0.3)
    assert free.min() < 0 and free.max() > 1
    clipped = generate_image_adversary(model, images, one_hot, 0.3, clip=(0, 1))
    np.testing.assert_array_equal(clipped, np.clip(free, 0, 1))
    towards = generate_image_adversary(model, images, one_hot, 0.3, targeted=True)
    np.testing.assert_allclose(towards - images, images - free, atol=1e-6)


@pytest.mark.parametrize("sparse", [False, True, "function"])
@pytest.mark.parametrize("form", ["one_hot", "ids", "column"])
def test_logits_and_every_label_format(sparse, form, images, labels, one_hot):
    model = build_classifier(activation=None)
    given = {"one_hot": one_hot, "ids": labels, "column": labels[:, np.newaxis]}[form]
    loss = {
        False: keras.losses.CategoricalCrossentropy(from_logits=True),
        True: keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        "function": functools.partial(
            keras.losses.sparse_categorical_crossentropy, from_logits=True
        ),
    }[sparse]
    np.testing.assert_array_equal(
        generate_image_adversary(model, images, given, 0.1, loss=loss),
        per_image_loop(model, images, one_hot, DENSE_FROM_LOGITS),
    )


@pytest.mark.parametrize("shape", [(20,), (20, 1)])
@pytest.mark.parametrize(
    ("activation", "loss"), [("sigmoid", "binary_crossentropy"), (None, "huber")]
)
def test_sigmoid_and_regression_targets(images, shape, activation, loss):
    model = build_classifier(classes=1, activation=activation)
    targets = np.arange(20.0, dtype=np.float32).reshape(shape) % 2
    np.testing.assert_array_equal(
        generate_image_adversary(model, images, targets, 0.1, loss=loss),
        per_image_loop(model, images, targets.reshape(20, 1), keras.losses.get(loss)),
    )


def test_model_runs_in_inference_mode(images, one_hot):
    model = keras.Sequential(
        [
            keras.Input(DIMS),
            layers.BatchNormalization(),
            layers.Flatten(),
            layers.Dropout(0.9),
            layers.Dense(3, activation="softmax"),
        ]
    )
    before = model.get_weights()
    assert_follows(model, images, one_hot)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


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
    np.testing.assert_array_equal(
        generate_image_adversary(model, images, one_hot, 0.1),
        per_image_loop(lambda *a, **k: model(*a, **k)["classes"], images, one_hot),
    )


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16", "float64"])
def test_other_dtype_policies(policy, images, one_hot):
    model = under_policy(policy, build_classifier)
    adversaries = generate_image_adversary(model, images, one_hot, 0.1)
    assert adversaries.dtype == np.float32
    moved = np.abs(adversaries - images)
    np.testing.assert_allclose(moved[moved > 0], 0.1, atol=1e-6)
    assert (moved > 0).mean() > 0.9


# Both norms.


@pytest.mark.parametrize("norm", [np.inf, 2])
def test_agrees_with_the_adversarial_robustness_toolbox(model, images, one_hot, norm):
    from art.attacks.evasion import FastGradientMethod

    classifier = art_classifier(model, keras.losses.MeanSquaredError())
    attack = FastGradientMethod(classifier, norm=norm, eps=0.3)
    settings = {"clip": (0.0, 1.0), "norm": norm}
    ours = generate_image_adversary(model, images, one_hot, 0.3, **settings)
    np.testing.assert_allclose(ours, attack.generate(images, one_hot), atol=1e-6)


def test_norm_2_goes_straight_along_the_gradient(model, images, one_hot):
    found = gradients(model, images, one_hot)
    lengths = np.sqrt((found**2).sum(axis=(1, 2, 3), keepdims=True))
    adversaries = generate_image_adversary(model, images, one_hot, 0.5, norm=2)
    np.testing.assert_allclose(adversaries - images, 0.5 * found / lengths, atol=1e-6)
    towards = generate_image_adversary(
        model, images, one_hot, 0.5, norm=2, targeted=True
    )
    np.testing.assert_allclose(towards - images, -0.5 * found / lengths, atol=1e-6)


@pytest.mark.parametrize("scale", [1e-30, 1e18])
def test_norm_2_of_gradients_whose_squares_leave_float32(model, images, one_hot, scale):
    def scaled(targets, outputs):
        return scale * keras.losses.mean_squared_error(targets, outputs)

    attack = functools.partial(
        generate_image_adversary, model, images, one_hot, 0.5, norm=2
    )
    np.testing.assert_allclose(attack(loss=scaled), attack(), atol=1e-5)


# Gradients of no use.


def stopped():
    return keras.Sequential(
        [keras.Input(DIMS), layers.Lambda(ops.stop_gradient), build_classifier()]
    )


def rounded():
    return keras.Sequential(
        [keras.Input(DIMS), layers.Lambda(ops.round), build_classifier()]
    )


USELESS = {
    "saturated softmax": (lambda: saturate(build_classifier()), "mse"),
    "its cross-entropy": (
        lambda: saturate(build_classifier()),
        "categorical_crossentropy",
    ),
    "saturated sigmoids": (
        lambda: saturate(build_classifier(activation="sigmoid")),
        "mse",
    ),
    "loss of probabilities on logits": (
        lambda: saturate(build_classifier(activation=None)),
        "categorical_crossentropy",
    ),
    "loss of logits on probabilities": (
        lambda: saturate(build_classifier()),
        keras.losses.CategoricalCrossentropy(from_logits=True),
    ),
    "hinge on confident logits": (
        lambda: saturate(build_classifier(activation=None)),
        "categorical_hinge",
    ),
}


@pytest.mark.filterwarnings("ignore:.*received `from_logits=True`")
@pytest.mark.parametrize("case", USELESS)
def test_zero_gradients_are_counted_and_the_loss_that_works_is_named(case, images):
    build, loss = USELESS[case]
    model = build()
    labels = model(images).numpy().argmax(axis=1)
    one_hot = np.eye(3, dtype=np.float32)[labels]
    found = gradients(model, images, one_hot, keras.losses.get(loss))
    still = (found == 0).all(axis=(1, 2, 3)).sum()
    assert still > 0
    with pytest.warns(UserWarning, match=f"{still} of 20 .*'cross_entropy'") as seen:
        generate_image_adversary(model, images, labels, 0.1, loss=loss)
    # In one line that speaks of the user's own.
    (warning,) = [w for w in seen if "of 20" in str(w.message)]
    assert warning.filename == __file__
    assert len(str(warning.message)) <= 300 and "\n" not in str(warning.message)
    with no_warning():
        moved = generate_image_adversary(
            model, images, labels, 0.1, loss="cross_entropy"
        )
    assert (moved != images).mean() > 0.9


@pytest.mark.parametrize(
    ("dtype", "policy"), [(np.uint8, "float32"), (np.float32, "mixed_float16")]
)
def test_zero_gradients_in_other_dtypes(policy, dtype):
    model = saturate(under_policy(policy, build_classifier))
    images = np.random.default_rng(0).integers(16, size=(20, *DIMS)).astype(dtype)
    labels = model(images.astype(np.float32)).numpy().argmax(axis=1)
    with pytest.warns(UserWarning, match="of 20 .*cross_entropy"):
        generate_image_adversary(model, images, labels, 8)


@pytest.mark.parametrize("build", [stopped, rounded])
@pytest.mark.parametrize(
    "attack",
    [
        generate_image_adversary,
        functools.partial(projected_gradient_descent, steps=2, restarts=3),
    ],
)
def test_networks_that_stop_gradients_need_another_attack(build, attack, images):
    model = build()
    labels = model(images).numpy().argmax(axis=1)
    with pytest.warns(UserWarning, match=r"(\d+) of \1 .*square_attack") as seen:
        attack(model, images, labels, 0.5)
    assert len(seen) == 1
    found = square_attack(model, images, labels, 0.5, queries=50, rng=0)
    assert (model(found).numpy().argmax(axis=1) != labels).any()


def test_zero_gradients_are_warned_of_from_one_percent_on():
    model = keras.Sequential(
        [keras.Input((2, 2, 1)), layers.Flatten(), layers.ReLU(), layers.Dense(2)]
    )
    images = np.ones((200, 2, 2, 1))
    images[:2] = -1  # no gradient there
    attack = functools.partial(generate_image_adversary, model, eps=0.1)
    with pytest.warns(UserWarning, match="2 of 200"):
        attack(images, np.zeros(200, int))
    with no_warning():
        attack(images[1:], np.zeros(199, int))
        attack(images, np.zeros(200, int), eps=0)


def test_zero_gradients_of_a_regression_network(images):
    """Loss and attack for classifiers are not tried on it, which would warn, too."""
    model = build_classifier(classes=1, activation="relu")
    model.layers[-1].set_weights([np.zeros((64, 1)), -np.ones(1)])
    with pytest.warns(UserWarning, match="20 of 20 .*loss") as seen:
        generate_image_adversary(model, images, np.arange(20.0), 0.1)
    assert len(seen) == 1


def srgb(linear):
    """Return sRGB's values, and NaN for the slope at 0."""
    curve = 1.055 * ops.power(linear, 1 / 2.4) - 0.055
    return ops.where(linear <= 0.003, 12.9 * linear, curve)


@pytest.mark.parametrize("norm", [np.inf, 2])
def test_nan_in_a_gradient_counts_as_zero(norm, images, one_hot):
    images[:5, 1:4] = 0
    inner = build_classifier()
    model = keras.Sequential([keras.Input(DIMS), layers.Lambda(srgb), inner])
    found = np.nan_to_num(gradients(model, images, one_hot))
    if norm == 2:
        expected = found / np.sqrt((found**2).sum(axis=(1, 2, 3), keepdims=True))
    else:
        expected = np.sign(found)
    with pytest.warns(UserWarning, match="NaN .*5 of 20") as seen:
        adversaries = generate_image_adversary(model, images, one_hot, 0.1, norm=norm)
    assert len(seen) == 1 and model.name in str(seen[0].message)
    np.testing.assert_allclose(adversaries, images + 0.1 * expected, atol=1e-6)
    with pytest.warns(UserWarning, match=r"NaN .*\d+ of 20"):
        found = projected_gradient_descent(model, images, one_hot, 0.1, norm=norm)
    assert np.isfinite(found).all()


@pytest.mark.parametrize("norm", [np.inf, 2])
def test_infinite_gradients_get_all_of_the_step(norm, images, labels):
    """The square root's slope at 0 is infinite."""
    images[:5, :2] = 0
    root = layers.Lambda(tf.math.sqrt)
    model = keras.Sequential([keras.Input(DIMS), root, build_classifier()])
    how = {"loss": "cross_entropy", "norm": norm}
    adversaries = generate_image_adversary(model, images, labels, 0.5, **how)
    changes = adversaries - images
    assert np.isfinite(adversaries).all()
    lengths = np.linalg.norm(changes.reshape(20, -1), norm, axis=1)
    np.testing.assert_allclose(lengths, 0.5, rtol=1e-5)
    if norm == 2:  # where others are infinite, finite gradients are nothing
        np.testing.assert_allclose(changes[:5, 2:], 0, atol=1e-6)
    how |= {"steps": 2, "clip": (0, 1)}
    found = projected_gradient_descent(model, images, labels, 0.5, **how)
    assert np.isfinite(found).all()


@pytest.mark.parametrize(
    ("attack", "value"),
    [
        (generate_image_adversary, np.nan),
        (generate_image_adversary, 1e38),
        (projected_gradient_descent, np.nan),
        (square_attack, np.nan),
    ],
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


def average(*models):
    image = keras.Input(DIMS)
    return keras.Model(image, layers.Average()([model(image) for model in models]))


def test_sigmoid_that_is_not_the_last_operation(images):
    members = [build_classifier(classes=1, activation="sigmoid") for _ in range(2)]
    model, targets = average(*members), np.arange(20.0, dtype=np.float32) % 2
    with pytest.warns(UserWarning, match=f"no logits .*{model.name}"):
        adversaries = generate_image_adversary(
            model, images, targets, 0.1, loss="cross_entropy"
        )
    np.testing.assert_array_equal(
        adversaries,
        per_image_loop(
            model, images, targets[:, np.newaxis], keras.losses.binary_crossentropy
        ),
    )
    probabilities = model(images).numpy()
    np.testing.assert_allclose(
        np.diff(predict_logits(model, images)),
        np.log(probabilities / (1 - probabilities)),
        rtol=1e-4,
    )


def test_softmax_without_logits_behind_it(images, one_hot):
    model = average(build_classifier(), build_classifier())
    with pytest.warns(UserWarning, match="no logits") as seen:
        for _ in range(2):
            adversaries = generate_image_adversary(
                model, images, one_hot, 0.1, loss="cross_entropy"
            )
    assert len(seen) == 1
    np.testing.assert_array_equal(
        adversaries,
        per_image_loop(model, images, one_hot, keras.losses.categorical_crossentropy),
    )


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
    model = keras.Sequential([keras.Input(DIMS), layers.GlobalAveragePooling2D()])
    if compiled is not None:
        model.compile("sgd", keras.losses.BinaryCrossentropy(from_logits=compiled))
    means = images.mean(axis=(1, 2))
    expected = means if are_logits else np.log(means / (1 - means))
    found = np.diff(predict_logits(model, images, from_logits=given))
    np.testing.assert_allclose(found, expected, atol=1e-5)


# Compiled once, and never stale.


class Gain(layers.Layer):
    gain = 1.0

    def call(self, images):
        return images * self.gain


CHANGES = {
    "attribute": lambda model: setattr(model.layers[0], "gain", -2.0),
    "scale": lambda model: setattr(model.layers[1], "scale", -2.0),
    "activation": lambda model: setattr(
        model.layers[3], "activation", keras.activations.softmax
    ),
}


@pytest.mark.parametrize(
    ("change", "nested"),
    [("attribute", False), ("scale", False), ("activation", True)],
)
def test_follows_the_model_after_compile(change, nested, images, one_hot):
    model = inner = keras.Sequential(
        [
            keras.Input(DIMS),
            Gain(),
            layers.Rescaling(1.0),
            layers.Flatten(),
            layers.Dense(8, activation="sigmoid"),
            layers.Dense(3, activation="softmax"),
        ]
    )
    if nested:
        model = keras.Sequential([keras.Input(DIMS), inner])
    model.compile("sgd", "mse")
    assert_follows(model, images, one_hot)
    before = generate_image_adversary(model, images, one_hot, 0.1)
    CHANGES[change](inner)
    model.compile("sgd", "mse")
    assert_follows(model, images, one_hot)
    assert (generate_image_adversary(model, images, one_hot, 0.1) != before).any()


@pytest.mark.parametrize("nested", [False, True])
def test_follows_weights_and_exchanged_layers_at_once(nested, images, one_hot):
    model = inner = build_classifier()
    if nested:
        model = keras.Sequential([keras.Input(DIMS), inner, layers.Softmax()])
    assert_follows(model, images, one_hot)
    model.set_weights([-2 * weight for weight in model.get_weights()])
    assert_follows(model, images, one_hot)
    inner.pop()
    inner.add(layers.Dense(3, activation="softmax"))
    assert_follows(model, images, one_hot)


def counting_classifier():
    """Return a classifier, and a list that grows whenever it is traced."""
    traced = []

    def count(images):
        if not tf.executing_eagerly():
            traced.append(images.shape)
        return images

    hidden = [layers.Lambda(count), layers.Flatten(), layers.Dense(3, "softmax")]
    return keras.Sequential([keras.Input(DIMS), *hidden]), traced


def distance(targets, outputs):
    return tf.reduce_sum((targets - outputs) ** 2, axis=-1)


def closure(weight):
    return lambda targets, outputs: weight * distance(targets, outputs)


def with_default(weight):
    return lambda targets, outputs, weight=weight: weight * distance(targets, outputs)


def with_keyword(weight):
    return lambda targets, outputs, *, weight=weight: (
        weight * distance(targets, outputs)
    )


def weighted(targets, outputs, weight):
    return weight * distance(targets, outputs)


def bound(weight=2.0):
    return functools.partial(weighted, weight=weight)


MADE_ANEW = {
    "Keras's": keras.losses.SparseCategoricalCrossentropy,
    "with settings": lambda: keras.losses.CategoricalCrossentropy(label_smoothing=0.1),
    "by name": lambda: "mse",
    "bound": bound,
    "Keras's function bound": lambda: functools.partial(
        keras.losses.categorical_crossentropy, label_smoothing=0.1
    ),
}


@pytest.mark.parametrize("kind", MADE_ANEW)
def test_equal_losses_are_compiled_once_for_all_batch_sizes(kind, images, labels):
    model, traced = counting_classifier()
    generate_image_adversary(model, images, labels, 0.1, loss=MADE_ANEW[kind]())
    once = len(traced)
    for count in (1, 7, 20, 3):
        generate_image_adversary(
            model, images[:count], labels[:count], 0.1 * count, loss=MADE_ANEW[kind]()
        )
    assert len(traced) == once


@pytest.mark.parametrize("make", [closure, with_default, with_keyword, bound])
def test_losses_that_differ_in_a_setting_are_told_apart(make, model, images, one_hot):
    up, down = (
        generate_image_adversary(model, images, one_hot, 0.1, loss=make(weight))
        for weight in (1.0, -1.0)
    )
    np.testing.assert_allclose(up - images, images - down, atol=1e-6)
    assert (up != down).mean() > 0.9


def test_losses_of_keras_that_differ_in_a_setting(model, images, one_hot):
    for gamma in (0.01, 9.0):
        loss = keras.losses.CategoricalFocalCrossentropy(gamma=gamma)
        np.testing.assert_array_equal(
            generate_image_adversary(model, images, one_hot, 0.1, loss=loss),
            per_image_loop(model, images, one_hot, loss),
        )


SIGN = 1.0


def test_losses_that_read_a_changed_global(model, images, one_hot, monkeypatch):
    """As in a loop at a script's top level, or in a notebook's cell that runs again."""
    results = []
    for sign in (1.0, -1.0):
        monkeypatch.setitem(globals(), "SIGN", sign)
        adversaries = generate_image_adversary(
            model, images, one_hot, 0.1, loss=lambda *args: SIGN * distance(*args)
        )
        results.append(adversaries - images)
    np.testing.assert_allclose(results[0], -results[1], atol=1e-6)


@pytest.mark.slow
def test_cache_has_a_limit(model, images, labels):
    class Loss(keras.losses.Loss):
        def call(self, targets, outputs):
            return distance(targets, outputs)

    alive = weakref.WeakSet()
    for _ in range(50):
        loss = Loss()
        alive.add(loss)
        generate_image_adversary(model, images[:1], labels[:1], 0.1, loss=loss)
    gc.collect()
    assert len(alive) < 40


def test_many_models_raise_no_retracing_warnings(images, one_hot, caplog):
    for _ in range(6):
        generate_image_adversary(build_classifier(), images, one_hot, 0.1)
    assert "retracing" not in caplog.text


@pytest.mark.parametrize(
    "attack", [generate_image_adversary, projected_gradient_descent, square_attack]
)
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
    "attack",
    [
        functools.partial(generate_image_adversary, loss="cross_entropy"),
        projected_gradient_descent,
        square_attack,
    ],
)
def test_model_is_asked_nothing_but_the_users_own_images(attack, images, labels):
    model = keras.Sequential([keras.Input(DIMS), AtMostOne(), build_classifier()])
    adversaries = attack(model, images, labels, 0.2, clip=(0, 1))
    assert (adversaries != images).any()


def test_embedded_integers_have_no_gradient_but_a_result():
    model = keras.Sequential(
        [keras.Input((5,)), layers.Embedding(17, 2), layers.Flatten(), layers.Dense(3)]
    )
    words = np.random.default_rng(0).integers(17, size=(10, 5))
    with pytest.warns(UserWarning, match="10 of 10 .*square_attack"):
        adversaries = generate_image_adversary(model, words, np.zeros(10, int), 1)
    np.testing.assert_array_equal(adversaries, words)


@pytest.mark.parametrize(
    "attack", [generate_image_adversary, projected_gradient_descent]
)
def test_operation_without_a_gradient(attack, images, labels):
    shrink = layers.Resizing(3, 3, interpolation="area")
    model = keras.Sequential(
        [keras.Input(DIMS), shrink, layers.Flatten(), layers.Dense(3)]
    )
    with pytest.raises(ValueError, match=r"model .*gradient.*ResizeArea") as raised:
        attack(model, images, labels, 0.1)
    assert len(str(raised.value)) <= 300


def two_inputs():
    first, second = keras.Input(DIMS), keras.Input(DIMS)
    return keras.Model([first, second], layers.add([first, second]))


def two_outputs():
    image = keras.Input(DIMS)
    return keras.Model(image, [layers.Flatten()(image), image])


def failing():
    def fail(images):
        raise RuntimeError("no " * 1000)

    return keras.Sequential([layers.Lambda(fail, output_shape=(3,))])


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"model": "m"}, TypeError, "model .*str"),
        ({"model": two_inputs()}, ValueError, "model must take"),
        ({"model": two_outputs()}, ValueError, "model must have one output"),
        ({"model": failing()}, ValueError, "model .*no no"),
        ({"model": build_classifier((7, 7, 1))}, ValueError, r"\(6, 6, 1\)"),
        ({"image": np.zeros((0, *DIMS))}, ValueError, "image"),
        ({"image": np.zeros(DIMS), "label": 0}, ValueError, "image.*batch axis"),
        ({"image": np.full((20, *DIMS), np.nan)}, ValueError, "image .*NaN"),
        ({"image": np.full((20, *DIMS), 1e39)}, ValueError, "image .*infinity"),
        ({"image": np.array([["a"]])}, TypeError, "image .*<U1"),
        ({"image": (i for i in [[1.0]])}, TypeError, "image .*generator"),
        ({"label": np.zeros((20, 4))}, ValueError, r"label .*\(20, 3\).*\(20, 4\)"),
        ({"label": np.full(20, 3)}, ValueError, "label .*0 to 2.*3"),
        ({"label": np.full(20, -1)}, ValueError, "label .*0 to 2.*-1"),
        ({"label": np.full(20, 0.5)}, ValueError, "label .*0.5"),
        ({"label": ["a"] * 20}, TypeError, "label"),
        ({"eps": -0.1}, ValueError, "eps .*-0.1"),
        ({"eps": np.nan}, ValueError, "eps .*nan"),
        ({"eps": "0.1"}, TypeError, "eps .*'0.1'"),
        ({"loss": "no such loss"}, ValueError, "loss.*no such loss"),
        ({"loss": None}, ValueError, "loss .*None"),
        ({"clip": (1, 0)}, ValueError, "clip.*1, 0"),
        ({"clip": 1}, ValueError, "clip .*1"),
        ({"clip": (0, 0.5)}, ValueError, "image .*clip, 0 to 0.5"),
        ({"norm": 1}, ValueError, "norm .*1"),
    ],
)
def test_wrong_arguments_are_named(model, images, one_hot, changed, error, message):
    arguments = {"model": model, "image": images, "label": one_hot, "eps": 0.1}
    with pytest.raises(error, match=message) as raised:
        generate_image_adversary(**(arguments | changed))
    assert len(str(raised.value)) <= 300 and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "attack", [generate_image_adversary, projected_gradient_descent, square_attack]
)
def test_images_outside_clip_by_no_more_than_rounding(attack, model, labels):
    images = np.full((20, *DIMS), 1 + 1e-6, np.float32)
    assert attack(model, images, labels, 0.1, clip=(0, 1)).max() <= 1
    with pytest.raises(ValueError, match=r"clip, 0 to 1, .*1\.01"):
        attack(model, images + 0.01, labels, 0.1, clip=(0, 1))
