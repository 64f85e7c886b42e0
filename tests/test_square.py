from functools import partial

import keras
import numpy as np
import pytest
import sklearn.datasets
from conftest import answers, build_classifier, network_of, no_warning
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers, ops
from numpy.testing import assert_array_equal
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC

from pyimagesearch.attacks import projected_gradient_descent, square_attack
from pyimagesearch.core.gradients import DivergedError

ROWS, DIGITS = sklearn.datasets.load_digits(return_X_y=True)
ROWS = np.float32(ROWS / 16)
TESTED, TRUE = ROWS[1400:1500], DIGITS[1400:1500]
IMAGES = TESTED.reshape(-1, 8, 8, 1)


@pytest.fixture(scope="module")
def linear():
    return LogisticRegression(max_iter=500).fit(ROWS[:1400], DIGITS[:1400])


@pytest.fixture(scope="module")
def network(linear):
    """The same classifier for Keras, which returns logits."""
    model = network_of(layers.Flatten(), layers.Dense(10), image_shape=(8, 8, 1))
    model.set_weights([linear.coef_.T, linear.intercept_])
    return model


def share_right(model, images, labels=TRUE):
    return (model.predict(images.reshape(len(images), -1)) == labels).mean()


def exact_share(linear, eps):
    """Return what the strongest attack leaves of a linear classifier, in closed form.

    Against each other class it adds eps times the sign of the difference of weights.
    """
    right = []
    for row, label in zip(TESTED, TRUE, strict=True):
        ahead = linear.coef_[label] - linear.coef_
        lead = ahead @ row + linear.intercept_[label] - linear.intercept_
        lead -= eps * np.abs(ahead).sum(axis=1)
        right.append((np.delete(lead, label) > 0).all())
    return np.mean(right)


@pytest.mark.parametrize("method", ["predict_proba", "decision_function"])
def test_scores_of_scikit_learn_on_flat_vectors(linear, method):
    scores = getattr(linear, method)
    adversaries = square_attack(scores, TESTED, TRUE, 0.1, queries=150, rng=0)
    assert adversaries.shape == TESTED.shape and adversaries.dtype == np.float32
    best = exact_share(linear, 0.1)
    assert best <= share_right(linear, adversaries) <= best + 0.2
    assert best + 0.2 < share_right(linear, TESTED)


def test_more_queries_of_a_keras_model_find_more(linear, network):
    attack = partial(square_attack, network, IMAGES, TRUE, 0.1, rng=0)
    with no_warning():
        shares = [share_right(linear, attack(queries=n)) for n in (1, 30, 1000)]
    best = exact_share(linear, 0.1)
    assert share_right(linear, IMAGES) >= shares[0] > shares[1] > shares[2]
    assert best <= shares[2] <= best + 0.1


@pytest.mark.parametrize(
    ("kind", "method", "columns", "from_logits"),
    [
        (LinearSVC, "decision_function", np.s_[:], True),
        (LogisticRegression, "predict_proba", np.s_[:, 1], False),
        (LogisticRegression, "predict_proba", np.s_[:, 1:], False),
        (LogisticRegression, "predict_proba", np.s_[:, :], None),
    ],
)
def test_two_classes(kind, method, columns, from_logits):
    """A score of class 1 alone has its threshold at 0, a probability at 0.5."""
    large = DIGITS >= 5
    classifier = kind(max_iter=1000).fit(ROWS[:1400], large[:1400])

    def scores(rows):
        return getattr(classifier, method)(rows)[columns]

    labels = large[1400:1500]
    attack = partial(square_attack, scores, TESTED, eps=0.2, queries=60, rng=0)
    found = attack(labels, from_logits=from_logits)
    column = labels[:, np.newaxis].astype(int)
    assert_array_equal(attack(column, from_logits=from_logits), found)
    assert share_right(classifier, TESTED, labels) > 0.7
    assert share_right(classifier, found, labels) < 0.45
    if from_logits is not None:
        with pytest.raises(ValueError, match=r"model .*single score.*from_logits="):
            attack(labels)


def test_trees_have_no_gradient():
    forest = RandomForestClassifier(20, random_state=0).fit(ROWS[:1400], DIGITS[:1400])
    scores = forest.predict_proba
    adversaries = square_attack(scores, TESTED, TRUE, 0.1, queries=60, rng=0)
    assert share_right(forest, TESTED) > 0.9
    assert share_right(forest, adversaries) < 0.7


def test_seed_governs_all_of_it(network):
    def attack(rng=None):
        return square_attack(network, IMAGES, TRUE, 0.05, queries=20, rng=rng)

    assert_array_equal(attack(3), attack(np.random.default_rng(3)))
    assert (attack(3) != attack(4)).any()
    keras.utils.set_random_seed(1)
    first = attack()
    assert (attack() != first).any()
    keras.utils.set_random_seed(1)
    assert_array_equal(attack(), first)


