"""Images and labels by name or from a file."""

import contextlib
import os
import socket
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pyimagesearch.core.checks import one_line
from pyimagesearch.experiment.console import fail

# Keras's data sets, and their files or folders in its cache.
_FROM_KERAS = {
    "mnist": "mnist.npz",
    "fashion_mnist": "fashion-mnist",
    "cifar10": "cifar-10-batches-py*",
}
NAMES = (*_FROM_KERAS, "digits")
_PATIENCE = 15  # seconds without data until a download is given up

Split = tuple[np.ndarray, np.ndarray]


class Data(NamedTuple):
    """Images in [0, 1], float32 `(n, h, w, c)`, and one-hot labels `(n, classes)`."""

    name: str
    train: Split
    test: Split
    epochs: int = 20  # of training, and of fine-tuning, that tell the tutorials' story
    fine_tune_epochs: int = 10


def load_data(chosen: str | None) -> Data:
    """Load the data that an option names, or end the script with a line.

    Without a choice it is MNIST, or scikit-learn's digits if that is neither cached nor
    to be downloaded.
    """
    try:
        data = load(chosen or "mnist")
    except (ConnectionError, ValueError) as error:
        if chosen or isinstance(error, ValueError):
            fail(f"--data: {error}")
        warnings.warn(f"{error}; using scikit-learn's digits instead", stacklevel=2)
        return load("digits")
    if data.name != "mnist":
        print(f"[INFO] using {data.name} instead of MNIST")
    return data


def load_test(chosen: str | None, model, rows: slice) -> tuple[str, Split]:
    """Load some rows of test data, with their name, or end the script with a line.

    The choice is as for `load_data`; or an `.npz` file of `x_test` and `y_test` alone;
    or a folder with a folder of pictures for each class of the Keras model, which are
    scaled to what it takes, and come in a random order that never changes.
    """
    if chosen is None or chosen in NAMES:
        data = load_data(chosen)
        images, labels = data.test
        return data.name, (images[rows], labels[rows])
    from tensorflow.errors import OpError

    classes = max(2, model.output_shape[-1])
    try:
        if Path(chosen).is_dir():
            return chosen, _load_folder(chosen, model.input_shape, classes, rows)
        ((images, ids),) = _load_npz(chosen, ["test"])
        images, labels = _split("test", images, ids, classes, "the model")
        if rows.start >= len(images):
            raise ValueError(f"it must hold image {rows.start}")
    except (ValueError, OpError) as error:  # of a file, or a picture
        fail(f"--data: {chosen}: {one_line(error)}")
    return chosen, (images[rows], labels[rows])


def _load_folder(folder, input_shape, classes, rows):
    import keras

    colours = {1: "grayscale", 3: "rgb", 4: "rgba"}
    *_, channels = input_shape
    if len(input_shape) != 4 or None in input_shape[1:] or channels not in colours:
        wanted = "a model of images of a known size, of 1, 3 or 4 channels"
        raise ValueError(f"pictures need {wanted}, got {input_shape}")
    dataset = keras.utils.image_dataset_from_directory(
        folder,
        label_mode="categorical",
        color_mode=colours[channels],
        image_size=input_shape[1:3],
        batch_size=None,
        seed=0,
    )
    found = len(dataset.class_names)
    if found != classes:
        wanted = f"{classes} folders, a class of the model each"
        raise ValueError(f"it must hold {wanted}, got {found}")
    share = dataset.skip(rows.start).batch(rows.stop - rows.start)
    for images, labels in share.as_numpy_iterator():
        return images / np.float32(255), labels
    raise ValueError(f"it must hold image {rows.start}")


