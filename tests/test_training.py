import itertools

import keras
import numpy as np
import pytest
from conftest import answers, build_classifier, network_of, no_warning, stripes
from keras import layers
from numpy.testing import assert_allclose, assert_array_equal

from pyimagesearch.attacks import projected_gradient_descent as pgd
from pyimagesearch.core.in_step import in_step
from pyimagesearch.experiment.data import Scaled
from pyimagesearch.simplecnn import SimpleCNN
from pyimagesearch.training.epochs import RepeatableEpochs, shuffled, steps_of
from pyimagesearch.training.robust import (
    WatchRobustness,
    hold_out,
    make_attack,
    robust_attack,
    robust_optimizer,
)


class Recorder(keras.Model):
    """Records the numbers of the images it is trained on, and what dropout keeps."""

    def __init__(self):
        super().__init__()
        self.dropout = keras.Sequential([layers.Dropout(0.5)])
        self.rows, self.kept = [], []

    def call(self, images, training=None):
        return self.dropout(images, training=training)

    def train_step(self, data):
        self.rows.append(data[0].numpy().astype(int).tolist())
        self.kept.append(self(np.ones((8, 8)), training=True).numpy())
        return {"loss": 0.0}


NUMBERS = np.arange(10, dtype=np.float32)


def arrays(rng):
    return shuffled((NUMBERS, NUMBERS), 4, rng), steps_of((NUMBERS, NUMBERS), 4)


def generator(rng):
    def batches():
        while True:
            numbers = rng.integers(1000, size=4).astype(np.float32)
            yield numbers, numbers

    return in_step(batches()), 2


def record(make_data, *seed, done=0):
    model = Recorder()
    model.compile(run_eagerly=True)
    epochs = RepeatableEpochs(*seed, initial_epoch=done)
    data, steps = make_data(epochs.rng)
    how = {"steps_per_epoch": steps, "epochs": 3, "initial_epoch": done}
    model.fit(data, callbacks=[epochs], shuffle=False, verbose=0, **how)
    return model.rows, np.array(model.kept)


