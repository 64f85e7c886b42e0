import functools
import gc
import inspect
import weakref

import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import art_classifier, build_classifier, under_policy

from pyimagesearch.fgsm import generate_image_adversary


def per_image_loop(model, images, one_hot, eps, loss=keras.losses.mean_squared_error):
    """FGSM the tutorials' way: an eager tape for every image."""
    adversaries = []
    for image, label in zip(images, one_hot, strict=True):
        image = tf.constant(image[np.newaxis])
        with tf.GradientTape() as tape:
            tape.watch(image)
            value = loss(label[np.newaxis], model(image, training=False))
        sign = tf.sign(tape.gradient(value, image))
        adversaries.append((image + sign * eps).numpy()[0])
    return np.array(adversaries)


def test_signature_of_the_tutorial():
    parameters = list(inspect.signature(generate_image_adversary).parameters.values())
    assert [p.name for p in parameters[:4]] == ["model", "image", "label", "eps"]
    assert parameters[3].default == 2 / 255.0
    assert all(p.kind is p.KEYWORD_ONLY for p in parameters[4:])


def test_single_image_as_the_tutorial_calls_it(model, images, one_hot):
    adversary = generate_image_adversary(model, images[:1], one_hot[0], eps=0.1)
    assert isinstance(adversary, np.ndarray)
    assert adversary.shape == (1, 6, 6, 1)
    assert adversary.dtype == np.float32
    np.testing.assert_array_equal(
        adversary, per_image_loop(model, images[:1], one_hot[:1], 0.1)
    )


def test_steps_up_the_finite_differences_of_the_loss(model, images, one_hot):
    def loss(image):
        return np.mean((model(image[np.newaxis]).numpy()[0] - one_hot[0]) ** 2)

    sign = generate_image_adversary(model, images[:1], one_hot[0], eps=1) - images[:1]
    compared = 0
    for pixel in np.ndindex(6, 6, 1):
        step = np.zeros((6, 6, 1), np.float32)
        step[pixel] = 0.01
        difference = loss(images[0] + step) - loss(images[0] - step)
        if abs(difference) > 1e-5:  # below, float32 has no say
            assert round(float(sign[0][pixel])) == np.sign(difference)
            compared += 1
    assert compared > 25


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_batch_equals_the_per_image_loop(channels):
    model = build_classifier((6, 6, channels))
    images = np.random.default_rng(3).random((33, 6, 6, channels), dtype=np.float32)
    one_hot = np.eye(3, dtype=np.float32)[np.arange(33) % 3]
    np.testing.assert_array_equal(
        generate_image_adversary(model, images, one_hot, 0.1),
        per_image_loop(model, images, one_hot, np.float32(0.1)),
    )


def test_adversary_does_not_depend_on_the_batch_or_its_chunks(images, one_hot):
    model = build_classifier((128, 128, 1))
    images = np.random.default_rng(3).random((70, 128, 128, 1), dtype=np.float32)
    one_hot = np.eye(3, dtype=np.float32)[np.arange(70) % 3]  # chunks of 24
    whole = generate_image_adversary(model, images, one_hot, 0.1)
    for start, stop in [(0, 1), (20, 30), (69, 70)]:
        rows = slice(start, stop)
        part = generate_image_adversary(model, images[rows], one_hot[rows], 0.1)
        np.testing.assert_array_equal(part, whole[rows])


def test_small_gradients_do_not_vanish_in_a_large_batch():
    """Averaged over 10,000 images, this gradient is below float32's smallest."""
    model = keras.Sequential([keras.Input((2, 2, 1)), keras.layers.Flatten()])
    images = np.full((10_000, 2, 2, 1), 1e-42, np.float32)
    targets = np.zeros((10_000, 4), np.float32)

    def scaled(targets, outputs):
        return tf.reduce_sum(outputs - targets, axis=-1) * 1e-37

    for loss in (scaled, lambda t, o: tf.reduce_mean(scaled(t, o))):
        adversaries = generate_image_adversary(model, images, targets, 1.0, loss=loss)
        np.testing.assert_array_equal(adversaries, 1.0)


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float64, np.float16, bool])
def test_other_dtypes_are_cast_and_left_unchanged(model, one_hot, dtype):
    images = np.random.default_rng(3).integers(2, size=(20, 6, 6, 1)).astype(dtype)
    copy = images.copy()
    adversaries = generate_image_adversary(model, images, one_hot, 0.1)
    assert adversaries.dtype == np.float32
    np.testing.assert_array_equal(images, copy)
    np.testing.assert_array_equal(
        adversaries,
        generate_image_adversary(model, images.astype(np.float32), one_hot, 0.1),
    )


