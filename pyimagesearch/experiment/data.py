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

# Keras's data sets, and what their files' names begin with in its cache.
_FROM_KERAS = {
    "mnist": "mnist.npz",
    "fashion_mnist": "fashion-mnist",
    "cifar10": "cifar-10-batches-py",
}
NAMES = (*_FROM_KERAS, "digits")
_KEYS = ("x_train", "y_train", "x_test", "y_test")
_MNIST_SHAPE = (60_000, 28, 28, 1)
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
    except ConnectionError as error:
        if chosen:
            fail(f"--data: {error}")
        warnings.warn(f"{error}; using scikit-learn's digits instead", stacklevel=2)
        return load("digits")
    except ValueError as error:
        fail(f"--data: {error}")
    if data.name != "mnist":
        print(f"[INFO] using {data.name} instead of MNIST")
    return data


def load_test(chosen: str | None, model, rows: slice) -> tuple[str, Split]:
    """Load test images for a model's report, or end the script with a line.

    Args:
        chosen: As for `load_data`; or an `.npz` file that holds `x_test` and `y_test`
            alone; or a folder with a folder of pictures for each class, which are
            scaled to what the model takes, and come in a random order that never
            changes.
        model: A Keras classifier of known input and output.
        rows: The images that are asked for.

    Returns:
        The name of the data, and images in [0, 1] with one-hot labels.
    """
    classes = max(2, model.output_shape[-1])
    if chosen is None or chosen in NAMES:
        data = load_data(chosen)
        images, labels = data.test
        return data.name, (images[rows], labels[rows])
    try:
        if Path(chosen).is_dir():
            images, labels = _load_folder(chosen, model.input_shape, classes, rows)
        else:
            images, labels = _load_npz(chosen, ("x_test", "y_test"))
            images = _images("x_test", images)
            labels = _class_ids("y_test", labels, len(images))
            images = images[rows]
            labels = labels[rows]
            if len(images) == 0:
                raise ValueError(f"{chosen} must hold image {rows.start}")
        if labels.max() >= classes:
            wanted = f"class ids 0 to {classes - 1}, as the model has"
            raise ValueError(f"{chosen} must hold {wanted}, got {labels.max()}")
    except ValueError as error:
        fail(f"--data: {one_line(error)}")
    return chosen, (images, np.eye(classes, dtype=np.float32)[labels])


def _load_folder(folder, input_shape, classes, rows):
    import keras

    colours = {1: "grayscale", 3: "rgb", 4: "rgba"}
    is_known = len(input_shape) == 4 and None not in input_shape[1:]
    if not is_known or input_shape[-1] not in colours:
        raise ValueError(
            "a folder of pictures needs a model of images of a known size, and of "
            f"1, 3 or 4 channels, got {input_shape}"
        )
    _, height, width, channels = input_shape
    dataset = keras.utils.image_dataset_from_directory(
        folder,
        color_mode=colours[channels],
        image_size=(height, width),
        batch_size=None,
        seed=0,
    )
    found = len(dataset.class_names)
    if found != classes:
        wanted = f"{classes} folders, a class of the model each"
        raise ValueError(f"{folder} must hold {wanted}, got {found}")
    wanted = dataset.skip(rows.start).take(rows.stop - rows.start)
    pairs = list(wanted.as_numpy_iterator())
    if not pairs:
        raise ValueError(f"{folder} must hold image {rows.start}")
    images, labels = zip(*pairs, strict=True)
    return np.stack(images) / np.float32(255), np.array(labels)


