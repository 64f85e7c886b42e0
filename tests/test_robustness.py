import functools
import os
import warnings

import keras
import numpy as np
import pytest
from conftest import answers, build_classifier, two_outputs, under_policy
from keras import layers, ops
from sklearn.datasets import load_digits

from pyimagesearch.attacks import projected_gradient_descent
from pyimagesearch.datagen import generate_mixed_adversarial_batch, in_step
from pyimagesearch.experiment.data import load
from pyimagesearch.fgsm import generate_image_adversary
from pyimagesearch.robustness import evaluate_robustness
from pyimagesearch.robustness.transfer import train_substitute
from pyimagesearch.simplecnn import SimpleCNN

MNIST_NPZ = os.environ.get("MNIST_NPZ")
SQUARE, TRANSFER = "Square, on what is left", "transfer (black box)"
ATTACKS = [
    "uniform noise",
    "random signs",
    "FGSM",
    "BIM",
    "PGD, cross-entropy",
    "PGD, margin",
    "PGD, targeted",
    SQUARE,
]

quick = functools.partial(evaluate_robustness, steps=5, queries=50, verbose=False)
sparse_loss = keras.losses.SparseCategoricalCrossentropy
binary_loss = keras.losses.BinaryCrossentropy


def messages(found):
    return [str(warning.message) for warning in found]


def by_attack(rows, eps):
    return {row.attack: row for row in rows if row.eps == eps}


def without_seconds(rows):
    return [row._replace(seconds=0) for row in rows]


@pytest.fixture
def hard_labels(model, images):
    """Class ids of which the model gets three in four right."""
    return (answers(model, images) + (np.arange(20) % 4 == 0)) % 3


def on_images(function, *after):
    """Build a classifier that starts with a function of images (6, 6, 1)."""
    inputs = keras.Input((6, 6, 1))
    outputs = function(inputs)
    for layer in after:
        outputs = layer(outputs)
    return keras.Model(inputs, outputs)


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


# What the rows mean.


def test_rows_and_what_they_mean(model, images, hard_labels):
    rows = quick(model, images, hard_labels, [0.02, 0.1], rng=0)
    one_eps = [*ATTACKS, "worst case"]
    assert [row.attack for row in rows] == ["clean", *one_eps, *one_eps]
    assert [row.eps for row in rows] == [0, *[0.02] * 9, *[0.1] * 9]
    clean, *others = rows
    assert clean.accuracy == 0.75
    one_hot = np.eye(3)[hard_labels]
    loss = keras.losses.categorical_crossentropy(one_hot, model(images)).numpy().mean()
    assert clean.loss == pytest.approx(loss, rel=1e-5)
    assert clean.mean_perturbation == clean.largest_perturbation == 0
    for row in others:
        assert 0 < row.mean_perturbation <= row.largest_perturbation
        assert 0.99 * row.eps < row.largest_perturbation < 1.00001 * row.eps
        assert row.seconds > 0 and row.accuracy <= 0.75
    for eps in (0.02, 0.1):
        *attacks, worst = by_attack(rows, eps).values()
        assert worst.accuracy <= min(row.accuracy for row in attacks)
        assert worst.loss >= clean.loss


def test_an_attacks_own_row_counts_all_that_is_right_unaided(
    model, images, hard_labels
):
    rows = by_attack(quick(model, images, hard_labels, 0.05), 0.05)
    adversaries = generate_image_adversary(
        model, images, hard_labels, 0.05, loss="cross_entropy", clip=(0, 1)
    )
    stands = answers(model, images) == hard_labels
    stands &= answers(model, adversaries) == hard_labels
    assert 0 < stands.mean() < 0.75
    assert rows["FGSM"].accuracy == pytest.approx(stands.mean())


