"""Images and labels by name or from a file, with an offline stand-in for MNIST."""

import contextlib
import io
import sys
import threading
import time
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

KERAS_NAMES = ("mnist", "fashion_mnist", "cifar10")
NAMES = (*KERAS_NAMES, "digits")
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
            `digits`, which comes with scikit-learn; or the path of an `.npz` file
            with the arrays `x_train`, `y_train`, `x_test` and `y_test`: images
            `(n, h, w)` or `(n, h, w, c)`, integers from 0 to 255 or floats from 0 to
            1, and class ids `(n,)` or `(n, 1)`.

    Returns:
        The images scaled to [0, 1], with a channel axis, and their class ids.

    Raises:
        ConnectionError: If the data are neither cached nor to be downloaded; a
            download that stands still for 10 seconds is given up.
        ValueError: If the file is missing, unreadable, or holds anything else.
    """
    if data == "digits":
        return _load_digits()
    arrays = _load_from_keras(data) if data in KERAS_NAMES else _load_npz(data)
    return _as_dataset(data, *arrays)


def _load_digits():
    """Scikit-learn's 1,797 digits of 8x8 pixels, enlarged to MNIST's 28x28."""
    import sklearn.datasets
    import sklearn.model_selection

    digits = sklearn.datasets.load_digits()
    images = np.kron(digits.images / 16, np.ones((3, 3)))  # values are 0 to 16
    images = np.pad(images, ((0, 0), (2, 2), (2, 2)))
    train_images, test_images, train_labels, test_labels = (
        sklearn.model_selection.train_test_split(
            images, digits.target, test_size=0.2, stratify=digits.target, random_state=0
        )
    )
    return _as_dataset("digits", train_images, train_labels, test_images, test_labels)


def _load_from_keras(name):
    import keras

    try:
        (train_images, train_labels), (test_images, test_labels) = _watch_download(
            getattr(keras.datasets, name).load_data
        )
    except Exception as error:  # Keras raises bare `Exception`s
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ConnectionError(
            f"{name} is neither cached nor downloadable ({reason[0]})"
        ) from error
    return train_images, train_labels, test_images, test_labels


def _watch_download(load, stall_seconds=10.0):
    """Call `load` in a thread; give up once it reports no progress any more.

    A time-out on the socket would not do: looking up a host name knows none, and a
    host with many addresses is tried at each of them in turn.
    """
    progress = _Progress(sys.stdout)
    outcome = {}

    def run():
        try:
            outcome["result"] = load()
        except Exception as error:
            outcome["error"] = error

    thread = threading.Thread(target=run, daemon=True)
    with contextlib.redirect_stdout(progress):
        thread.start()
        while thread.is_alive() and time.monotonic() - progress.last < stall_seconds:
            thread.join(0.05)
    if thread.is_alive():
        raise TimeoutError(f"the download stood still for {stall_seconds:g} seconds")
    if "error" in outcome:
        raise outcome["error"]
    return outcome["result"]


class _Progress(io.TextIOBase):
    """Notes when something was last written; passes it on to a terminal only."""

    def __init__(self, stream):
        self.stream = stream
        self.last = time.monotonic()

    def isatty(self):
        return self.stream.isatty()

    def write(self, text):
        self.last = time.monotonic()
        return self.stream.write(text) if self.isatty() else len(text)

    def flush(self):
        self.stream.flush()


def _load_npz(path):
    try:
        with np.load(path, allow_pickle=False) as archive:
            missing = [key for key in _NPZ_KEYS if key not in archive]
            if missing:
                raise ValueError(f"it has no array {missing[0]}")
            return [archive[key] for key in _NPZ_KEYS]
    except FileNotFoundError:
        raise ValueError(f"{path}: there is no such file") from None
    except (AttributeError, EOFError, OSError, TypeError, ValueError) as error:
        # np.load returns a bare array, no archive, for an .npy file.
        raise _not_an_npz(path, error) from error
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise _not_an_npz(path, error) from error


def _not_an_npz(path, error):
    reason = str(error).strip().splitlines() or [type(error).__name__]
    return ValueError(
        f"{path} is not an .npz file of {', '.join(_NPZ_KEYS)} without pickled "
        f"objects: {reason[0]}"
    )


def _as_dataset(data, train_images, train_labels, test_images, test_labels):
    train_images = _as_images(data, "x_train", train_images)
    test_images = _as_images(data, "x_test", test_images)
    if train_images.shape[1:] != test_images.shape[1:]:
        raise ValueError(
            f"{data}: x_train and x_test must hold images of one shape, got "
            f"{train_images.shape[1:]} and {test_images.shape[1:]}"
        )
    train_labels = _as_labels(data, "y_train", train_labels, len(train_images))
    classes = int(train_labels.max()) + 1
    test_labels = _as_labels(data, "y_test", test_labels, len(test_images))
    if test_labels.max() >= classes:
        raise ValueError(
            f"{data}: y_test must hold the classes of y_train, 0 to {classes - 1}, got "
            f"{test_labels.max()}"
        )
    return Dataset(train_images, train_labels, test_images, test_labels, classes)


def _as_images(data, key, images):
    if images.ndim == 3:
        images = images[..., np.newaxis]
    if images.ndim != 4 or images.size == 0:
        raise ValueError(
            f"{data}: {key} must have shape (n, h, w) or (n, h, w, c), got {images.shape}"
        )
    if images.dtype.kind not in "uif":
        raise ValueError(f"{data}: {key} must hold numbers, got {images.dtype}")
    highest = 1 if images.dtype.kind == "f" else 255
    if not (images.min() >= 0 and images.max() <= highest):  # NaN fails as well
        raise ValueError(
            f"{data}: {key} must hold {images.dtype} values from 0 to {highest}, got "
            f"{images.min():g} to {images.max():g}"
        )
    return images.astype(np.float32) / np.float32(highest)


def _as_labels(data, key, labels, count):
    if labels.shape not in ((count,), (count, 1)):
        raise ValueError(
            f"{data}: {key} must have shape ({count},) or ({count}, 1), one class id an "
            f"image, got {labels.shape}"
        )
    if labels.dtype.kind not in "ui" or labels.min() < 0:
        raise ValueError(
            f"{data}: {key} must hold class ids, integers from 0, got {labels.dtype}"
            + (f" from {labels.min()}" if labels.dtype.kind in "ui" else "")
        )
    return labels.reshape(count).astype(np.int64)
