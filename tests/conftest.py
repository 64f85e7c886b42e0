"""Fixtures shared by the tests."""

import contextlib
import os
import subprocess
import sys
import warnings
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")  # other tests run on other cores

import keras
import numpy as np
import pytest
import tensorflow as tf

from pyimagesearch.experiment.data import load

ROOT = Path(__file__).parent.parent

# Two devices to distribute a training over.
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0],
    [tf.config.LogicalDeviceConfiguration()] * 2,
)


def run_python(*arguments, **environment):
    """Run Python in a process of its own, with TensorFlow's start-up lines."""
    environment = os.environ | environment
    environment.pop("TF_CPP_MIN_LOG_LEVEL", None)
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env=environment
    )


@contextlib.contextmanager
def no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@contextlib.contextmanager
def as_shown():
    """Record the warnings that a user sees: Python shows each once a line."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("default")
        yield seen


@pytest.fixture(autouse=True)
def seeded():
    keras.utils.set_random_seed(0)


def build_classifier(image_shape=(6, 6, 1), classes=3, activation="softmax"):
    """Build a smooth little network, so that finite differences are exact enough."""
    hidden = [keras.layers.Conv2D(4, 3, activation="tanh"), keras.layers.Flatten()]
    answer = keras.layers.Dense(classes, activation=activation)
    return network_of(*hidden, answer, image_shape=image_shape)


def network_of(*hidden, image_shape=(6, 6, 1)):
    return keras.Sequential([keras.Input(image_shape), *hidden])


def answers(model, images):
    return np.asarray(model(images)).argmax(axis=-1)


def gradients(model, images, targets, loss=keras.losses.mean_squared_error):
    """Return the gradient of each image the tutorials' way, by an eager tape each."""
    result = []
    for image, target in zip(images, targets, strict=True):
        image = tf.constant(image[np.newaxis])
        with tf.GradientTape() as tape:
            tape.watch(image)
            value = loss(target[np.newaxis], model(image, training=False))
        result.append(tape.gradient(value, image, unconnected_gradients="zero")[0])
    return np.array(result)


def stripes(count):
    """Images of which each class lights two of six columns, and one-hot labels."""
    one_hot = np.eye(3, dtype=np.float32)[np.arange(count) % 3]
    columns = np.repeat(one_hot, 2, axis=1)
    images = np.broadcast_to(columns[:, np.newaxis, :, np.newaxis], (count, 6, 6, 1))
    return images.copy(), one_hot


def saturate(model, factor=3000):
    """Scale the last weights, so that float32 rounds the probabilities to 0 and 1."""
    last = [layer for layer in model.layers if layer.get_weights()][-1]
    last.set_weights([factor * weights for weights in last.get_weights()])
    return model


@pytest.fixture(scope="session")
def digits():
    """A network trained on scikit-learn's digits, and the test data."""
    keras.utils.set_random_seed(1)
    data = load("digits")
    convolution = keras.layers.Conv2D(8, 3, strides=2, activation="relu")
    answer = [keras.layers.Flatten(), keras.layers.Dense(10), keras.layers.Softmax()]
    model = network_of(convolution, *answer, image_shape=(28, 28, 1))
    model.compile("adam", "categorical_crossentropy")
    model.fit(*data.train, batch_size=16, epochs=4, verbose=0)
    return model, data.test


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory):
    """A data file of 300 images, 8x8, of which three classes show a corner each."""
    rng = np.random.default_rng(0)
    labels = rng.integers(3, size=300)
    images = rng.integers(60, size=(300, 8, 8), dtype=np.uint8)
    images += np.uint8(120 * np.repeat(np.eye(3, 4), 2, axis=1)[labels])[:, np.newaxis]
    path = tmp_path_factory.mktemp("data") / "tiny.npz"
    train = {"x_train": images[:200], "y_train": labels[:200]}
    np.savez(path, **train, x_test=images[200:], y_test=labels[200:])
    return path


@pytest.fixture
def model():
    return build_classifier()


@pytest.fixture
def images():
    return np.random.default_rng(1).random((20, 6, 6, 1), dtype=np.float32)


@pytest.fixture
def labels():
    """Class ids of `images`."""
    return np.random.default_rng(2).integers(3, size=20)


@pytest.fixture
def one_hot(labels):
    return np.eye(3, dtype=np.float32)[labels]