def test_worst_case_joins_attacks_that_fool_on_different_images():
    def function(images):
        """Return logits: the corner tells which attack is of use."""
        corner, rest = images[:, :1, 0], images[:, 1:]
        changed = ops.min(ops.abs(ops.stop_gradient(rest) - 0.5), axis=(1, 2))
        by_signs = ops.where(changed > 0.099, 1.0, -1.0)  # and by nothing else
        by_gradient = 10 * (ops.mean(rest, axis=(1, 2)) - 0.55)
        score = ops.where(corner[:, 0] > 0.5, by_signs, by_gradient)
        return ops.concatenate([-score, score], axis=1)

    images = np.full((4, 6, 6, 1), 0.5, np.float32)
    images[2:] = 0.1  # nothing fools
    images[:, 0] = np.float32([1, 0, 0, 0])[:, None, None]
    with pytest.warns(UserWarning, match="gradient of the loss is zero") as found:
        rows = quick(on_images(function), images, np.zeros(4), 0.1, rng=0)
    accuracies = {row.attack: row.accuracy for row in rows[1:]}
    gradient_attacks = dict.fromkeys(ATTACKS[2:7], 0.75)
    assert accuracies == {
        "uniform noise": 1.0,
        "random signs": 0.75,
        **gradient_attacks,
        SQUARE: 0.5,
        "worst case": 0.5,
    }
    assert not any("Square" in text for text in messages(found))  # it found nothing


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

    guarded = on_images(nan_if_invalid, *model.layers)
    assert np.isnan(guarded(images + 1)).all()
    labels = answers(model, images)
    rows = by_attack(quick(guarded, images, labels, 0.3, rng=0), 0.3)
    assert rows["FGSM"].loss > rows["random signs"].loss > rows["uniform noise"].loss
    assert rows["BIM"].loss > rows["FGSM"].loss
    inside = 0.4 + 0.2 * images
    labels = answers(model, inside)
    rows = by_attack(quick(guarded, inside, labels, 0.3, rng=0), 0.3)
    assert rows["uniform noise"].mean_perturbation == pytest.approx(0.15, rel=0.05)
    for name in ("random signs", "FGSM"):
        assert rows[name].mean_perturbation == pytest.approx(0.3, rel=1e-4)


def test_same_seed_same_rows_in_any_label_format(model, images, hard_labels):
    def figures(labels, rng):
        return without_seconds(quick(model, images, labels, 0.05, rng=rng))

    expected = figures(hard_labels, 1)
    assert figures(hard_labels, 2) != expected
    for labels in (hard_labels, hard_labels[:, np.newaxis], np.eye(3)[hard_labels]):
        assert figures(labels, 1) == expected


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(5)

    def call(self, images):
        return self.dense(ops.reshape(images, (-1, 32 * 32 * 3)))


def functional():
    image = keras.Input((32, 32, 3))
    hidden = layers.Rescaling(1 / 127.5, offset=-1)(image)
    hidden = layers.Conv2D(8, 3, strides=4, activation="relu")(hidden)
    hidden = layers.GlobalAveragePooling2D()(hidden)
    return keras.Model(image, layers.Dense(5, activation="softmax")(hidden))


@pytest.mark.parametrize("build", [functional, Subclassed])
def test_colour_images_from_0_to_255_and_integer_labels(build):
    model = build()
    images = np.random.default_rng(0).integers(256, size=(12, 32, 32, 3))
    labels = answers(model, np.float32(images))
    rows = by_attack(quick(model, np.uint8(images), labels, 16, (0, 255)), 16)
    assert rows["uniform noise"].largest_perturbation <= 16
    assert rows["FGSM"].largest_perturbation == pytest.approx(16)
    assert rows["worst case"].accuracy <= 0.5


@pytest.mark.parametrize("shape", [(36,), (18, 2)])
def test_vectors_and_series(shape, images):
    model = keras.Sequential(
        [keras.Input(shape), layers.Flatten(), layers.Dense(3, activation="softmax")]
    )
    images = images.reshape(-1, *shape)
    rows = quick(model, images, answers(model, images), 0.3)
    assert rows[0].accuracy == 1 and rows[-1].accuracy < 0.5


# The clean row is what the model itself has right.