def test_clip_keeps_adversaries_in_the_valid_range(model, images, one_hot):
    free = generate_image_adversary(model, images, one_hot, 0.3)
    assert free.min() < 0 and free.max() > 1
    clipped = generate_image_adversary(model, images, one_hot, 0.3, clip=(0, 1))
    np.testing.assert_array_equal(clipped, np.clip(free, 0, 1))


def test_targeted_moves_the_other_way(model, images, one_hot):
    away = generate_image_adversary(model, images, one_hot, 0.1)
    towards = generate_image_adversary(model, images, one_hot, 0.1, targeted=True)
    np.testing.assert_allclose(towards - images, images - away, atol=1e-6)
    target = model(images).numpy()[one_hot == 1].mean()
    assert model(towards).numpy()[one_hot == 1].mean() > target


def functional(classes):
    image = keras.Input((6, 6, 1))
    hidden = keras.layers.Flatten()(keras.layers.Conv2D(4, 3, activation="tanh")(image))
    return keras.Model([image], [keras.layers.Dense(classes)(hidden)])


class Subclassed(keras.Model):
    def __init__(self, classes):
        super().__init__()
        self.dense = keras.layers.Dense(classes)

    def call(self, images):
        return self.dense(tf.reshape(images, (-1, 36)))


FROM_LOGITS = {"from_logits": True}


@pytest.mark.parametrize("build", [functional, Subclassed])
@pytest.mark.parametrize("form", ["one_hot", "ids", "column"])
@pytest.mark.parametrize("sparse", [False, True])
def test_logits_and_every_label_format(build, form, sparse, images, labels, one_hot):
    model = build(3)
    given = {"one_hot": one_hot, "ids": labels, "column": labels[:, np.newaxis]}[form]
    kind = "SparseCategoricalCrossentropy" if sparse else "CategoricalCrossentropy"
    loss = getattr(keras.losses, kind)(**FROM_LOGITS)
    independent = functools.partial(
        keras.losses.categorical_crossentropy, **FROM_LOGITS
    )
    np.testing.assert_array_equal(
        generate_image_adversary(model, images, given, 0.1, loss=loss),
        per_image_loop(model, images, one_hot, np.float32(0.1), independent),
    )


def test_sparse_function_with_settings_bound(images, labels, one_hot):
    model = functional(3)
    sparse = functools.partial(
        keras.losses.sparse_categorical_crossentropy, **FROM_LOGITS
    )
    dense = functools.partial(keras.losses.categorical_crossentropy, **FROM_LOGITS)
    np.testing.assert_array_equal(
        generate_image_adversary(model, images, labels, 0.1, loss=sparse),
        per_image_loop(model, images, one_hot, np.float32(0.1), dense),
    )


@pytest.mark.parametrize("shape", [(20,), (20, 1)])
def test_sigmoid_and_regression_targets(images, shape):
    for activation, loss in [("sigmoid", "binary_crossentropy"), (None, "huber")]:
        model = build_classifier(classes=1, activation=activation)
        targets = np.arange(20.0).reshape(shape) % 2
        np.testing.assert_array_equal(
            generate_image_adversary(model, images, targets, 0.1, loss=loss),
            per_image_loop(
                model,
                images,
                targets.reshape(20, 1),
                np.float32(0.1),
                keras.losses.get(loss),
            ),
        )


