import itertools
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
    shares = [share_right(linear, attack(queries=n)) for n in (1, 30, 1500)]
    best = exact_share(linear, 0.1)
    assert share_right(linear, IMAGES) >= shares[0] > shares[1] > shares[2]
    assert best <= shares[2] <= best + 0.1


@pytest.mark.parametrize("scores", ["decision", "probability", "two probabilities"])
def test_two_classes(scores):
    """A score of class 1 alone has its threshold at 0, a probability at 0.5."""
    large = DIGITS >= 5
    kind = LinearSVC if scores == "decision" else LogisticRegression
    classifier = kind(max_iter=1000).fit(ROWS[:1400], large[:1400])
    function = {
        "decision": lambda rows: classifier.decision_function(rows),
        "probability": lambda rows: classifier.predict_proba(rows)[:, 1],
        "two probabilities": lambda rows: classifier.predict_proba(rows),
    }[scores]
    labels = large[1400:1500]
    ids, column = (
        square_attack(function, TESTED, given, 0.2, queries=60, rng=0)
        for given in (labels, labels[:, np.newaxis].astype(int))
    )
    assert_array_equal(ids, column)
    assert share_right(classifier, TESTED, labels) > 0.7
    assert share_right(classifier, ids, labels) < 0.45


def test_trees_have_no_gradient():
    forest = RandomForestClassifier(20, random_state=0).fit(ROWS[:1400], DIGITS[:1400])
    scores = forest.predict_proba
    adversaries = square_attack(scores, TESTED, TRUE, 0.1, queries=60, rng=0)
    assert share_right(forest, TESTED) > 0.9
    assert share_right(forest, adversaries) < 0.7


def test_scores_may_come_from_a_keras_model_themselves(network):
    def predict(images):
        return network.predict(images, verbose=0)

    adversaries = square_attack(predict, IMAGES, TRUE, 0.1, queries=10, rng=0)
    assert (adversaries != IMAGES).any()


def test_seed_governs_all_of_it(network):
    def attack(rng=None):
        return square_attack(network, IMAGES, TRUE, 0.05, queries=20, rng=rng)

    assert_array_equal(attack(3), attack(np.random.default_rng(3)))
    assert (attack(3) != attack(4)).any()
    keras.utils.set_random_seed(1)
    first, second = attack(), attack()
    assert (first != second).any()
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
    how = {"queries": queries, "clip": clip, "rng": seed}
    labels = answers(NETWORKS[dims], images)
    adversaries = square_attack(NETWORKS[dims], images, labels, eps, **how)
    assert adversaries.shape == images.shape
    assert np.abs(adversaries - images).max() <= eps * (1 + 1e-6) + 1e-6
    if clip is not None:
        assert adversaries.min() >= clip[0] and adversaries.max() <= clip[1]


def test_what_is_wrong_unaided_stays(network):
    labels = answers(network, IMAGES)
    labels[50:] = (labels[50:] + 1) % 10
    found, by_one_hot_rows = (
        square_attack(network, IMAGES, given_labels, 0.1, queries=5, rng=0)
        for given_labels in (labels, np.eye(10)[labels])
    )
    assert_array_equal(by_one_hot_rows, found)
    assert_array_equal(found[50:], IMAGES[50:])
    assert (found[:50] != IMAGES[:50]).any(axis=(1, 2, 3)).all()


@pytest.mark.filterwarnings("ignore:the gradient")
def test_it_finds_what_misleading_gradients_hide(network):
    """Rounding to 16 levels stops gradients, and changes next to nothing else."""
    rounding = layers.Lambda(lambda images: ops.round(images * 16) / 16)
    masked = network_of(rounding, *network.layers, image_shape=(8, 8, 1))
    attacks = projected_gradient_descent, square_attack
    found = [attack(masked, IMAGES, TRUE, 0.1, rng=0) for attack in attacks]
    by_gradient, by_search = ((answers(masked, f) == TRUE).mean() for f in found)
    assert by_search < by_gradient - 0.3


def test_confident_probabilities_do_not_blind_it(linear):
    """In float64 they end at 1, too, and all their logarithms at 0."""

    def sure(rows):
        logits = 40 * linear.decision_function(rows)
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        return odds / odds.sum(axis=1, keepdims=True)

    adversaries = square_attack(sure, TESTED, TRUE, 0.1, queries=150, rng=0)
    assert share_right(linear, adversaries) <= exact_share(linear, 0.1) + 0.25


def test_no_warning_where_all_is_well(network):
    with no_warning():
        square_attack(network, IMAGES, TRUE, 0.1, queries=2)


@pytest.mark.parametrize("exception", [RuntimeError("my own"), KeyboardInterrupt()])
def test_what_the_scores_raise_comes_through(exception):
    calls = itertools.count()

    def scores(rows):
        if next(calls) == 5:
            raise exception
        return np.tile(np.eye(10)[3], (len(rows), 1))

    with pytest.raises(type(exception), match=r"my own|^$"):
        square_attack(scores, TESTED, np.full(100, 3), 0.1)


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
        ({"model": "svm"}, TypeError, "model .*'svm'"),
        ({"model": LogisticRegression()}, TypeError, "model .*function.*Logistic"),
        ({"model": lambda rows: rows[:5]}, ValueError, "model .*scores"),
        ({"model": lambda rows: np.zeros((20, 2, 2))}, ValueError, "model .*scores"),
        ({"images": np.zeros((20, 2, 2, 2, 2))}, ValueError, "images"),
        ({"labels": np.full((20, 3), 0.7)}, ValueError, "labels .*one"),
        ({"eps": -1}, ValueError, "eps .*-1"),
        ({"queries": 0}, ValueError, "queries .*0"),
    ],
)
def test_wrong_arguments_are_named(model, images, labels, changed, error, message):
    arguments = {"model": model, "images": images, "labels": labels, "eps": 0.1}
    with pytest.raises(error, match=message) as raised:
        square_attack(**(arguments | changed))
    assert len(str(raised.value)) <= 300


def test_it_evaluates_classifiers(images):
    regression = build_classifier(classes=1, activation=None)
    with pytest.raises(ValueError, match="labels"):
        square_attack(regression, images, np.linspace(0, 9, 20), 0.1)