def build_kind(activation, classes, images):
    """Return a compiled classifier that answers with each class, and labels."""
    model = build_classifier(classes=classes, activation=None)
    model.layers[-1].bias.assign(-np.median(model(images), axis=0))
    labels = model(images).numpy().argmax(axis=1)
    if classes == 1:
        labels = (model(images).numpy()[:, 0] > 0).astype(int)
    labels[::4] = (labels[::4] + 1) % max(2, classes)
    if activation:
        model = keras.Sequential([*model.layers, layers.Activation(activation)])
    loss = [sparse_loss, binary_loss][classes == 1](from_logits=activation is None)
    threshold = 0.5 if activation else 0.0
    metric = keras.metrics.BinaryAccuracy("accuracy", threshold=threshold)
    metrics = [metric if classes == 1 else "accuracy"]
    model.compile("adam", loss, metrics=metrics)
    return model, labels


@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("is_logit", [False, True])
def test_clean_row_is_what_evaluate_says(classes, is_logit, images):
    activation = None if is_logit else {1: "sigmoid", 3: "softmax"}[classes]
    model, labels = build_kind(activation, classes, images)
    rows = quick(model, images, labels, 0.5)
    loss, accuracy = model.evaluate(images, labels, verbose=0)
    assert rows[0].accuracy == pytest.approx(accuracy) == 0.75
    assert rows[0].loss == pytest.approx(loss, rel=1e-4)
    assert rows[-1].accuracy < 0.5


@pytest.mark.parametrize("kind", ["average", "compiled average", "saved model"])
def test_sigmoid_that_is_not_the_last_operation(kind, images, tmp_path):
    one, other = (build_kind("sigmoid", 1, images)[0] for _ in range(2))
    inputs = keras.Input((6, 6, 1))
    outputs = layers.Average()([one(inputs), other(inputs)])
    if kind == "saved model":
        one.export(tmp_path / "saved", verbose=False)
        endpoint = {"call_endpoint": "serving_default"}
        outputs = layers.TFSMLayer(str(tmp_path / "saved"), **endpoint)(inputs)
    model = keras.Model(inputs, outputs)
    probabilities = keras.tree.flatten(model(images))[0].numpy()[:, 0]
    labels = (probabilities > 0.5).astype(int)
    assert 0 < labels.sum() < 20
    labels[0] = 1 - labels[0]
    if "compiled" in kind:
        model.compile("adam", "binary_crossentropy", metrics=["accuracy"])
    with pytest.warns(UserWarning, match="no logits behind the probabilities"):
        rows = by_attack(quick(model, images, labels, 0.2), 0.2)
    adversaries = generate_image_adversary(
        model, images, labels, 0.2, loss="binary_crossentropy", clip=(0, 1)
    )
    attacked = keras.tree.flatten(model(adversaries))[0].numpy()[:, 0] > 0.5
    stands = (attacked == labels) & ((probabilities > 0.5) == labels)
    assert rows["FGSM"].accuracy == pytest.approx(stands.mean())


def test_logits_that_look_like_probabilities(images):
    """One output, all of it from 0 to 1: as logits, each answer is class 1."""
    model = build_classifier(classes=1, activation="sigmoid")
    logits = keras.Sequential([*model.layers, layers.Rescaling(1.0)])
    labels = (model(images).numpy()[:, 0] > 0.5).astype(int)
    with pytest.warns(UserWarning, match="no logits"):
        assert quick(logits, images, labels, 0.1)[0].accuracy == 1
    expected = pytest.approx(labels.mean())
    rows = quick(logits, images, labels, 0, from_logits=True)
    assert rows[0].accuracy == expected
    accuracy = keras.metrics.BinaryAccuracy(threshold=0)
    logits.compile("adam", binary_loss(from_logits=True), metrics=[accuracy])
    assert quick(logits, images, labels, 0)[0].accuracy == expected


def test_clean_row_never_disagrees_with_the_compiled_accuracy(images):
    model, labels = build_kind(None, 1, images)
    model.layers[-1].bias.assign([0.3])
    labels = (model(images).numpy()[:, 0] > 0).astype(int)
    # Keras holds its "accuracy" against 0.5 also where outputs are logits.
    model.compile("adam", binary_loss(from_logits=True), metrics=["accuracy"])
    with pytest.raises(ValueError, match=r"1\.000 by its classes.*from_logits="):
        quick(model, images, labels)
    assert quick(model, images, labels, from_logits=True)[0].accuracy == 1


