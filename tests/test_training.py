import itertools

import keras
import numpy as np
import pytest
from conftest import answers, build_classifier, network_of, no_warning, stripes
from keras import layers
from numpy.testing import assert_allclose, assert_array_equal

from pyimagesearch.training import (
    WatchRobustness,
    hold_out,
    robust_attack,
    robust_optimizer,
)
from pyimagesearch.training.robust import robust_epochs


def test_robust_optimizer_stops_all_dropout_and_its_rate_rises_and_falls_once():
    kinds = [
        layers.Dropout(0.5),
        layers.SpatialDropout2D(0.5),
        layers.GaussianDropout(0.5),
        layers.AlphaDropout(0.5),
    ]
    model = network_of(network_of(*kinds))
    schedule = robust_optimizer(model, 100)._learning_rate
    assert [layer.rate for layer in kinds] == [0] * 4
    ones = np.ones((2, 6, 6, 1), np.float32)
    assert_array_equal(model(ones, training=True), ones)
    rates = np.array([float(schedule(step)) for step in range(101)])
    top = rates.argmax()
    assert (np.diff(rates[: top + 1]) > 0).all() and (np.diff(rates[top:]) < 0).all()
    assert rates[0] <= 1e-3 < rates[top] and rates[-1] < 1e-4


def test_robust_attack_shifts_images_by_up_to_a_pixel():
    """At eps 0 nothing but the shifts is left: nine places, the edge repeated."""
    rng = np.random.default_rng(0)
    images = rng.uniform(2, 3, (200, 5, 4, 3)).astype(np.float32)
    attack = robust_attack(10, clip=(2, 3), rng=1)
    shifted = attack(build_classifier((5, 4, 3)), images, np.arange(200) % 3, 0.0)
    places = []
    for down, right in itertools.product((-1, 0, 1), repeat=2):
        rows = np.clip(np.arange(5) - down, 0, 4)
        columns = np.clip(np.arange(4) - right, 0, 3)
        expected = images[:, rows][:, :, columns]
        places.append((shifted == expected).all(axis=(1, 2, 3)).sum())
    assert sum(places) == 200 and min(places) > 8


def test_robust_attack_reaches_further_batch_by_batch_over_2_eps_of_the_training():
    """On images of one value each, which a shift leaves as they are."""
    images = np.full((30, 6, 6, 1), 2.5, np.float32)
    attack = robust_attack(10, clip=(2, 3), rng=1)
    model = build_classifier()  # not compiled: the attack counts its own calls
    reached = []
    for _ in range(6):
        adversaries = attack(model, images, np.arange(30) % 3, 0.2)
        assert adversaries.min() >= 2 and adversaries.max() <= 3
        reached.append(abs(adversaries - images).max())
    full = (1.4 - 0.2) * 0.2
    assert_allclose(reached, full * np.array([0, 0.25, 0.5, 0.75, 1, 1]), atol=1e-6)
    with pytest.raises(ValueError, match=r"steps .*0"):
        robust_attack(0)


def test_robust_attack_starts_at_random_by_its_seed():
    images = np.full((30, 6, 6, 1), 0.5, np.float32)
    model = build_classifier()

    def second_batch(rng):
        attack = robust_attack(2, rng=rng)
        attack(model, images, np.arange(30) % 3, 0.2)
        return attack(model, images, np.arange(30) % 3, 0.2)

    expected = second_batch(1)
    assert_array_equal(second_batch(1), expected)
    assert (second_batch(2) != expected).any()


def test_robust_attack_does_not_shift_vectors():
    model = keras.Sequential(
        [keras.Input((36,)), layers.Dense(3, activation="softmax")]
    )
    vectors = np.random.default_rng(0).random((30, 36), dtype=np.float32)
    attack = robust_attack(1, rng=1)
    assert_array_equal(attack(model, vectors, np.arange(30) % 3, 0.0), vectors)
    moved = abs(attack(model, vectors, np.arange(30) % 3, 0.1) - vectors)
    assert 0.12 < moved.max() <= 0.13 + 1e-6


class Ruin(keras.callbacks.Callback):
    """Makes the network answer one class from the third epoch on."""

    def on_epoch_end(self, epoch, logs=None):
        if epoch >= 2:
            *_, kernel, bias = self.model.get_weights()
            self.model.layers[-1].set_weights([0 * kernel, np.eye(len(bias))[1] * 9])


def train_striped(watch, *callbacks):
    """Train, and return the share of right answers and the logged accuracies."""
    model = build_classifier()
    images, labels = stripes(60)
    model.compile(keras.optimizers.Adam(0.01), "categorical_crossentropy")
    history = model.fit(
        images,
        labels,
        epochs=4,
        batch_size=4,
        callbacks=[*callbacks, watch],
        verbose=0,
    )
    logged = history.history["robust_accuracy"]
    assert logged == watch.accuracies and len(logged) == 4
    return (answers(model, images) == labels.argmax(axis=1)).mean(), logged


@pytest.fixture
def watch():
    images, labels = stripes(60)
    return WatchRobustness((images[::3], labels[::3]), 0.1)  # of the first class


def test_a_defence_that_fails_ends_with_the_best_epochs_weights(watch):
    with pytest.warns(UserWarning, match="the defence has failed") as told:
        right, logged = train_striped(watch, Ruin())
    assert max(logged) > 0.9 and logged[-1] == 0
    assert right > 0.9
    (warning,) = [w for w in told if "the defence" in str(w.message)]
    assert f"in epoch {logged.index(max(logged)) + 1}," in str(warning.message)

    with no_warning():  # it starts anew, and leaves alone a defence that holds
        right, logged = train_striped(watch)
    assert max(logged) > 0.9 and right > 0.9


def test_watch_takes_labels_of_any_format():
    model = build_classifier()
    images, _ = stripes(60)
    ids = answers(model, images)
    ids[::3] = (ids[::3] + 1) % 3
    shares = set()
    for given in (np.eye(3)[ids], ids, ids[:, np.newaxis]):
        watch = WatchRobustness((images, given), 0.01)
        logs = {}
        watch.set_model(model)
        watch.on_epoch_end(0, logs)
        shares.add(logs["robust_accuracy"])
    assert len(shares) == 1 and 0 < shares.pop() < 1


@pytest.mark.parametrize(("count", "out"), [(10_000, 200), (300, 15), (10, 1)])
def test_held_out_images_are_not_trained_on(count, out):
    numbers = np.arange(count)
    (rest, labels), (few, own) = hold_out((numbers, -numbers), seed=0)
    assert len(few) == out
    assert_array_equal(np.sort(np.concatenate([rest, few])), numbers)
    assert (labels == -rest).all() and (own == -few).all()
    assert count == 10 or (np.diff(np.sort(few)) > 1).any()  # from all over the data


def test_a_larger_eps_takes_more_epochs():
    assert [robust_epochs(eps) for eps in (0.01, 0.1, 0.2, 0.3, 0.9)] == [
        10,
        10,
        12,
        15,
        15,
    ]
    assert robust_epochs(76.5, clip=(0, 255)) == 15
