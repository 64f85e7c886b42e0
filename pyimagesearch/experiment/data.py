"""Images and labels by name or from a file."""

import os
import socket
import urllib.request
import warnings
from pathlib import Path

import numpy as np

from pyimagesearch.core.checks import one_line

# Keras's data sets: what their files' names begin with in its cache, and their host.
_STORE = "https://storage.googleapis.com/tensorflow/tf-keras-datasets/mnist.npz"
_FROM_KERAS = {
    "mnist": ("mnist.npz", _STORE),
    "fashion_mnist": ("fashion-mnist", _STORE),
    "cifar10": ("cifar-10-batches-py", "https://www.cs.toronto.edu/~kriz/cifar.html"),
}
NAMES = (*_FROM_KERAS, "digits")
_KEYS = ("x_train", "y_train", "x_test", "y_test")
_PATIENCE = 15  # seconds without data until a download is given up

Split = tuple[np.ndarray, np.ndarray]


class Scaled:
    """Images that are kept as bytes if they came so; rows that are read are float32.

    Images of integers up to 255 then take a quarter of the memory.
    """

    def __init__(self, images: np.ndarray):
        """Keep integers up to 255, or floats up to 1."""
        self._is_float = images.dtype.kind == "f"
        kept = np.float32 if self._is_float else np.uint8
        self._images = images.astype(kept, copy=False)
        self.shape, self.dtype = images.shape, np.dtype(np.float32)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._images)

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        """Return some of the images."""
        largest = 1 if self._is_float else 255
        return np.divide(self._images[rows], largest, dtype=np.float32)

    def take(self, rows: np.ndarray, **_) -> "Scaled":
        """Return some of the images, still kept as bytes: `numpy.take` calls this."""
        return Scaled(self._images[rows])


def load(data: str) -> tuple[Split, Split]:
    """Load training and test data.

    Args:
        data: `mnist`, `fashion_mnist` or `cifar10`, which Keras downloads once;
            `digits`, scikit-learn's, enlarged to MNIST's size; or an `.npz` file of
            `x_train`, `y_train`, `x_test` and `y_test`: images `(n, h, w)` or `(n, h,
            w, c)`, integers up to 255 or floats up to 1; class ids `(n,)` or `(n, 1)`.

    Returns:
        `(train_images, train_labels), (test_images, test_labels)`: float32 images
        `(n, h, w, c)` in [0, 1], those of the training `Scaled`, and one-hot float32
        labels `(n, classes)`.

    Raises:
        ConnectionError: If the data are not at hand and cannot be downloaded.
        ValueError: If the file cannot be read or holds anything else.
    """
    if data == "digits":
        arrays = _load_digits()
    else:
        arrays = _load_from_keras(data) if data in _FROM_KERAS else _load_npz(data)
    x_train, y_train, x_test, y_test = arrays
    try:
        x_train, x_test = _images("x_train", x_train), _images("x_test", x_test)
        y_train = _class_ids("y_train", y_train, len(x_train))
        y_test = _class_ids("y_test", y_test, len(x_test))
        if x_train.shape[1:] != x_test.shape[1:]:
            raise ValueError("x_test must hold images of the shape of x_train's")
        classes = int(y_train.max()) + 1
        if classes < 2:
            raise ValueError("y_train must hold two or more class ids, got only 0")
        if y_test.max() >= classes:
            wanted = f"class ids 0 to {classes - 1}, as y_train"
            raise ValueError(f"y_test must hold {wanted}, got {y_test.max()}")
    except ValueError as error:
        raise ValueError(f"{data}: {error}") from error
    one_hot = np.eye(classes, dtype=np.float32)
    return (x_train, one_hot[y_train]), (x_test[:], one_hot[y_test])


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


def _load_npz(path, hint=""):
    try:
        with np.load(path, allow_pickle=False) as archive:
            return [archive[key] for key in _KEYS]
    except Exception as error:  # zip, zlib and NumPy raise a dozen kinds
        wanted = f"an .npz file of the arrays {', '.join(_KEYS)}, none pickled"
        reason = one_line(str(error).split(". ")[0])  # NumPy's advice is not for users
        raise ValueError(f"{path} is not {wanted}: {reason}{hint}") from error


def _load_from_keras(name):
    from multiprocessing.pool import ThreadPool

    import keras

    start, url = _FROM_KERAS[name]
    home = Path(os.environ.get("KERAS_HOME", "~/.keras")).expanduser()
    cached = sorted(home.glob(f"datasets/{start}*"))
    if name == "mnist" and cached:  # Keras would not look into a read-only folder
        return _load_npz(cached[0], "; delete it to download it again")
    usual = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_PATIENCE)
    try:
        if not cached:  # a thread, for looking up the host's name has no time limit
            with ThreadPool(1) as pool:
                pool.apply_async(urllib.request.urlopen, [url]).get(_PATIENCE).close()
        train, test = getattr(keras.datasets, name).load_data()
    except Exception as error:  # what Keras raises
        reason = f"{name} is neither cached nor downloadable: {one_line(error)}"
        raise ConnectionError(reason) from error
    finally:
        socket.setdefaulttimeout(usual)
    return *train, *test


def _images(key, images):
    """Return images as float32 `(n, h, w, c)` in [0, 1], or raise."""
    images = images[..., np.newaxis] if images.ndim == 3 else images
    if images.ndim != 4 or images.size == 0 or images.dtype.kind not in "uif":
        got = f"{images.dtype} of shape {images.shape}"
        raise ValueError(f"{key} must be numbers (n, h, w) or (n, h, w, c), got {got}")
    largest = 1 if images.dtype.kind == "f" else 255
    low, high = images.min(), images.max()
    if not 0 <= low <= high <= largest:  # NaN is refused, too
        got = f"{images.dtype} from {low:g} to {high:g}"
        raise ValueError(f"{key} must be integers to 255 or floats to 1, got {got}")
    if key == "x_train" and largest == 255 and 0 < high < 128:
        how = "scale it to 0 to 255, or to floats from 0 to 1"
        text = f"{key} has integers up to {high} only, but is divided by 255: {how}"
        warnings.warn(text, stacklevel=2)
    return Scaled(images)


def _class_ids(key, labels, count):
    """Return labels as integers `(count,)`, or raise."""
    if labels.shape not in ((count,), (count, 1)) or labels.dtype.kind not in "ui":
        got = f"{labels.dtype} of shape {labels.shape}"
        raise ValueError(f"{key} must be {count} integers, class ids, got {got}")
    if labels.min() < 0:
        raise ValueError(f"{key} must hold class ids from 0 on, got {labels.min()}")
    return labels.reshape(count)