def test_a_model_that_was_compiled_for_other_labels_is_evaluated(model, images):
    """Its own loss takes class ids and is hidden in a function."""

    def loss(targets, outputs):
        return keras.losses.sparse_categorical_crossentropy(targets, outputs)

    model.compile("adam", loss, metrics=["accuracy"])
    labels = answers(model, images)
    assert quick(model, images, labels, 0.0)[0].accuracy == 1


def test_report_follows_a_model_that_was_compiled_again(images):
    scale = layers.Rescaling(1.0)
    inner = build_classifier()
    model = keras.Sequential([keras.Input((6, 6, 1)), scale, inner])
    model.compile("adam", sparse_loss(), metrics=["accuracy"])
    labels = answers(model, images)
    assert quick(model, images, labels, 0.1)[0].accuracy == 1
    scale.scale = -3.0
    model.compile("adam", sparse_loss(), metrics=["accuracy"])
    _, accuracy = model.evaluate(images, labels, verbose=0)
    assert accuracy < 0.9
    rows = quick(model, images, labels, 0.1)
    assert rows[0].accuracy == pytest.approx(accuracy)


# What is no classifier, or does not fit.


def dense(classes, activation=None, loss=None):
    model = build_classifier(classes=classes, activation=activation)
    if loss:
        model.compile("adam", loss)
    return model


@pytest.mark.parametrize(
    ("build", "labels", "message"),
    [
        (lambda: dense(1, "sigmoid"), np.arange(20) % 2 + 1, "0 or 1 .*from 1 to 2"),
        (lambda: dense(1, "tanh"), np.arange(20) % 2 * 2 - 1, "0 or 1 .*from -1"),
        (lambda: dense(1, None, "mse"), np.arange(20), "0 or 1 .*regression"),
        (lambda: dense(1, None, "mse"), np.arange(20) % 2, "from_logits=True"),
        (lambda: dense(2), np.random.default_rng(0).random((20, 2)), "one class an"),
        (
            lambda: dense(3, "sigmoid"),
            np.random.default_rng(0).integers(2, size=(20, 3)),
            "several labels",
        ),
        (
            lambda: keras.Sequential([keras.Input((6, 6, 1)), layers.Conv2D(3, 1)]),
            np.zeros((20, 6, 6), int),
            "a row of classes",
        ),
    ],
)
def test_what_is_no_classifier_is_refused(build, labels, message, images):
    with pytest.raises(ValueError, match=message) as raised:
        quick(build(), images, labels)
    assert len(str(raised.value)) <= 300 and "\n" not in str(raised.value)


def diverged():
    model = build_classifier()
    model.set_weights([np.full_like(array, np.nan) for array in model.get_weights()])
    return model


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"images": np.full((20, 6, 6, 1), 1.1)}, "images .*1.1"),
        ({"images": np.zeros((6, 6, 1)), "labels": [1]}, "batch axis"),
        ({"clip": None}, "clip .*None"),
        ({"clip": (0, 0)}, "clip"),
        ({"eps": [0.1, -0.1]}, "eps .*-0.1"),
        ({"eps": 1.5}, "eps .*0 to 1.*1.5"),
        ({"model": two_outputs()}, "one output"),
        ({"model": diverged()}, "NaN or infinity for 20 of 20"),
        ({"attacker_images": np.zeros((3, 5, 5, 1))}, "attacker_.*5, 5"),
        ({"attacker_images": np.full((3, 6, 6, 1), 9)}, "attacker_.*9"),
    ],
)
def test_wrong_arguments_are_named(model, images, labels, changed, message):
    arguments = {"model": model, "images": images, "labels": labels}
    with pytest.raises(ValueError, match=message):
        evaluate_robustness(**(arguments | changed))


# A model that answers at random.


class Noisy(layers.Layer):
    """Adds noise also in inference mode, as a few defences do."""

    def __init__(self, scale):
        super().__init__()
        self.scale, self.seeds = scale, keras.random.SeedGenerator(0)

    def call(self, inputs):
        noise = keras.random.normal(ops.shape(inputs), seed=self.seeds)
        return inputs + self.scale * noise


