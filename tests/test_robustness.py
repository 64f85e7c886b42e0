import functools
import warnings

import keras
import numpy as np
import pytest
from conftest import answers, build_classifier, two_outputs, under_policy
from keras import layers, ops

from pyimagesearch.attacks import projected_gradient_descent
from pyimagesearch.fgsm import generate_image_adversary
from pyimagesearch.robustness import evaluate_robustness
from pyimagesearch.simplecnn import SimpleCNN

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
    assert [row.eps for row in rows] == [0, *[0.02] * 10, *[0.1] * 10]
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
    with pytest.warns(UserWarning, match="gradient of the loss is zero") as found:
        rows = quick(on_images(function), images, np.zeros(4), 0.1, rng=0)
    accuracies = {row.attack: row.accuracy for row in rows[1:]}
    gradient_attacks = dict.fromkeys(ATTACKS[2:8], 0.75)
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
        return self.dense(ops.reshape(images, (-1, 224 * 224 * 3)))


def functional():
    image = keras.Input((224, 224, 3))
    hidden = layers.Rescaling(1 / 127.5, offset=-1)(image)
    hidden = layers.Conv2D(8, 3, strides=4, activation="relu")(hidden)
    hidden = layers.GlobalAveragePooling2D()(hidden)
    return keras.Model(image, layers.Dense(5, activation="softmax")(hidden))


@pytest.mark.parametrize("build", [functional, Subclassed])
def test_colour_images_from_0_to_255_and_integer_labels(build):
    model = build()
    images = np.random.default_rng(0).integers(256, size=(12, 224, 224, 3))
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
    logits = model(images).numpy()
    is_logit = activation is None
    if activation:
        model = keras.Sequential([*model.layers, layers.Activation(activation)])
    if classes == 1:
        labels = (logits[:, 0] > 0).astype(int)
        threshold = 0.0 if is_logit else 0.5
        metric = keras.metrics.BinaryAccuracy("accuracy", threshold=threshold)
        model.compile("adam", binary_loss(from_logits=is_logit), metrics=[metric])
    else:
        labels = logits.argmax(axis=1)
        loss = sparse_loss(from_logits=is_logit)
        model.compile("adam", loss, metrics=["accuracy"])
    labels[::4] = (labels[::4] + 1) % max(2, classes)
    return model, labels


@pytest.mark.parametrize(
    ("activation", "classes"), [(None, 1), ("sigmoid", 1), (None, 3), ("softmax", 3)]
)
def test_clean_row_is_what_evaluate_says(activation, classes, images):
    model, labels = build_kind(activation, classes, images)
    rows = quick(model, images, labels, 0.5)
    loss, accuracy = model.evaluate(images, labels, verbose=0)
    assert rows[0].accuracy == pytest.approx(accuracy) == 0.75
    assert rows[0].loss == pytest.approx(loss, rel=1e-4)
    assert rows[-1].accuracy < 0.5


@pytest.mark.parametrize("is_saved_model", [False, True])
def test_sigmoid_that_is_not_the_last_operation(is_saved_model, images, tmp_path):
    one, _ = build_kind("sigmoid", 1, images)
    other, _ = build_kind("sigmoid", 1, images)
    inputs = keras.Input((6, 6, 1))
    outputs = layers.Average()([one(inputs), other(inputs)])
    if is_saved_model:
        path = str(tmp_path / "saved")
        one.export(path, verbose=False)
        outputs = layers.TFSMLayer(path, call_endpoint="serving_default")(inputs)
    model = keras.Model(inputs, outputs)
    model.compile("adam", "binary_crossentropy", metrics=["accuracy"])
    probabilities = keras.tree.flatten(model(images))[0].numpy()[:, 0]
    labels = (probabilities > 0.5).astype(int)
    assert 0 < labels.sum() < 20
    labels[0] = 1 - labels[0]
    with pytest.warns(UserWarning, match="no logits behind the model's probabilities"):
        rows = by_attack(quick(model, images, labels, 0.2), 0.2)
    adversaries = generate_image_adversary(
        model, images, labels, 0.2, loss="binary_crossentropy", clip=(0, 1)
    )
    attacked = keras.tree.flatten(model(adversaries))[0].numpy()[:, 0] > 0.5
    stands = (attacked == labels) & ((probabilities > 0.5) == labels)
    assert rows["FGSM"].accuracy == pytest.approx(stands.mean())