def load(name: str) -> Data:
    """Load training and test data.

    Args:
        name: `mnist`, `fashion_mnist` or `cifar10`, which Keras downloads once;
            `digits`, scikit-learn's, enlarged to MNIST's size; or an `.npz` file of
            `x_train`, `y_train`, `x_test` and `y_test`: images `(n, h, w)` or `(n, h,
            w, c)`, integers up to 255 or floats up to 1; class ids `(n,)` or `(n, 1)`.

    Raises:
        ConnectionError: If the data are not at hand and cannot be downloaded.
        ValueError: If a file cannot be read or holds anything else.
    """
    if name == "digits":
        arrays = _load_digits()
    elif name in _FROM_KERAS:
        arrays = _load_from_keras(name)
    else:
        arrays = _load_npz(name)
    x_train, y_train, x_test, y_test = arrays
    try:
        x_train = _images("x_train", x_train)
        x_test = _images("x_test", x_test)
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
        raise ValueError(f"{name}: {error}") from error
    one_hot = np.eye(classes, dtype=np.float32)
    train = (x_train, one_hot[y_train])
    test = (x_test, one_hot[y_test])
    if name == "digits":
        return Data(name, train, test, epochs=40, fine_tune_epochs=30)
    if Path(name).name == "mnist.npz" and x_train.shape == _MNIST_SHAPE:
        return Data("mnist", train, test)  # by its file
    return Data(name, train, test)


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


def _load_npz(path, keys=_KEYS):
    try:
        with np.load(path, allow_pickle=False) as archive:
            return [archive[key] for key in keys]
    except Exception as error:  # zip, zlib and NumPy raise a dozen kinds
        wanted = f"an .npz file of the arrays {', '.join(keys)}, none pickled"
        reason = one_line(str(error).split(". ")[0])  # NumPy's advice is not for users
        raise ValueError(f"{path} is not {wanted}: {reason}") from error


def _load_from_keras(name):
    import keras

    home = Path(os.environ.get("KERAS_HOME") or "~/.keras")
    with contextlib.suppress(RuntimeError):  # a user without a home
        home = home.expanduser()
    found = []
    for folder in (home, Path("/tmp/.keras")):  # the second where a home is read-only
        found += sorted(folder.glob(f"datasets/{_FROM_KERAS[name]}*"))
    # After a download that failed Keras leaves an empty folder.
    cached = [path for path in found if path.is_file() or any(path.iterdir())]
    usual_timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_PATIENCE)
    try:
        train, test = getattr(keras.datasets, name).load_data()
    except Exception as error:  # what Keras raises
        reason = one_line(error)
        if cached:  # Keras has found the file's checksum to be wrong
            wrong = f"{cached[0]} was damaged, and cannot be downloaded again"
            raise ValueError(f"{wrong}: {reason}") from error
        reason = f"{name} is neither cached nor downloadable: {reason}"
        raise ConnectionError(reason) from error
    finally:
        socket.setdefaulttimeout(usual_timeout)
    return *train, *test


def _images(key, images):
    """Return images as float32 `(n, h, w, c)` in [0, 1], or raise."""
    images = images[..., np.newaxis] if images.ndim == 3 else images
    if images.ndim != 4 or images.size == 0 or images.dtype.kind not in "uif":
        got = f"{images.dtype} of shape {images.shape}"
        raise ValueError(f"{key} must be numbers (n, h, w) or (n, h, w, c), got {got}")
    largest = 1 if images.dtype.kind == "f" else 255
    low = images.min()
    high = images.max()
    if not 0 <= low <= high <= largest:  # NaN is refused, too
        got = f"{images.dtype} from {low:g} to {high:g}"
        raise ValueError(f"{key} must be integers to 255 or floats to 1, got {got}")
    if largest == 255 and 0 < high < 128:
        warnings.warn(
            f"{key} has integers up to {high} only, but is divided by 255: scale it to "
            "0 to 255, or to floats from 0 to 1",
            stacklevel=2,
        )
    return np.divide(images, largest, dtype=np.float32)


def _class_ids(key, labels, count):
    """Return labels as integers `(count,)`, or raise."""
    if labels.shape not in ((count,), (count, 1)) or labels.dtype.kind not in "ui":
        got = f"{labels.dtype} of shape {labels.shape}"
        raise ValueError(f"{key} must be {count} integers, class ids, got {got}")
    if labels.min() < 0:
        raise ValueError(f"{key} must hold class ids from 0 on, got {labels.min()}")
    return labels.reshape(count)
