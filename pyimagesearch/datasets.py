"""Images and labels by name or from a file."""

import contextlib
import math
import socket
import sys
import threading
import time
import zipfile
from os import PathLike
from pathlib import Path

import numpy as np

from pyimagesearch.checks import one_line, shown

_KERAS_NAMES = ("mnist", "fashion_mnist", "cifar10")
NAMES = (*_KERAS_NAMES, "digits")
_NPZ_KEYS = ("x_train", "y_train", "x_test", "y_test")
_MOST_UNPACKED, _UNUSED_CLASSES = 50, 100

Split = tuple[np.ndarray, np.ndarray]


def load(data: str) -> tuple[Split, Split]:
    """Load training and test data.

    Args:
        data: `mnist`, `fashion_mnist` or `cifar10`, which Keras downloads once;
            `digits`, scikit-learn's, enlarged to MNIST's size; or an `.npz` file of
            `x_train`, `y_train`, `x_test` and `y_test`: images `(n, h, w)` or `(n, h,
            w, c)`, integers up to 255 or floats up to 1; class ids `(n,)` or `(n, 1)`.

    Returns:
        `(train_images, train_labels), (test_images, test_labels)`: float32 images
        `(n, h, w, c)` in [0, 1] and one-hot float32 labels `(n, classes)`.

    Raises:
        TypeError: If `data` is neither a name nor a path.
        ConnectionError: If the data are not at hand and cannot be downloaded.
        ValueError: If the file cannot be read or holds anything else.
    """
    if not isinstance(data, str | PathLike):
        raise TypeError(f"data must be a name or a path, got {shown(data)}")
    if data == "digits":
        arrays = _load_digits()
    elif data in _KERAS_NAMES:
        arrays = _load_from_keras(data)
    else:
        arrays = _load_npz(data)
    try:
        x_train, y_train, x_test, y_test = arrays
        x_train, x_test = _images("x_train", x_train), _images("x_test", x_test)
        if x_train.shape[1:] != x_test.shape[1:]:
            raise ValueError("x_test must hold images of the shape of x_train's")
        y_train = _class_ids("y_train", y_train, len(x_train))
        used, classes = len(np.unique(y_train)), int(y_train.max()) + 1
        if not 2 <= classes <= used + _UNUSED_CLASSES:  # a one-hot row is this long
            wanted = f"class ids from 0 on, at most {_UNUSED_CLASSES} of them unused"
            got = f"{used} different ids to {classes - 1}"
            raise ValueError(f"y_train must hold two or more {wanted}, got {got}")
        y_test = _class_ids("y_test", y_test, len(x_test))
        if y_test.max() >= classes:
            got = f"got {y_test.max()}"
            raise ValueError(f"y_test must hold class ids 0 to {classes - 1}, {got}")
    except ValueError as error:
        raise ValueError(f"{data}: {error}") from error
    one_hot = np.eye(classes, dtype=np.float32)
    return (x_train, one_hot[y_train]), (x_test, one_hot[y_test])


def _load_digits():
    import sklearn.datasets
    import sklearn.model_selection

    digits = sklearn.datasets.load_digits()
    # 8x8 pixels from 0 to 16: three times as large, with a margin like MNIST's.
    images = np.kron(digits.images / 16, np.ones((3, 3)))
    images = np.pad(images, ((0, 0), (2, 2), (2, 2)))
    x_train, x_test, y_train, y_test = sklearn.model_selection.train_test_split(
        images, digits.target, test_size=0.2, stratify=digits.target, random_state=0
    )
    return x_train, y_train, x_test, y_test


def _load_npz(path):
    try:
        with zipfile.ZipFile(path) as archive:
            members = [archive.getinfo(f"{key}.npy") for key in _NPZ_KEYS]
            unpacked = sum(member.file_size for member in members)
            limit = 2**20 + _MOST_UNPACKED * Path(path).stat().st_size
            if unpacked > limit:
                raise ValueError(f"{unpacked:,} bytes packed too tightly: np.savez it")
            return [_read_array(archive, member) for member in members]
    except Exception as error:  # zip, zlib and NumPy raise a dozen kinds
        wanted = f"an .npz file of the arrays {', '.join(_NPZ_KEYS)}, none pickled"
        raise ValueError(f"{path} is not {wanted}: {one_line(error)}") from error


def _read_array(archive, member):
    # NumPy would make room for all that the array's header claims, and then read.
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        read_header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, is_fortran, dtype = read_header(file)
        if dtype.hasobject:
            raise ValueError(f"{member.filename} is pickled")
        if math.prod(shape) * dtype.itemsize != member.file_size - file.tell():
            raise ValueError(f"{member.filename} does not hold an array {shape}")
        array = np.frombuffer(file.read(), dtype)
    return array.reshape(shape, order="F" if is_fortran else "C")


def _load_from_keras(name):
    import keras

    usual = socket.getdefaulttimeout()
    socket.setdefaulttimeout(10)  # seconds; then Keras deletes the part that it has
    try:
        train, test = _unless_stalled(getattr(keras.datasets, name).load_data)
    except Exception as error:  # what Keras raises
        reason = f"{name} is neither cached nor downloadable: {one_line(error)}"
        raise ConnectionError(reason) from error
    finally:
        socket.setdefaulttimeout(usual)
    return *train, *test


class _Progress:
    """Standard output, silent in log files, that notes when it was last written to."""

    def __init__(self):
        self.stdout, self.last, self.stopped = sys.stdout, time.monotonic(), False

    def write(self, text):
        if self.stopped:
            raise KeyboardInterrupt
        self.last = time.monotonic()
        return self.stdout.write(text) if self.stdout.isatty() else len(text)

    def __getattr__(self, name):
        return getattr(self.stdout, name)


def _unless_stalled(download, seconds=12.0):
    # In a thread, because no time-out of a socket would do alone: the look-up of a name
    # knows none, and each address of a host would be waited for in turn.
    outcome = []

    def run():
        try:
            outcome.append(download())
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=run, daemon=True)
    with contextlib.redirect_stdout(_Progress()) as progress:
        thread.start()
        try:
            while thread.is_alive() and time.monotonic() < progress.last + seconds:
                time.sleep(0.05)
        except KeyboardInterrupt:  # to the thread, too, so that Keras tidies up there
            progress.stopped = True
            thread.join(2)
            raise
    if not outcome:
        raise TimeoutError(f"no data for {seconds:g} seconds")
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    return outcome[0]


def _images(key, images):
    if images.ndim == 3:
        images = images[..., np.newaxis]
    if images.ndim != 4 or images.size == 0 or images.dtype.kind not in "uif":
        got = f"{images.dtype} of shape {images.shape}"
        raise ValueError(f"{key} must be numbers (n, h, w) or (n, h, w, c), got {got}")
    highest = 1 if images.dtype.kind == "f" else 255
    if not (images.min() >= 0 and images.max() <= highest):  # NaN is refused, too
        got = f"{images.dtype} from {images.min():g} to {images.max():g}"
        raise ValueError(f"{key} must be integers to 255 or floats to 1, got {got}")
    return np.divide(images, highest, dtype=np.float32)


def _class_ids(key, labels, count):
    if labels.shape not in ((count,), (count, 1)) or labels.dtype.kind not in "ui":
        got = f"{labels.dtype} of shape {labels.shape}"
        raise ValueError(
            f"{key} must be integers ({count},) or ({count}, 1), got {got}"
        )
    if labels.min() < 0:
        raise ValueError(f"{key} must hold class ids from 0, got {labels.min()}")
    return labels.reshape(count)