NETWORKS = {
    dims: network_of(layers.Flatten(), layers.Dense(3), image_shape=dims)
    for dims in [(7,), (30, 2), (5, 9, 3)]
}


@settings(max_examples=20, deadline=None)
@given(
    dims=st.sampled_from(sorted(NETWORKS)),
    eps=st.floats(0, 2),
    queries=st.integers(1, 130),
    clip=st.sampled_from([None, (0, 1), (0.25, 0.5)]),
    seed=st.integers(0, 9),
)
def test_neither_ball_nor_range_is_left(dims, eps, queries, clip, seed):
    images = np.random.default_rng(1).random((5, *dims), dtype=np.float32)
    if clip is not None:
        images = np.clip(images, *clip)
    model = NETWORKS[dims]
    adversaries = square_attack(
        model, images, answers(model, images), eps, queries=queries, clip=clip, rng=seed
    )
    assert adversaries.shape == images.shape
    assert np.abs(adversaries - images).max() <= eps * (1 + 1e-6) + 1e-6
    if clip is not None:
        assert adversaries.min() >= clip[0] and adversaries.max() <= clip[1]


def test_what_is_wrong_unaided_stays(network):
    labels = answers(network, IMAGES)
    labels[50:] = (labels[50:] + 1) % 10
    found = square_attack(network, IMAGES, labels, 0.1, queries=5, rng=0)
    one_hot = np.eye(10)[labels]
    by_rows = square_attack(network, IMAGES, one_hot, 0.1, queries=5, rng=0)
    assert_array_equal(by_rows, found)
    assert_array_equal(found[50:], IMAGES[50:])
    assert (found[:50] != IMAGES[:50]).any(axis=(1, 2, 3)).all()
    others = square_attack(network, IMAGES[50:], labels[50:], 0.1, queries=5)
    assert_array_equal(others, IMAGES[50:])


@pytest.mark.filterwarnings("ignore:the gradient")
def test_it_finds_what_misleading_gradients_hide(network):
    """Rounding to 16 levels stops gradients, and changes next to nothing else."""
    rounding = layers.Lambda(lambda images: ops.round(images * 16) / 16)
    masked = network_of(rounding, *network.layers, image_shape=(8, 8, 1))

    def share_left(attack):
        found = attack(masked, IMAGES, TRUE, 0.1, rng=0)
        return (answers(masked, found) == TRUE).mean()

    by_gradient = share_left(projected_gradient_descent)
    assert share_left(partial(square_attack, queries=500)) < by_gradient - 0.3


def test_confident_probabilities_do_not_blind_it(linear):
    """In float64 they end at 1, too, and all their logarithms at 0."""

    def sure(rows):
        logits = 40 * linear.decision_function(rows)
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        return odds / odds.sum(axis=1, keepdims=True)

    attack = partial(square_attack, sure, TESTED, TRUE, 0.1, queries=150, rng=0)
    left = share_right(linear, attack())
    assert left <= exact_share(linear, 0.1) + 0.25
    assert share_right(linear, attack(from_logits=True)) > left + 0.1  # as told


def test_scores_that_are_no_numbers(linear):
    def scores(rows):  # fails on adversaries only
        result = linear.decision_function(rows)
        return np.where(np.abs(rows).max() > 1, np.nan, result)

    with pytest.raises(DivergedError, match="NaN or infinity"):
        square_attack(scores, TESTED, TRUE, 0.1, rng=0)
    with pytest.raises(ValueError, match="NaN or infinity"):
        square_attack(lambda rows: np.full((100, 10), np.nan), TESTED, TRUE, 0.1)


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"model": LogisticRegression()}, TypeError, "model .*function.*Logistic"),
        ({"model": lambda rows: rows[:5]}, ValueError, "model .*scores"),
        ({"model": lambda rows: np.zeros((20, 2, 2))}, ValueError, "model .*scores"),
        ({"images": np.zeros((20, 2, 2, 2, 2))}, ValueError, "images"),
        ({"labels": np.full((20, 3), 0.7)}, ValueError, "labels .*one"),
    ],
)
def test_wrong_arguments_are_named(model, images, labels, changed, error, message):
    arguments = {"model": model, "images": images, "labels": labels, "eps": 0.1}
    with pytest.raises(error, match=message) as raised:
        square_attack(**(arguments | changed))
    assert len(str(raised.value)) <= 300


def test_regression_is_refused(images):
    model = build_classifier(classes=1, activation=None)
    targets = np.linspace(0, 9, 20)
    with pytest.raises(ValueError, match=r"labels .*0 or 1.*regression"):
        square_attack(model, images, targets, 0.1, from_logits=True)
