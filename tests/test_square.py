from functools import partial

import numpy as np
import pytest
import sklearn.datasets
from conftest import answers, network_of, no_warning
from keras import layers
from numpy.testing import assert_array_equal
from sklearn.linear_model import LogisticRegression

from pyimagesearch.attacks import projected_gradient_descent as pgd
from pyimagesearch.attacks import square_attack

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
    ahead = linear.coef_[TRUE, np.newaxis] - linear.coef_
    lead = np.sum(ahead * TESTED[:, np.newaxis] - eps * np.abs(ahead), axis=2)
    lead += linear.intercept_[TRUE, np.newaxis] - linear.intercept_
    return np.mean(np.sum(lead > 0, axis=1) == 9)  # of the nine other classes


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
    ("method", "columns", "from_logits"),
    [
        ("decision_function", np.s_[:], True),
        ("predict_proba", np.s_[:, 1:], False),
        ("predict_proba", np.s_[:, :], None),
    ],
)
def test_two_classes(method, columns, from_logits):
    """A score of class 1 alone has its threshold at 0, a probability at 0.5."""
    large = DIGITS >= 5
    classifier = LogisticRegression(max_iter=500).fit(ROWS[:1400], large[:1400])

    def scores(rows):
        return getattr(classifier, method)(rows)[columns]

    labels = large[1400:1500]
    attack = partial(square_attack, scores, TESTED, labels, 0.2, queries=60, rng=0)
    found = attack(from_logits=from_logits)
    assert share_right(classifier, TESTED, labels) > 0.7
    assert share_right(classifier, found, labels) < 0.45
    if from_logits is not None:
        with pytest.raises(ValueError, match=r"model .*single score.*from_logits="):
            attack()


@pytest.mark.parametrize("clip", [None, (0.25, 0.5)])
@pytest.mark.parametrize("dims", [(7,), (30, 2), (5, 9, 3)])
@pytest.mark.parametrize(
    "attack",
    [partial(pgd, step_size=0.3, restarts=2), partial(square_attack, queries=130)],
)
def test_neither_ball_nor_range_is_left(attack, dims, clip):
    model = network_of(layers.Flatten(), layers.Dense(3), image_shape=dims)
    images = np.random.default_rng(1).random((5, *dims), dtype=np.float32)
    if clip is not None:
        images = np.clip(images, *clip)
    adversaries = attack(model, images, answers(model, images), 0.2, clip=clip)
    assert 0.1 < np.abs(adversaries - images).max() <= 0.2 + 1e-6
    if clip is not None:
        assert adversaries.min() >= clip[0] and adversaries.max() <= clip[1]


def test_what_is_wrong_unaided_stays(network):
    labels = answers(network, IMAGES)
    labels[50:] = (labels[50:] + 1) % 10
    found = square_attack(network, IMAGES, labels, 0.1, queries=5, rng=0)
    assert_array_equal(found[50:], IMAGES[50:])
    assert (found[:50] != IMAGES[:50]).any(axis=(1, 2, 3)).all()
    others = square_attack(network, IMAGES[50:], labels[50:], 0.1, queries=5)
    assert_array_equal(others, IMAGES[50:])


def test_confident_probabilities_do_not_blind_it(linear):
    """In float64 they end at 1, too, and all their logarithms at 0."""

    def sure(rows):
        logits = 40 * linear.decision_function(rows)
        odds = np.exp(logits - logits.max(axis=1, keepdims=True))
        return odds / odds.sum(axis=1, keepdims=True)

    attack = partial(square_attack, sure, TESTED, TRUE, 0.1, queries=150, rng=0)
    left = share_right(linear, attack())
    assert left <= exact_share(linear, 0.1) + 0.25
    assert share_right(linear, attack(from_logits=True)) > left + 0.05  # as told


def test_scores_that_are_no_numbers(linear):
    def scores(rows):  # fails on adversaries only
        result = linear.decision_function(rows)
        return np.where(np.abs(rows).max() > 1, np.nan, result)

    with pytest.raises(ValueError, match="NaN or infinity"):
        square_attack(scores, TESTED, TRUE, 0.1, rng=0)