@pytest.mark.parametrize("compiled", [False, True])
def test_eps_0_equals_clean_for_a_model_that_answers_at_random(compiled, images):
    model = build_classifier(activation=None)
    noisy = keras.Sequential([*model.layers, Noisy(0.3)])
    labels = (answers(model, images) + (np.arange(20) % 4 == 0)) % 3
    if compiled:
        noisy.compile("adam", sparse_loss(from_logits=True), metrics=["accuracy"])
    with pytest.warns(UserWarning, match="answers at random"):
        clean, *rows = quick(noisy, images, labels, 0)
    assert 0.4 < clean.accuracy < 1
    assert len(rows) == 9
    for row in rows:
        assert (row.accuracy, row.loss) == (clean.accuracy, clean.loss)
        assert row.largest_perturbation == 0


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_model_that_answers_at_random_and_is_always_wrong(images):
    model = build_classifier(activation=None)
    model.layers[-1].bias.assign([0, 0, -100])
    noisy = keras.Sequential([*model.layers, Noisy(0.3)])
    rows = quick(noisy, images, np.full(20, 2), 0.1)
    assert {row.accuracy for row in rows} == {0}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_worst_case_of_a_model_that_answers_at_random_is_fair():
    """Adversaries against the network without its noise, judged with fresh noise.

    The unluckiest of all rows' draws of the noise would be 0.15 lower.
    """
    images, labels = load_digits(return_X_y=True)
    images = images.reshape(-1, 8, 8, 1) / 16
    model = keras.Sequential([keras.Input((8, 8, 1)), layers.Flatten()])
    model.add(layers.Dense(64, activation="relu"))
    model.add(layers.Dense(10))
    model.compile("adam", sparse_loss(from_logits=True))
    model.fit(images[:1400], labels[:1400], epochs=10, verbose=0)
    noisy = keras.Sequential([model, Noisy(3.0)])
    images, labels = images[1400:], labels[1400:]
    adversaries = projected_gradient_descent(
        model, images, labels, 0.1, loss="margin", clip=(0, 1), rng=0
    )
    stands = [
        sum(noisy(adversaries).numpy() for _ in range(16)).argmax(axis=1) == labels
        for _ in range(10)
    ]
    *_, worst = quick(noisy, images, labels, 0.1, steps=20, rng=0)
    assert worst.accuracy == pytest.approx(np.mean(stands), abs=0.1)


# Gradients that mislead.


def rounded(images):
    return brightness(ops.floor(images * 255) / 255)


@pytest.mark.parametrize("eps", [0.05, [0.05, 1.0]])
def test_useless_gradients_are_warned_of_at_each_eps(eps, dark_and_bright):
    images, labels = dark_and_bright
    with pytest.warns(UserWarning) as found:
        rows = quick(on_images(rounded), images, labels, eps)
    assert rows[0].accuracy == 1
    doubts = [text for text in messages(found) if "eps 0.05:" in text]
    assert any("withstand even half of the range" in text for text in doubts)


def test_square_says_so_where_it_beats_pgd(dark_and_bright):
    images, labels = dark_and_bright
    with pytest.warns(UserWarning, match="the Square attack, without a gradient"):
        rows = quick(on_images(rounded), images, labels, 0.12, queries=400, rng=0)
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
        shown = side * true
        return ops.stop_gradient(true - shown) + shown

    with pytest.warns(UserWarning, match="PGD is weaker than FGSM"):
        quick(on_images(function), images, labels, 0.15)


@pytest.mark.filterwarnings("error")
def test_gradients_that_are_of_use_are_not_warned_of(images, model):
    quick(model, images, answers(model, images), 0.01, steps=30)


def test_each_trouble_is_warned_of_once(dark_and_bright):
    images, labels = dark_and_bright
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        quick(on_images(rounded), images, labels, [0.01, 0.02])
    zero = [warning for warning in found if "is zero" in str(warning.message)]
    assert len(zero) == 1
    assert zero[0].filename == __file__