def test_single_image_takes_a_label_without_batch_axis(model, images, labels, one_hot):
    expected = generate_image_adversary(model, images[:1], one_hot[:1], 0.1)
    for label in (one_hot[0], labels[0], labels[:1], int(labels[0]), list(one_hot[0])):
        adversary = generate_image_adversary(model, images[:1], label, 0.1)
        np.testing.assert_array_equal(adversary, expected)


def test_model_runs_in_inference_mode(images, one_hot):
    model = keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            keras.layers.BatchNormalization(),
            keras.layers.Flatten(),
            keras.layers.Dropout(0.9),
            keras.layers.Dense(3, activation="softmax"),
        ]
    )
    before = model.get_weights()
    first = generate_image_adversary(model, images, one_hot, 0.1)
    second = generate_image_adversary(model, images, one_hot, 0.1)
    np.testing.assert_array_equal(first, second)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_follows_the_weights_and_the_layers(model, images, one_hot):
    generate_image_adversary(model, images, one_hot, 0.1)
    model.set_weights([-2 * weight for weight in model.get_weights()])
    np.testing.assert_array_equal(
        generate_image_adversary(model, images, one_hot, 0.1),
        per_image_loop(model, images, one_hot, np.float32(0.1)),
    )
    model.pop()
    model.add(keras.layers.Dense(3, activation="softmax"))
    np.testing.assert_array_equal(
        generate_image_adversary(model, images, one_hot, 0.1),
        per_image_loop(model, images, one_hot, np.float32(0.1)),
    )


def test_compiled_once_for_all_batch_sizes(model, images, one_hot):
    traced = []

    def loss(targets, outputs):
        traced.append(outputs.shape)
        return keras.losses.mean_squared_error(targets, outputs)

    for count in (1, 7, 20, 3):
        generate_image_adversary(
            model, images[:count], one_hot[:count], 0.1 * count, loss=loss
        )
    assert traced == [(None, 3)]


def test_many_models_raise_no_retracing_warnings(images, one_hot, caplog):
    for _ in range(7):
        generate_image_adversary(build_classifier(), images, one_hot, 0.1)
    assert "retracing" not in caplog.text


def test_follows_the_layers_of_nested_models(images, one_hot):
    inner = keras.Sequential([keras.Input((36,)), keras.layers.Dense(3)])
    model = keras.Sequential(
        [keras.Input((6, 6, 1)), keras.layers.Flatten(), inner, keras.layers.Softmax()]
    )
    generate_image_adversary(model, images, one_hot, 0.1)
    inner.pop()
    inner.add(keras.layers.Dense(3))
    np.testing.assert_array_equal(
        generate_image_adversary(model, images, one_hot, 0.1),
        per_image_loop(model, images, one_hot, np.float32(0.1)),
    )


class NeedsTraining(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(3, activation="softmax")

    def call(self, images, training):
        return {"classes": self.dense(keras.ops.reshape(images, (-1, 36)))}


def test_models_that_are_not_built_yet(images, one_hot):
    deferred = keras.Sequential(
        [keras.layers.Flatten(), keras.layers.Dense(3, activation="softmax")]
    )
    for model, inner in [(deferred, lambda m: m), (NeedsTraining(), as_plain)]:
        adversaries = generate_image_adversary(model, images, one_hot, 0.1)
        np.testing.assert_array_equal(
            adversaries,
            per_image_loop(inner(model), images, one_hot, np.float32(0.1)),
        )


def as_plain(model):
    return lambda images, training: model(images, training=training)["classes"]


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "float64"])
def test_other_dtype_policies(policy, images, one_hot):
    model = under_policy(policy, build_classifier)
    adversaries = generate_image_adversary(model, images, one_hot, 0.1)
    assert adversaries.dtype == np.float32
    moved = np.abs(adversaries - images)
    np.testing.assert_allclose(moved[moved > 0], 0.1, atol=1e-6)
    assert (moved > 0).mean() > 0.9


def test_float16_warns_where_the_gradient_underflows(images, one_hot):
    model = under_policy("mixed_float16", build_classifier)
    kernel, bias = model.layers[-1].get_weights()
    model.layers[-1].set_weights([50 * kernel, bias])  # sure of itself
    with pytest.warns(UserWarning, match=r"underflows .*loss='cross_entropy'"):
        generate_image_adversary(model, images, one_hot, 0.1)
    moved = generate_image_adversary(model, images, one_hot, 0.1, loss="cross_entropy")
    assert (moved != images).mean() > 0.9