def test_a_single_score_is_what_the_user_or_the_compiled_loss_says(images):
    """It is from 0 to 1, with no sigmoid at the end; as a logit, it means class 1."""
    model = build_classifier(classes=1, activation="sigmoid")
    scores = keras.Sequential([*model.layers, layers.Rescaling(1.0)])
    labels = (model(images).numpy()[:, 0] > 0.5).astype(int)
    with pytest.raises(ValueError, match="a logit or a probability: give from_logits="):
        quick(scores, images, labels, 0)
    with pytest.warns(UserWarning, match="no logits"):
        rows = quick(scores, images, labels, 0, from_logits=False)
    assert rows[0].accuracy == 1
    expected = pytest.approx(labels.mean())
    rows = quick(scores, images, labels, 0, from_logits=True)
    assert rows[0].accuracy == expected
    accuracy = keras.metrics.BinaryAccuracy(threshold=0)
    scores.compile("adam", binary_loss(from_logits=True), metrics=[accuracy])
    assert quick(scores, images, labels, 0)[0].accuracy == expected


def test_clean_row_never_disagrees_with_the_compiled_accuracy(images):
    model, _ = build_kind(None, 1, images)
    model.layers[-1].bias.assign([0.3])
    labels = (model(images).numpy()[:, 0] > 0).astype(int)
    # Keras holds its "accuracy" against 0.5 also where outputs are logits.
    model.compile("adam", binary_loss(from_logits=True), metrics=["accuracy"])
    with pytest.raises(ValueError, match=r"1\.000 by its classes.*from_logits="):
        quick(model, images, labels, 0)
    assert quick(model, images, labels, 0, from_logits=True)[0].accuracy == 1


def test_a_model_that_was_compiled_for_other_labels_is_evaluated(model, images):
    """Its own loss takes class ids and is hidden in a function."""

    def loss(targets, outputs):
        return keras.losses.sparse_categorical_crossentropy(targets, outputs)

    model.compile("adam", loss, metrics=["accuracy"])
    labels = answers(model, images)
    assert quick(model, images, labels, 0)[0].accuracy == 1


def test_report_follows_a_model_that_was_compiled_again(images):
    scale = layers.Rescaling(1.0)
    model = keras.Sequential([keras.Input((6, 6, 1)), scale, build_classifier()])
    model.compile("adam", sparse_loss(), metrics=["accuracy"])
    labels = answers(model, images)
    assert quick(model, images, labels, 0)[0].accuracy == 1
    scale.scale = -3.0
    model.compile("adam", sparse_loss(), metrics=["accuracy"])
    _, accuracy = model.evaluate(images, labels, verbose=0)
    assert accuracy < 0.9
    rows = quick(model, images, labels, 0)
    assert rows[0].accuracy == pytest.approx(accuracy)


# What is no classifier, or does not fit.


SEVERAL = np.random.default_rng(0).integers(2, size=(20, 3))


@pytest.mark.parametrize(
    ("classes", "activation", "labels", "message"),
    [
        (1, "sigmoid", np.arange(20) % 2 + 1, "0 or 1 .*from 1 to 2.*regression"),
        (1, "tanh", np.arange(20) % 2, "from_logits="),
        (2, None, np.random.default_rng(0).random((20, 2)), "one class an image"),
        (3, "sigmoid", SEVERAL, "several labels"),
    ],
)
def test_what_is_no_classifier_is_refused(classes, activation, labels, message, images):
    model = build_classifier(classes=classes, activation=activation)
    with pytest.raises(ValueError, match=message) as raised:
        quick(model, images, labels)
    assert len(str(raised.value)) <= 300 and "\n" not in str(raised.value)


class Noisy(layers.Layer):
    """Adds noise also in inference mode, as a few defences do."""

    def __init__(self):
        super().__init__()
        self.seeds = keras.random.SeedGenerator(0)

    def call(self, inputs):
        return inputs + keras.random.normal(ops.shape(inputs), seed=self.seeds)


def noisy():
    return keras.Sequential([*build_classifier(activation=None).layers, Noisy()])