def load(name: str) -> Data:
    """Load training and test data by name, or from an `.npz` file.

    A file holds images `x_train` and `x_test`, `(n, h, w)` or `(n, h, w, c)`, integers
    up to 255 or floats up to 1, and class ids `y_train` and `y_test`, `(n,)` or `(n,
    1)`; or a ValueError says what is wrong. Keras's data are downloaded once, or a
    ConnectionError says why not. scikit-learn's digits are enlarged to MNIST's size.
    """
    try:
        if name == "digits":
            train, test = _load_digits()
        elif name in _FROM_KERAS:
            train, test = _load_from_keras(name)
        else:
            train, test = _load_npz(name, ["train", "test"])
        images, labels = _split("train", *train)
        test_images, test_labels = _split("test", *test, labels.shape[1], "y_train")
        if images.shape[1:] != test_images.shape[1:]:
            raise ValueError("x_test must hold images of the shape of x_train's")
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    data = Data(name, (images, labels), (test_images, test_labels))
    if name == "digits":
        return data._replace(epochs=40, fine_tune_epochs=30)
    if Path(name).name == "mnist.npz" and images.shape == (60_000, 28, 28, 1):
        return data._replace(name="mnist")  # by its file
    return data


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
    return (x_train, y_train), (x_test, y_test)


def _load_npz(path, parts):
    try:
        with np.load(path, allow_pickle=False) as archive:
            return [(archive[f"x_{part}"], archive[f"y_{part}"]) for part in parts]
    except Exception as error:  # zip, zlib and NumPy raise a dozen kinds
        reason = one_line(str(error).split(". ")[0])  # NumPy's advice is not for users
        wanted = " and ".join(f"x_{part}, y_{part}" for part in parts)
        raise ValueError(f"no .npz file of {wanted}: {reason}") from error


def _load_from_keras(name):
    import keras

    files = f"datasets/{_FROM_KERAS[name]}"
    home = Path(os.environ.get("KERAS_HOME") or "~/.keras")
    with contextlib.suppress(RuntimeError):  # a user without a home
        home = home.expanduser()
    # Keras takes the second folder where the first is read-only.
    found = [*home.glob(files), *Path("/tmp/.keras").glob(files)]
    # After a download that failed it leaves an empty folder.
    cached = [path for path in found if path.is_file() or any(path.iterdir())]
    usual_timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_PATIENCE)
    try:
        return getattr(keras.datasets, name).load_data()
    except Exception as error:  # what Keras raises
        reason = one_line(error)
        if cached:  # Keras has found the file's checksum to be wrong
            raise ValueError(f"{cached[0]} was damaged: {reason}") from error
        missing = f"{name} is neither cached nor downloadable: {reason}"
        raise ConnectionError(missing) from error
    finally:
        socket.setdefaulttimeout(usual_timeout)


def _split(part, images, ids, classes=None, owner=None):
    """Return images as float32 `(n, h, w, c)` in [0, 1] and one-hot labels, or raise.

    There are as many classes as in the ids, or as their owner has.
    """
    if images.ndim == 3:
        images = images[..., np.newaxis]
    if images.ndim != 4 or images.size == 0 or images.dtype.kind not in "uif":
        got = f"{images.dtype} of shape {images.shape}"
        raise ValueError(f"x_{part} must be (n, h, w) or (n, h, w, c), got {got}")
    largest = 1 if images.dtype.kind == "f" else 255
    low = images.min()
    high = images.max()
    if not 0 <= low <= high <= largest:  # NaN is refused, too
        got = f"{images.dtype} from {low:g} to {high:g}"
        raise ValueError(f"x_{part} must be integers to 255 or floats to 1, got {got}")
    if largest == 255 and 0 < high < 128:
        warnings.warn(
            f"x_{part} has integers up to {high} only, but is divided by 255: scale it "
            "to 0 to 255, or to floats from 0 to 1",
            stacklevel=2,
        )
    count = len(images)
    if ids.shape not in ((count,), (count, 1)) or ids.dtype.kind not in "ui":
        got = f"{ids.dtype} of shape {ids.shape}"
        raise ValueError(f"y_{part} must be {count} integers, class ids, got {got}")
    highest = int(ids.max())
    if ids.min() < 0 or (classes is None and highest == 0):
        got = f"{ids.min()} to {highest}"
        raise ValueError(f"y_{part} must hold class ids 0, 1 and so on, got {got}")
    if classes is not None and highest >= classes:
        wanted = f"class ids 0 to {classes - 1}, as {owner} has"
        raise ValueError(f"y_{part} must hold {wanted}, got {highest}")
    one_hot = np.eye(classes or highest + 1, dtype=np.float32)
    return np.divide(images, largest, dtype=np.float32), one_hot[ids.reshape(count)]
