"""Data by name, from a file and from Keras's cache."""

import socket
import urllib.request
from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import no_warning

from pyimagesearch.experiment import data

VALID = {
    "x_train": np.arange(50, 50 + 6 * 4 * 5, dtype=np.uint8).reshape(6, 4, 5),
    "y_train": np.array([0, 1, 2, 0, 1, 2], np.uint8),
    "x_test": np.full((2, 4, 5), 255, np.uint8),
    "y_test": np.array([2, 0], np.uint8),
}


@pytest.fixture
def npz(tmp_path):
    """Return a function that saves the valid arrays with changes."""

    def save(**changed):
        path = tmp_path / "data.npz"
        arrays = {k: v for k, v in (VALID | changed).items() if v is not None}
        np.savez(path, **arrays)
        return str(path)

    return save


def assert_valid(loaded):
    """Check that it is `VALID`."""
    train_images, train_labels = loaded.train
    test_images, test_labels = loaded.test
    assert train_images.dtype == test_images.dtype == np.float32
    np.testing.assert_allclose(train_images[..., 0] * 255, VALID["x_train"], rtol=1e-6)
    np.testing.assert_array_equal(test_images, np.ones((2, 4, 5, 1)))
    np.testing.assert_array_equal(train_labels, np.eye(3)[[0, 1, 2, 0, 1, 2]])
    np.testing.assert_array_equal(test_labels, np.eye(3)[[2, 0]])
    assert (loaded.epochs, loaded.fine_tune_epochs) == (20, 10)


def test_float_colour_images_and_label_columns(npz):
    images = np.random.default_rng(0).random((6, 4, 5, 3))
    column = np.uint8([[0], [1], [2], [0], [1], [255]])
    path = npz(x_train=images, x_test=images[:2], y_train=column)
    train_images, train_labels = data.load(path).train
    np.testing.assert_array_equal(train_images, images.astype(np.float32))
    np.testing.assert_array_equal(train_labels, np.eye(256)[column[:, 0]])


def test_digits_are_the_size_of_mnist():
    digits = data.load("digits")
    train_images, train_labels = digits.train
    test_images, test_labels = digits.test
    assert train_images.shape == (1437, 28, 28, 1)
    assert test_images.shape == (360, 28, 28, 1)
    assert (train_images.min(), train_images.max()) == (0, 1)
    assert not train_images[:, :2].any()  # the margin
    np.testing.assert_allclose(test_labels.sum(axis=0), 36, atol=1)  # stratified
    np.testing.assert_array_equal(train_labels.sum(axis=1), 1)
    assert (digits.epochs, digits.fine_tune_epochs) == (40, 30)  # they are few


def test_data_in_place_of_mnist_are_named(npz, tmp_path, capsys):
    """A file of MNIST's name and shape is MNIST."""
    mnist = str(Path(npz()).rename(tmp_path / "mnist.npz"))
    loaded = data.load_data(mnist)
    assert_valid(loaded)
    assert loaded.name == mnist
    assert capsys.readouterr().out == f"[INFO] using {mnist} instead of MNIST\n"
    images = np.zeros((60_000, 28, 28), np.uint8)
    train = {"x_train": images, "y_train": np.arange(60_000) % 3}
    np.savez_compressed(mnist, **VALID | train | {"x_test": images[:2]})
    assert data.load_data(mnist).name == "mnist"
    assert capsys.readouterr().out == ""


class Bomb:
    def __reduce__(self):
        return pytest.fail, ("the file's code was run",)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"y_test": None}, "no .npz file .*y_test"),
        ({"x_train": np.array([Bomb()])}, "no .npz file .*pickle"),
        ({"x_train": np.zeros((6, 4))}, r"x_train .*\(6, 4\)"),
        ({"x_train": np.full((6, 4, 5), np.nan)}, "x_train .*nan"),
        ({"x_test": np.zeros((2, 4, 6))}, "x_test .*shape"),
        ({"y_train": np.zeros(6)}, "y_train .*float64"),
        ({"y_train": np.full(6, -1)}, "y_train .*-1"),
        ({"y_train": np.zeros(6, int)}, "y_train .*0, 1 and so on, got 0 to 0"),
        ({"y_test": np.full(2, 3)}, "y_test .*0 to 2, .*got 3"),
    ],
)
def test_wrong_arrays_are_named(npz, changed, message):
    path = npz(**changed)
    with pytest.raises(ValueError, match=message) as raised:
        data.load(path)
    assert path in str(raised.value)
    assert "\n" not in str(raised.value) and "unsafely" not in str(raised.value)


def test_files_that_are_no_npz(npz, tmp_path):
    torn = Path(npz())
    content = bytearray(torn.read_bytes())
    content[len(content) // 2] ^= 255
    torn.write_bytes(content)
    for path in (torn, tmp_path):
        message = f"^{path}: no .npz file of"
        with pytest.raises(ValueError, match=message) as raised:
            data.load(str(path))
        assert "\n" not in str(raised.value)


def test_integers_that_are_all_small_are_warned_of(npz):
    sixteens = np.full((6, 4, 5), 16)
    with pytest.warns(UserWarning, match="x_train .*integers up to 16 only"):
        images, _ = data.load(npz(x_train=sixteens)).train
    np.testing.assert_allclose(images, 16 / 255)
    with no_warning():
        data.load(npz(x_train=0 * sixteens))  # black says nothing


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Keras's folder, empty, and a proxy that refuses every connection."""
    home = tmp_path / "keras"
    (home / "datasets").mkdir(parents=True)
    monkeypatch.setenv("KERAS_HOME", str(home))
    monkeypatch.setattr("keras.src.backend.config._KERAS_DIR", str(home))
    use_proxy(monkeypatch, "http://127.0.0.1:9")
    return home


def use_proxy(monkeypatch, address):
    monkeypatch.setattr(urllib.request, "_opener", None)  # which remembers proxies
    for name in ("http_proxy", "https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, address)


def refusal_of(chosen, capsys):
    """Return the line that a script ends with if it is given some data."""
    with pytest.raises(SystemExit, match="2"):
        data.load_data(chosen)
    (line,) = capsys.readouterr().err.splitlines()
    assert "refused" in line
    return line


def test_data_that_cannot_be_downloaded(home, capsys):
    for _ in range(2):  # also where the first try has left an empty folder
        line = refusal_of("fashion_mnist", capsys)
        assert "error: --data: fashion_mnist is neither cached" in line


@pytest.mark.parametrize("chosen", [None, "mnist"])
def test_damaged_cached_mnist_is_named_and_no_other_data_are_used(chosen, home, capsys):
    path = home / "datasets" / "mnist.npz"
    path.write_bytes(b"PK\3\4 torn")
    assert f": {path} was damaged" in refusal_of(chosen, capsys)


def test_download_that_stalls_is_given_up(home, monkeypatch):
    monkeypatch.setattr(data, "_PATIENCE", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        use_proxy(monkeypatch, f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(ConnectionError, match="timed out"):
            data.load("mnist")
    assert socket.getdefaulttimeout() is None


def test_data_come_from_keras(home, monkeypatch):
    def load_data():
        return (VALID["x_train"], VALID["y_train"]), (VALID["x_test"], VALID["y_test"])

    monkeypatch.setattr(keras.datasets.cifar10, "load_data", load_data)
    assert_valid(data.load("cifar10"))