def test_nan_in_a_gradient_counts_as_zero(images):
    """As in the usual sRGB curve, whose unused branch has NaN gradients at black."""

    def to_srgb(images):
        curve = 1.055 * ops.power(images, 1 / 2.4) - 0.055
        return ops.where(images <= 0.003, 12.9 * images, curve)

    model = on_images(to_srgb, *build_classifier().layers)
    images = np.where(images < 0.3, 0, images)
    labels = answers(model, images)
    with pytest.warns(UserWarning, match="NaN"):
        rows = by_attack(quick(model, images, labels, 0.1), 0.1)
    tried = []
    for image, label in zip(images, labels, strict=True):
        adversary = image.copy()
        for place in zip(*np.nonzero(image), strict=True):  # by finite differences
            nearby = np.stack([image, image])
            nearby[(slice(None), *place)] += np.float32([1e-2, -1e-2])
            up, down = np.log(model(nearby).numpy()[:, label])
            adversary[place] += 0.1 * np.sign(down - up)
        tried.append(np.clip(adversary, 0, 1))
    stands = answers(model, np.stack(tried)) == labels
    assert rows["FGSM"].accuracy == pytest.approx(stands.mean(), abs=0.051)
    assert stands.mean() < 0.9
    assert all(np.isfinite(row[1:]).all() for row in rows.values())


# The black-box attacker.


@pytest.mark.slow
def test_transfer_fools_a_network_that_it_never_saw(digits):
    """The attacked network shows no gradient, as its pixels are rounded."""
    model, (own_images, _), (images, labels) = digits
    images, labels = images[:100], labels[:100]
    inputs = keras.Input((28, 28, 1))
    without_gradient = keras.Model(inputs, model(ops.floor(inputs * 255) / 255))
    with pytest.warns(UserWarning, match="the black-box attack is stronger than PGD"):
        rows = quick(
            without_gradient, images, labels, 0.2, attacker_images=own_images, rng=0
        )
    rows = by_attack(rows, 0.2)
    black_box = rows[TRANSFER].accuracy
    adversaries = projected_gradient_descent(model, images, labels, 0.2, clip=(0, 1))
    white_box = (answers(model, adversaries) == labels.argmax(axis=1)).mean()
    assert black_box <= rows["random signs"].accuracy - 0.2
    assert black_box >= white_box + 0.1
    assert rows["worst case"].accuracy <= black_box


@pytest.mark.slow
def test_substitute_learns_the_answers():
    images = np.random.default_rng(0).random((300, 6, 6, 1)) * 0.5
    images = images + np.random.default_rng(1).random((300, 1, 1, 1)) * 9.5
    bright = (images.mean(axis=(1, 2, 3)) > 5).astype(int)
    substitute = train_substitute(images[:200], bright[:200], (0, 10))
    assert (answers(substitute, images[200:]) == bright[200:]).mean() > 0.8


@pytest.mark.parametrize("seed", [0, 1])
def test_substitute_does_not_start_from_the_targets_weights(seed, monkeypatch):
    monkeypatch.setattr(keras.Model, "fit", lambda *args, **settings: None)

    def start(rng, keras_seed=seed):
        keras.utils.set_random_seed(keras_seed)
        images = np.random.default_rng(0).random((9, 8, 8, 1))
        return train_substitute(images, np.arange(9) % 3, rng=rng).get_weights()

    keras.utils.set_random_seed(seed)
    target = SimpleCNN.build(8, 8, 1, 3)
    kernels = [i for i, weight in enumerate(target.weights) if weight.name == "kernel"]
    assert len(kernels) == 4
    for i in kernels:
        own, targets = start(rng=seed)[i], target.get_weights()[i]
        assert abs(np.corrcoef(own.ravel(), targets.ravel())[0, 1]) < 0.2
        assert own.std() == pytest.approx(targets.std(), rel=0.2)  # Keras's own scale
        np.testing.assert_array_equal(own, start(seed, keras_seed=seed + 5)[i])
        assert (own != start(rng=seed + 1)[i]).mean() > 0.9


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"images": np.zeros((4, 36))}, r"images .*\(4, 36\)"),
        ({"answers": [0, 1, 1]}, r"answers .*class ids \(4,\), got \(3,\)"),
        ({"answers": [-1, 1, 1, 1]}, "answers .*-1"),
        ({"answers": [0.5, 1, 1, 1]}, "answers .*class ids"),
        ({"answers": [0, 1, 2, 1], "classes": 2}, r"answers .*0 to 1, got .* 0 to 2"),
        ({"clip": None}, "in a clip"),
    ],
)
def test_wrong_lessons_for_a_substitute_are_named(changed, message):
    arguments = {"images": np.zeros((4, 6, 6, 1)), "answers": [0, 1, 1, 0]}
    with pytest.raises(ValueError, match=message):
        train_substitute(**(arguments | changed))


