"""Images and labels by name or from a file."""

import contextlib
import sys
import threading
import time
from typing import NamedTuple

import numpy as np

_KERAS_NAMES = ("mnist", "fashion_mnist", "cifar10")
NAMES = (*_KERAS_NAMES, "digits")
_NPZ_KEYS = ("x_train", "y_train", "x_test", "y_test")


class Dataset(NamedTuple):
    """Images `(n, height, width, channels)`, float32 in [0, 1]; class ids `(n,)`."""

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    classes: int


def load(data: str) -> Dataset:
    """Load a data set.

    Args:
        data: `mnist`, `fashion_mnist` or `cifar10`, which Keras downloads once;
            `digits`, scikit-learn's, enlarged to MNIST's size; or an `.npz` file of
            `x_train`, `y_train`, `x_test` and `y_test`: images `(n, h, w)` or
            `(n, h, w, c)`, integers to 255 or floats to 1; class ids `(n,)` or `(n, 1)`.

    Raises:
        ConnectionError: If the data are not at hand and cannot be downloaded.
        ValueError: If the file cannot be read or holds anything else.
    """
    if data == "digits":
        arrays = _load_digits()
    elif data in _KERAS_NAMES:
        arrays = _load_from_keras(data)
    else:
        arrays = _load_npz(data)
    try:
        return _check(*arrays)
    except ValueError as error:
        raise ValueError(f"{data}: {error}") from error


def _load_digits():
    import sklearn.datasets
    import sklearn.model_selection

    digits = sklearn.datasets.load_digits()
    # 8x8 pixels from 0 to 16: three times as large, and a margin as MNIST has.
    images = np.kron(digits.images / 16, np.ones((3, 3)))
    images = np.pad(images, ((0, 0), (2, 2), (2, 2)))
    train_images, test_images, train_labels, test_labels = (
        sklearn.model_selection.train_test_split(
            images, digits.target, test_size=0.2, stratify=digits.target, random_state=0
        )
    )
    return train_images, train_labels, test_images, test_labels


def _load_npz(path):
    try:
        with np.load(path, allow_pickle=False) as archive:
            return [archive[key] for key in _NPZ_KEYS]
    except Exception as error:  # zip, zlib and NumPy raise a dozen kinds
        raise ValueError(
            f"{path}: not an .npz file of {', '.join(_NPZ_KEYS)}, without pickled "
            f"objects: {_one_line(error)}"
        ) from error


def _load_from_keras(name):
    import keras

    try:
        train, test = _unless_stalled(getattr(keras.datasets, name).load_data)
    except Exception as error:  # what Keras raises
        raise ConnectionError(
            f"{name} is neither cached nor downloadable: {_one_line(error)}"
        ) from error
    return *train, *test


def _unless_stalled(download, seconds=10.0):
    """Call `download` in a thread; raise TimeoutError once it prints no progress.

    A time-out of the sockets would not do: the look-up of a host name knows none, and
    each address of a host would be waited for in turn.
    """
    progress = _Progress()
    outcome = {}

    def run():
        try:
            outcome["result"] = download()
        except Exception as error:
            outcome["error"] = error

    thread = threading.Thread(target=run, daemon=True)
    with contextlib.redirect_stdout(progress):
        thread.start()
        while thread.is_alive() and time.monotonic() < progress.last + seconds:
            thread.join(0.05)
    if "error" in outcome:
        raise outcome["error"]
    if "result" not in outcome:
        raise TimeoutError(f"no data for {seconds:g} seconds")
    return outcome["result"]


class _Progress:
    """Standard output that notes when it was last written to; silent in log files."""

    def __init__(self):
        self.stdout, self.last = sys.stdout, time.monotonic()

    def write(self, text):
        self.last = time.monotonic()
        return self.stdout.write(text) if self.stdout.isatty() else len(text)

    def __getattr__(self, name):
        return getattr(self.stdout, name)


def _one_line(error):
    return " ".join(str(error).split()) or type(error).__name__


def _check(train_images, train_labels, test_images, test_labels):
    train_images = _check_images("x_train", train_images)
    test_images = _check_images("x_test", test_images)
    if train_images.shape[1:] != test_images.shape[1:]:
        raise ValueError(
            f"x_test must hold images of x_train's shape {train_images.shape[1:]}, got "
            f"{test_images.shape[1:]}"
        )
    train_labels = _check_labels("y_train", train_labels, len(train_images))
    test_labels = _check_labels("y_test", test_labels, len(test_images))
    classes = int(train_labels.max()) + 1
    if test_labels.max() >= classes:
        raise ValueError(
            f"y_test must hold y_train's classes 0 to {classes - 1}, got "
            f"{test_labels.max()}"
        )
    return Dataset(train_images, train_labels, test_images, test_labels, classes)


def _check_images(key, images):
    if images.ndim == 3:
        images = images[..., np.newaxis]
    if images.ndim != 4 or images.size == 0 or images.dtype.kind not in "uif":
        raise ValueError(
            f"{key} must hold numbers of shape (n, h, w) or (n, h, w, c), got "
            f"{images.dtype} {images.shape}"
        )
    highest = 1 if images.dtype.kind == "f" else 255
    if not (images.min() >= 0 and images.max() <= highest):  # nor NaN
        raise ValueError(
            f"{key} must hold integers from 0 to 255 or floats from 0 to 1, got "
            f"{images.dtype} from {images.min():g} to {images.max():g}"
        )
    return images.astype(np.float32) / np.float32(highest)


def _check_labels(key, labels, count):
    if labels.shape not in ((count,), (count, 1)) or labels.dtype.kind not in "ui":
        raise ValueError(
            f"{key} must hold integers of shape ({count},) or ({count}, 1), got "
            f"{labels.dtype} {labels.shape}"
        )
    if labels.min() < 0:
        raise ValueError(f"{key} must hold class ids from 0, got {labels.min()}")
    return labels.reshape(count).astype(np.int64)
