import itertools

import keras
import numpy as np
import pytest
from conftest import answers, build_classifier, network_of, no_warning, stripes
from keras import layers
from numpy.testing import assert_allclose, assert_array_equal

from pyimagesearch import training
from pyimagesearch.datagen import generate_adversarial_batch, in_step

LABELS = np.arange(30) % 3


def test_robust_optimizer_stops_all_dropout_and_its_rate_rises_and_falls_once():
    kinds = ("Dropout", "SpatialDropout2D", "GaussianDropout", "AlphaDropout")
    model = network_of(network_of(*[getattr(layers, kind)(0.5) for kind in kinds]))
    optimizer = training.robust_optimizer(model, 100)
    ones = np.ones((2, 6, 6, 1), np.float32)
    assert_array_equal(model(ones, training=True), ones)
    rates = []
    for step in range(101):
        optimizer.iterations.assign(step)
        rates.append(float(optimizer.learning_rate))
    top = np.argmax(rates)
    assert (np.diff(rates[: top + 1]) > 0).all() and (np.diff(rates[top:]) < 0).all()
    assert rates[0] <= 1e-3 < rates[top] and rates[-1] < 1e-4


def test_robust_attack_shifts_images_by_up_to_a_pixel():
    """At eps 0 nothing but the shifts is left: nine places, the edge repeated."""
    rng = np.random.default_rng(0)
    images = rng.uniform(2, 3, (200, 5, 4, 3)).astype(np.float32)
    attack = training.robust_attack(10, clip=(2, 3), rng=1)
    shifted = attack(build_classifier((5, 4, 3)), images, np.arange(200) % 3, 0.0)
    places = []
    for down, right in itertools.product((-1, 0, 1), repeat=2):
        rows = np.clip(np.arange(5) - down, 0, 4)
        columns = np.clip(np.arange(4) - right, 0, 3)
        expected = images[:, rows][:, :, columns]
        places.append((shifted == expected).all(axis=(1, 2, 3)).sum())
    assert sum(places) == 200 and min(places) > 8


@pytest.mark.parametrize(
    ("eps", "reach", "risen"),
    [(0.1, 1.3, [0, 1 / 2, 1, 1, 1]), (0.2, 1.25, [0, 1 / 3, 2 / 3, 1, 1])],
)
def test_reach_rises_over_2_eps_of_the_training_but_at_most_0_3(eps, reach, risen):
    """On images of one value; weights change after every fourth batch only."""
    recipe = training.robust_attack(10, clip=(2, 3), rng=1)
    reached = []

    def attack(*arguments):
        adversaries = recipe(*arguments)
        assert adversaries.min() >= 2 and adversaries.max() <= 3
        reached.append(abs(adversaries - 2.5).max())
        return adversaries

    model = build_classifier()
    optimizer = keras.optimizers.Adam(gradient_accumulation_steps=4)
    model.compile(optimizer, "sparse_categorical_crossentropy")
    grey = np.full((30, 6, 6, 1), 2.5)
    batches = generate_adversarial_batch(
        model, 30, grey, LABELS, (6, 6, 1), eps, attack=attack
    )
    model.fit(in_step(batches), steps_per_epoch=5, verbose=0)
    assert_allclose(reached, eps * reach * np.array(risen), atol=1e-6)


def test_robust_attack_of_vectors_shifts_nothing_and_starts_by_its_seed():
    model = keras.Sequential([keras.Input((36,)), layers.Dense(3)])
    vectors = np.random.default_rng(0).random((30, 36), dtype=np.float32)

    def attacked(rng):
        attack = training.robust_attack(1, rng=rng)
        assert_array_equal(attack(model, vectors, LABELS, 0.0), vectors)
        return attack(model, vectors, LABELS, 0.1)

    expected = attacked(1)
    assert 0.12 < abs(expected - vectors).max() <= 0.13 + 1e-6
    assert_array_equal(attacked(1), expected)
    assert (attacked(2) != expected).any()


class Ruin(keras.callbacks.Callback):
    """Makes the network answer one class from the third epoch on."""

    def on_epoch_end(self, epoch, logs=None):
        if epoch >= 2:
            self.model.layers[-1].bias.assign([0, 1000, 0])


def train_striped(*callbacks):
    """Train, and return the share of right answers and the logged accuracies."""
    model = build_classifier()
    images, labels = stripes(60)
    model.compile(keras.optimizers.Adam(0.01), "categorical_crossentropy")
    history = model.fit(
        images, labels, epochs=4, batch_size=4, callbacks=callbacks, verbose=0
    )
    right = (answers(model, images) == labels.argmax(axis=1)).mean()
    return right, history.history["robust_accuracy"]


def test_a_defence_that_fails_ends_with_the_best_epochs_weights():
    images, _ = stripes(60)
    of_the_first_class = (images[::3], np.zeros(20))
    watch = training.WatchRobustness(of_the_first_class, 0.1)
    with pytest.warns(UserWarning, match="the defence has failed") as told:
        right, logged = train_striped(Ruin(), watch)
    assert logged[1] == max(logged) > 0.9 and logged[-1] == 0
    assert right > 0.9
    (warning,) = [w for w in told if "the defence" in str(w.message)]
    assert "in epoch 2," in str(warning.message)  # the last of equals

    with no_warning():  # it starts anew, and leaves alone a defence that holds
        right, logged = train_striped(watch)
    assert max(logged) > 0.9 and right > 0.9
    assert logged == watch.accuracies


@pytest.mark.parametrize(("count", "out"), [(10_000, 200), (300, 15), (10, 1)])
def test_held_out_images_are_not_trained_on(count, out):
    numbers = np.arange(count)
    (rest, labels), (few, own) = training.hold_out((numbers, -numbers), seed=0)
    assert len(few) == out
    assert_array_equal(np.sort(np.concatenate([rest, few])), numbers)
    assert (labels == -rest).all() and (own == -few).all()
    assert count == 10 or (np.diff(np.sort(few)) > 1).any()  # from all over the data
    with pytest.raises(ValueError, match=f"images must be {count}, as labels, got 5"):
        training.hold_out((numbers[:5], numbers), seed=0)