def test_epochs_hold_all_images_in_orders_of_their_own():
    rows, kept = record(arrays, 5)
    assert [len(batch) for batch in rows] == [4, 4, 2] * 3
    epochs = [tuple(np.concatenate(rows[i : i + 3])) for i in (0, 3, 6)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({*epochs, tuple(range(10))}) == 4
    assert len({mask.tobytes() for mask in kept}) == 9


@pytest.mark.parametrize("make_data", [arrays, generator])
def test_an_epoch_depends_on_the_seed_and_its_number_alone(make_data):
    rows, kept = record(make_data, 5, 1)
    again, kept_again = record(make_data, 5, 1)
    assert again == rows
    assert_array_equal(kept_again, kept)
    for done in (1, 2):
        resumed, kept_resumed = record(make_data, 5, 1, done=done)
        start = done * len(rows) // 3
        assert resumed == rows[start:]
        assert_array_equal(kept_resumed, kept[start:])
    others = [record(make_data, *seed)[0] for seed in ((5, 2), (6, 1), (5,))]
    assert all(other != rows for other in others)


def test_robust_optimizer_stops_all_dropout_and_its_rate_rises_and_falls_once():
    model = network_of(SimpleCNN.build(8, 8, 1, 3), image_shape=(8, 8, 1))
    schedule = robust_optimizer(model, 100)._learning_rate
    assert model.layers[-1].layers[-3].rate == 0
    rates = np.array([float(schedule(step)) for step in range(101)])
    top = rates.argmax()
    assert (np.diff(rates[: top + 1]) > 0).all() and (np.diff(rates[top:]) < 0).all()
    assert rates[0] <= 1e-3 < rates[top] and rates[-1] < 1e-4


def test_robust_attack_makes_valid_images_from_shifted_ones():
    """At eps 0 nothing but the shifts is left: nine places, the edge repeated."""
    rng = np.random.default_rng(0)
    images = rng.uniform(2, 3, (200, 5, 4, 3)).astype(np.float32)
    model = build_classifier((5, 4, 3))
    model.compile(robust_optimizer(model, 10), "categorical_crossentropy")
    model.optimizer.iterations.assign(10)
    attack = robust_attack(10, clip=(2, 3), rng=1)
    labels = np.arange(200) % 3
    shifted = attack(model, images, labels, 0.0)
    places = []
    for down, right in itertools.product((-1, 0, 1), repeat=2):
        rows = np.clip(np.arange(5) - down, 0, 4)
        columns = np.clip(np.arange(4) - right, 0, 3)
        expected = images[:, rows][:, :, columns]
        places.append((shifted == expected).all(axis=(1, 2, 3)).sum())
    assert sum(places) == 200 and min(places) > 8
    attacked = attack(model, images, labels, 0.2)
    assert attacked.min() >= 2 and attacked.max() <= 3
    assert (attacked != shifted).mean() > 0.9
    with pytest.raises(ValueError, match=r"steps .*0"):
        robust_attack(0)


@pytest.mark.parametrize(
    ("name", "steps", "size"), [("rfgsm", 1, 1.25), ("pgd", 2, 0.75)]
)
def test_attacks_by_name_start_at_random_and_make_valid_images(name, steps, size):
    model, (images, labels) = build_classifier(), stripes(12)
    images = 0.1 + 0.8 * images
    attack = make_attack(name, 0.2, 100, np.random.default_rng(3))
    first, second = (attack(model, images, labels, 0.2) for _ in range(2))
    assert (first != second).any()
    assert first.min() >= 0 and first.max() <= 1
    assert 0.19 < np.abs(first - images).max() <= 0.2 + 1e-6
    how = {"steps": steps, "step_size": size * 0.2, "clip": (0, 1)}
    own = np.random.default_rng(3)
    expected = pgd(model, images, labels, 0.2, rng=own, **how)
    assert_array_equal(first, expected)


class Ruin(keras.callbacks.Callback):
    """Makes the network answer one class from the third epoch on."""

    def on_epoch_end(self, epoch, logs=None):
        if epoch >= 2:
            *_, kernel, bias = self.model.get_weights()
            self.model.layers[-1].set_weights([0 * kernel, np.eye(len(bias))[1] * 9])


def train_striped(*callbacks):
    """Train, and return the share of right answers and the logged accuracies."""
    model, (images, labels) = build_classifier(), stripes(60)
    model.compile(keras.optimizers.Adam(0.01), "categorical_crossentropy")
    watch = WatchRobustness((images[::3], labels[::3]), 0.1)  # of the first class
    how = {"epochs": 4, "batch_size": 4, "callbacks": [*callbacks, watch]}
    history = model.fit(images, labels, verbose=0, **how)
    logged = history.history["robust_accuracy"]
    assert logged == watch.accuracies and len(logged) == 4
    return (answers(model, images) == labels.argmax(axis=1)).mean(), logged


def test_a_defence_that_fails_ends_with_the_best_epochs_weights():
    with pytest.warns(UserWarning, match="the defence has failed") as told:
        right, logged = train_striped(Ruin())
    assert max(logged) > 0.9 and logged[-1] == 0
    assert right > 0.9
    (warning,) = [w for w in told if "the defence" in str(w.message)]
    assert f"in epoch {logged.index(max(logged)) + 1}," in str(warning.message)


def test_watch_takes_labels_of_any_format():
    model, (images, _) = build_classifier(), stripes(60)
    ids, shares = answers(model, images), set()
    ids[::3] = (ids[::3] + 1) % 3
    for given in (np.eye(3)[ids], ids, ids[:, np.newaxis]):
        watch, logs = WatchRobustness((images, given), 0.01), {}
        watch.set_model(model)
        watch.on_epoch_end(0, logs)
        shares.add(logs["robust_accuracy"])
    assert len(shares) == 1 and 0 < shares.pop() < 1


def test_a_defence_that_holds_is_left_alone():
    with no_warning():
        right, logged = train_striped()
    assert max(logged) > 0.9 and right > 0.9


@pytest.mark.parametrize(("count", "out"), [(10_000, 200), (300, 15), (10, 1)])
def test_held_out_images_are_not_trained_on(count, out):
    numbers = np.arange(count)
    (rest, labels), (few, own) = hold_out((numbers, -numbers), seed=0)
    assert len(few) == out
    assert_array_equal(np.sort(np.concatenate([rest, few])), numbers)
    assert (labels == -rest).all() and (own == -few).all()
    assert count == 10 or (np.diff(np.sort(few)) > 1).any()  # from all over the data


def test_images_that_are_not_held_out_are_not_copied_as_floats():
    pixels = np.arange(40, dtype=np.uint8).reshape(40, 1, 1, 1)
    (rest, _), (few, _) = hold_out((Scaled(pixels), pixels), seed=0)
    assert isinstance(rest, Scaled)
    both = 255 * np.concatenate([rest[:], few])
    assert_allclose(np.sort(both.ravel()), np.arange(40), rtol=1e-6)