def without_rows():
    return keras.Sequential([keras.Input((6, 6, 1)), layers.Conv2D(3, 1)])


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
        ({"eps": []}, "eps must be a number, or several"),
        ({"model": two_outputs()}, "one output"),
        ({"model": without_rows()}, "a row of classes"),
        ({"model": diverged()}, "NaN or infinity for 20 of 20"),
        ({"model": noisy()}, "answers at random: .* differ; switch off"),
    ],
)
def test_wrong_arguments_are_named(model, images, labels, changed, message):
    arguments = {"model": model, "images": images, "labels": labels}
    with pytest.raises(ValueError, match=message):
        evaluate_robustness(**(arguments | changed))


# Gradients that mislead.


def rounded(images):
    return brightness(ops.floor(images * 255) / 255)


def test_useless_gradients_are_warned_of_once_at_the_users_line(dark_and_bright):
    images, labels = dark_and_bright
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("default")
        rows = quick(on_images(rounded), images, labels, [0.05, 1.0])
    assert rows[0].accuracy == 1
    (zero,) = (warning for warning in found if "is zero" in str(warning.message))
    assert zero.filename == __file__
    doubts = [text for text in messages(found) if "eps 0.05:" in text]
    assert any("withstand even half of the range" in text for text in doubts)


def test_square_says_so_where_it_beats_pgd(dark_and_bright):
    images, labels = dark_and_bright
    with pytest.warns(UserWarning, match="zero|the Square attack, without") as found:
        rows = quick(on_images(rounded), images, labels, 0.12, queries=400, rng=0)
    assert any("the Square attack, without a gr" in text for text in messages(found))
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
        moves = 1e-2 * np.eye(36, dtype=np.float32).reshape(36, 6, 6, 1)
        up = model(image + moves).numpy()[:, label]  # by finite differences
        down = model(image - moves).numpy()[:, label]
        signs = np.where(image > 0, np.sign(down - up).reshape(6, 6, 1), 0)
        tried.append(np.clip(image + 0.1 * signs, 0, 1))
    stands = answers(model, np.stack(tried)) == labels
    assert rows["FGSM"].accuracy == pytest.approx(stands.mean(), abs=0.051)
    assert stands.mean() < 0.9
    assert all(np.isfinite(row[1:]).all() for row in rows.values())


# In other precisions, and beside another library.


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_attacks_in_mixed_precision_are_as_strong(policy, digits):
    """One network's answers to adversaries made in either precision."""
    model, _, (images, labels) = digits
    mixed = under_policy(policy, SimpleCNN.build, 28, 28, 1, 10)
    mixed.set_weights(model.get_weights())
    fgsm = functools.partial(generate_image_adversary, loss="cross_entropy")
    pgd = functools.partial(projected_gradient_descent, steps=5, rng=0)

    def accuracy_under(attack, attacked):
        adversaries = attack(attacked, images, labels, 0.03)
        return (answers(model, adversaries) == labels.argmax(axis=1)).mean()

    for attack in (fgsm, pgd):
        accuracy = accuracy_under(attack, model)
        mixed_accuracy = accuracy_under(attack, mixed)
        assert 0.1 < accuracy < 0.9
        assert mixed_accuracy == pytest.approx(accuracy, abs=0.01)


@pytest.mark.slow
def test_worst_case_is_no_weaker_than_arts_auto_pgd(digits):
    pytest.importorskip("art")
    from art.attacks.evasion import AutoProjectedGradientDescent
    from art.estimators.classification import TensorFlowV2Classifier

    model, _, test = digits
    images, labels = [array[:20] for array in test]
    logits = keras.Sequential(model.layers[:-1])
    stands = answers(model, images) == labels.argmax(axis=1)
    names = {model: "cross_entropy", logits: "difference_logits_ratio"}
    for attacked, name in names.items():
        loss = keras.losses.CategoricalCrossentropy(from_logits=attacked is logits)
        classifier = TensorFlowV2Classifier(
            attacked, 10, (28, 28, 1), loss_object=loss, clip_values=(0.0, 1.0)
        )
        attack = AutoProjectedGradientDescent(
            classifier,
            eps=0.05,
            max_iter=20,
            nb_random_init=1,
            loss_type=name,
            verbose=False,
        )
        adversaries = attack.generate(images, labels)
        stands &= answers(model, adversaries) == labels.argmax(axis=1)
    *_, worst = evaluate_robustness(model, images, labels, 0.05, rng=0, verbose=False)
    assert 0.1 < stands.mean() < 0.95  # otherwise it says little
    assert worst.accuracy <= stands.mean()