def test_model_without_a_gradient(images, one_hot):
    rounds = keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            keras.layers.Lambda(lambda x: keras.ops.cast(x, "int32")),
            keras.layers.Flatten(),
        ]
    )
    with pytest.raises(ValueError, match="no gradient"):
        generate_image_adversary(rounds, images, np.zeros((20, 36)), 0.1)


def test_model_can_be_freed(images, one_hot):
    model = build_classifier()
    generate_image_adversary(model, images, one_hot, 0.1)
    reference = weakref.ref(model)
    del model
    gc.collect()
    assert reference() is None


def test_agrees_with_the_adversarial_robustness_toolbox(model, images, one_hot):
    pytest.importorskip("art")
    from art.attacks.evasion import FastGradientMethod

    classifier = art_classifier(model, keras.losses.MeanSquaredError())
    theirs = FastGradientMethod(classifier, eps=0.1).generate(images, one_hot)
    ours = generate_image_adversary(model, images, one_hot, 0.1, clip=(0.0, 1.0))
    np.testing.assert_allclose(ours, theirs, atol=1e-6)


def two_inputs():
    first, second = keras.Input((6, 6, 1)), keras.Input((6, 6, 1))
    return keras.Model([first, second], keras.layers.add([first, second]))


def two_outputs():
    image = keras.Input((6, 6, 1))
    return keras.Model(image, [keras.layers.Flatten()(image), image])


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"model": "m"}, TypeError, "model .*str"),
        ({"model": two_inputs()}, ValueError, "model must take"),
        ({"model": two_outputs()}, ValueError, "model must have one output, got 2"),
        ({"model": build_classifier((7, 7, 1))}, ValueError, r"\(6, 6, 1\)"),
        ({"image": np.zeros((0, 6, 6, 1))}, ValueError, "image"),
        ({"image": np.full((20, 6, 6, 1), np.nan)}, ValueError, "image .*NaN"),
        ({"image": np.array([["a"]])}, TypeError, "image .*<U1"),
        ({"label": np.zeros((20, 4))}, ValueError, r"label .*\(20, 3\).*\(20, 4\)"),
        ({"label": np.full(20, 3)}, ValueError, "label .*0 to 2.*3"),
        ({"label": np.full(20, -1)}, ValueError, "label .*0 to 2.*-1"),
        ({"label": np.full(20, 0.5)}, ValueError, "label .*0.5"),
        ({"label": np.full((20, 3), np.inf)}, ValueError, "label"),
        ({"label": ["a"] * 20}, TypeError, "label"),
        ({"eps": -0.1}, ValueError, "eps .*-0.1"),
        ({"eps": np.nan}, ValueError, "eps .*nan"),
        ({"eps": "large"}, TypeError, "eps .*large"),
        ({"eps": "0.1"}, TypeError, "eps .*'0.1'"),
        ({"loss": "no such loss"}, ValueError, "loss.*no such loss"),
        ({"loss": None}, ValueError, "loss .*None"),
        ({"loss": ["mse"]}, ValueError, "loss .*mse"),
        ({"image": np.full((20, 6, 6, 1), 1e39)}, ValueError, "image .*infinity"),
        ({"eps": 1e39}, ValueError, "eps .*1e[+]39"),
        ({"clip": (1, 0)}, ValueError, "clip.*1 .*0"),
        ({"clip": 1}, ValueError, "clip .*1"),
        ({"clip": (0, np.nan)}, ValueError, "clip.*NaN"),
        ({"clip": ("a", "b")}, TypeError, "clip.*a"),
    ],
)
def test_wrong_arguments_are_named(model, images, one_hot, changed, error, message):
    arguments = {"model": model, "image": images, "label": one_hot, "eps": 0.1}
    with pytest.raises(error, match=message):
        generate_image_adversary(**(arguments | changed))