# At the size of real use, and beside other libraries.


@pytest.mark.slow
def test_model_of_imagenets_size():
    model = keras.applications.ResNet50(weights=None)
    images = np.random.default_rng(0).integers(256, size=(2, 224, 224, 3))
    labels = answers(model, np.float32(images))
    rows = quick(model, images, labels, 8, (0, 255), steps=3, queries=3)
    assert rows[0].accuracy == 1
    assert rows[-1].accuracy <= rows[1].accuracy


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_attacks_in_mixed_precision_are_as_strong(policy, digits):
    """One network's answers to adversaries made in either precision."""
    model, *data = digits
    images, labels = map(np.concatenate, zip(*data, strict=True))
    mixed = under_policy(policy, SimpleCNN.build, 28, 28, 1, 10)
    mixed.set_weights(model.get_weights())
    fgsm = functools.partial(generate_image_adversary, loss="cross_entropy")
    pgd = functools.partial(projected_gradient_descent, steps=10, rng=0)
    for attack in (fgsm, pgd):
        adversaries = (attack(each, images, labels, 0.03) for each in (model, mixed))
        accuracy, mixed_accuracy = (
            (answers(model, given) == labels.argmax(axis=1)).mean()
            for given in adversaries
        )
        assert 0.1 < accuracy < 0.9
        assert mixed_accuracy == pytest.approx(accuracy, abs=0.01)


@pytest.mark.slow
@pytest.mark.skipif(not MNIST_NPZ, reason="MNIST_NPZ names no file")
def test_worst_case_is_no_weaker_than_arts_auto_pgd():
    pytest.importorskip("art")
    from art.attacks.evasion import AutoProjectedGradientDescent
    from art.estimators.classification import TensorFlowV2Classifier

    train, (images, labels) = load(MNIST_NPZ)
    train, images, labels = [a[:20_000] for a in train], images[:40], labels[:40]
    logits = keras.Sequential(SimpleCNN.build(28, 28, 1, 10).layers[:-1])
    model = keras.Sequential([logits, layers.Softmax()])
    model.compile("adam", "categorical_crossentropy")
    model.fit(*train, batch_size=64, epochs=1, verbose=0)
    batches = generate_mixed_adversarial_batch(model, 64, *train, (28, 28, 1), 0.1)
    model.fit(in_step(batches), steps_per_epoch=300, shuffle=False, verbose=0)

    stands = answers(model, images) == labels.argmax(axis=1)
    for attacked, name in [
        (model, "cross_entropy"),
        (logits, "difference_logits_ratio"),
    ]:
        loss = keras.losses.CategoricalCrossentropy(from_logits=attacked is logits)
        classifier = TensorFlowV2Classifier(
            attacked, 10, (28, 28, 1), loss_object=loss, clip_values=(0.0, 1.0)
        )
        attack = AutoProjectedGradientDescent(
            classifier, eps=0.1, nb_random_init=1, loss_type=name, verbose=False
        )
        adversaries = attack.generate(images, labels)
        stands &= answers(model, adversaries) == labels.argmax(axis=1)
    *_, worst = evaluate_robustness(model, images, labels, 0.1, rng=0, verbose=False)
    assert 0.1 < stands.mean() < 0.95  # otherwise it says little
    assert worst.accuracy <= stands.mean()
