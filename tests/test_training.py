from argparse import Namespace
from functools import partial

import keras
import numpy as np

from pyimagesearch.runs import Run
from pyimagesearch.simplecnn import SimpleCNN
from pyimagesearch.training import (
    attack_shifted,
    fit,
    fit_batches,
    prepare_robust,
    shuffled_batches,
)

OPTIONS = Namespace(batch_size=4, seed=5, verbose=0, output=None)


class KilledRun(Run):
    """A run that was killed when it had done some epochs."""

    def __init__(self, options, done):
        super().__init__(options, None)
        self.done = done

    def restore(self, model, phase):
        return self.done


class Recorder(keras.Model):
    """Records the numbers of the images it is trained on, and what dropout keeps."""

    def __init__(self):
        super().__init__()
        self.dropout = keras.Sequential([keras.layers.Dropout(0.5)])
        self.rows, self.kept = [], []

    def call(self, images, training=None):
        return self.dropout(images, training=training)

    def train_step(self, data):
        self.rows.append(data[0].numpy().astype(int).tolist())
        self.kept.append(self(np.ones((8, 8)), training=True).numpy())
        return {"loss": 0.0}


def record(fit_phase, done=0, options=OPTIONS):
    model = Recorder()
    model.compile(run_eagerly=True)
    fit_phase(model, KilledRun(options, done))
    return model.rows, np.array(model.kept)


def fit_arrays(model, run, phase=0):
    numbers = np.arange(10, dtype=np.float32)
    fit(model, (numbers, numbers), run, phase, epochs=3)


def test_epochs_shuffle_all_images_in_orders_of_their_own():
    rows, kept = record(fit_arrays)
    assert [len(batch) for batch in rows] == [4, 4, 2] * 3
    epochs = [[*rows[i], *rows[i + 1], *rows[i + 2]] for i in (0, 3, 6)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len(set(map(tuple, [*epochs, range(10)]))) == 4
    assert len({mask.tobytes() for mask in kept}) == 9


def test_shuffled_batches_end_with_what_is_left():
    numbers = np.arange(10)
    batches = list(shuffled_batches((numbers, -numbers), 4, rng=0))
    assert [len(images) for images, _ in batches] == [4, 4, 2]
    assert all((images == -labels).all() for images, labels in batches)
    assert sorted(np.concatenate([images for images, _ in batches])) == list(range(10))


def test_robust_preparation_stops_all_dropout_and_the_rate_rises_and_falls_once():
    model = keras.Sequential([keras.Input((8, 8, 1)), SimpleCNN.build(8, 8, 1, 3)])
    rate = prepare_robust(model, 100)
    images = np.random.default_rng(0).random((4, 8, 8, 1), dtype=np.float32)
    state = [variable.numpy() for variable in model.variables]
    outputs = {model(images, training=True).numpy().tobytes()}
    for variable, value in zip(model.variables, state, strict=True):
        variable.assign(value + 1 if value.dtype.kind == "i" else value)
    outputs.add(model(images, training=True).numpy().tobytes())
    assert len(outputs) == 1
    rates = np.array([float(rate(step)) for step in range(101)])
    assert rates.argmax() == 30 and np.isclose(rates.max(), 5e-3)
    assert (np.diff(rates[:31]) > 0).all() and (np.diff(rates[30:]) < 0).all()
    assert rates[0] <= 1e-4 and rates[-1] < 1e-5


def test_an_epoch_depends_on_seed_phase_and_its_number_alone():
    rows, kept = record(fit_arrays)
    again, kept_again = record(fit_arrays)
    assert again == rows
    np.testing.assert_array_equal(kept_again, kept)
    resumed, kept_resumed = record(fit_arrays, done=1)
    assert resumed == rows[3:]
    np.testing.assert_array_equal(kept_resumed, kept[3:])
    assert record(partial(fit_arrays, phase=1))[0] != rows
    assert (
        record(fit_arrays, options=Namespace(**vars(OPTIONS) | {"seed": 6}))[0] != rows
    )


def fit_generator(model, run):
    def make_batches(rng):
        rng = np.random.default_rng(rng)
        while True:
            numbers = rng.integers(1000, size=4).astype(np.float32)
            yield numbers, numbers

    fit_batches(model, make_batches, 2, run, 1, epochs=3)


def test_batches_of_an_epoch_depend_on_seed_phase_and_its_number_alone():
    rows, kept = record(fit_generator)
    assert len(rows) == 6
    for epoch in range(3):
        rng = np.random.default_rng((5, 1, epoch))
        expected = [rng.integers(1000, size=4).tolist() for _ in range(2)]
        assert rows[2 * epoch : 2 * epoch + 2] == expected
    resumed, kept_resumed = record(fit_generator, done=1)
    assert resumed == rows[2:]
    np.testing.assert_array_equal(kept_resumed, kept[2:])


def test_attack_on_shifted_images():
    """Each image moves by itself to one of nine places, and its edge is repeated."""
    images = np.random.default_rng(0).random((200, 5, 4, 3), dtype=np.float32)
    labels = np.arange(200)
    given = []
    attack = attack_shifted(lambda *args: given.append(args), np.random.default_rng(1))
    attack("model", images, labels, 0.25)
    ((model, shifted, passed, eps),) = given
    assert (model, eps) == ("model", 0.25) and passed is labels
    assert shifted.dtype == np.float32
    places = {}
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            rows = np.clip(np.arange(5) - down, 0, 4)
            columns = np.clip(np.arange(4) - right, 0, 3)
            expected = images[:, rows][:, :, columns]
            same = (shifted == expected).all(axis=(1, 2, 3))
            places[down, right] = same.sum()
    assert sum(places.values()) == 200
    assert min(places.values()) > 8
