import pickle
import socket
import threading
import time
import tracemalloc
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyimagesearch import datasets

VALID = {
    "x_train": np.arange(6 * 4 * 5, dtype=np.uint8).reshape(6, 4, 5),
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


def test_npz_in_keras_layout(npz):
    (train_images, train_labels), (test_images, test_labels) = datasets.load(npz())
    assert train_images.shape == (6, 4, 5, 1)
    assert train_images.dtype == test_images.dtype == np.float32
    np.testing.assert_allclose(train_images[..., 0] * 255, VALID["x_train"], rtol=1e-6)
    np.testing.assert_array_equal(test_images, 1)
    np.testing.assert_array_equal(train_labels, np.eye(3)[[0, 1, 2, 0, 1, 2]])
    np.testing.assert_array_equal(test_labels, np.eye(3)[[2, 0]])


def test_float_colour_images_and_label_columns(npz):
    images = np.random.default_rng(0).random((6, 4, 5, 3))
    path = npz(
        x_train=images, x_test=images[:2], y_train=VALID["y_train"].reshape(6, 1)
    )
    (train_images, train_labels), _ = datasets.load(path)
    np.testing.assert_array_equal(train_images, images.astype(np.float32))
    assert train_labels.shape == (6, 3)


def test_digits_are_the_size_of_mnist():
    (train_images, train_labels), (test_images, test_labels) = datasets.load("digits")
    assert train_images.shape == (1437, 28, 28, 1)
    assert test_images.shape == (360, 28, 28, 1)
    assert (train_images.min(), train_images.max()) == (0, 1)
    for margin in (slice(2), slice(-2, None)):
        assert (
            not train_images[:, margin].any() and not train_images[:, :, margin].any()
        )
    np.testing.assert_allclose(test_labels.sum(axis=0), 36, atol=1)  # stratified
    np.testing.assert_array_equal(train_labels.sum(axis=1), 1)


def images_of(shape, dtype=np.uint8, value=0):
    return np.full(shape, value, dtype)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"y_test": None}, "y_test"),
        ({"x_train": images_of((6, 4))}, r"x_train .*\(6, 4\)"),
        ({"x_train": images_of((0, 4, 5)), "y_train": images_of(0)}, "x_train"),
        ({"x_train": images_of((6, 4, 5), "U1")}, "x_train .*<U1"),
        ({"x_train": images_of((6, 4, 5), float, 1.5)}, "x_train .*1.5"),
        ({"x_train": images_of((6, 4, 5), float, np.nan)}, "x_train .*nan"),
        ({"x_test": images_of((2, 4, 5), int, -1)}, "x_test .*-1"),
        ({"x_test": images_of((2, 4, 6))}, "x_test .*shape"),
        ({"y_train": images_of(5)}, r"y_train .*\(5,\)"),
        ({"y_train": images_of(6, float)}, "y_train .*float64"),
        ({"y_train": images_of((6, 3))}, r"y_train .*\(6, 3\)"),
        ({"y_train": images_of(6, int, -1)}, "y_train .*-1"),
        ({"y_train": images_of(0, int)}, "y_train"),
        ({"y_train": images_of(6, "U1")}, "y_train .*<U1"),
        ({"y_train": images_of(6, float, np.nan)}, "y_train .*float64"),
        ({"y_train": images_of(6)}, "y_train .*two or more.*1 different ids to 0"),
        (
            {"y_train": images_of(6, int, 10**9)},
            "y_train .*100 .*unused.*to 1000000000",
        ),
        ({"y_test": images_of(2, int, 3)}, "y_test .*0 to 2.*3"),
        ({"y_train": np.array([None] * 6)}, "pickled"),
    ],
)
def test_wrong_arrays_are_named(npz, changed, message):
    path = npz(**changed)
    with pytest.raises(ValueError, match=message) as raised:
        datasets.load(path)
    assert path in str(raised.value)
    assert "\n" not in str(raised.value)


class Bomb:
    def __reduce__(self):
        return pytest.fail, ("the file's code was run",)


def write_text(path):
    path.write_text("x_train")


def write_npy(path):
    with path.open("wb") as file:
        np.save(file, VALID["x_train"])


def write_pickle(path):
    path.write_bytes(pickle.dumps(Bomb()))


def write_pickled_member(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x_train.npy", pickle.dumps(Bomb()))


@pytest.mark.parametrize(
    "write",
    [
        lambda path: None,
        lambda path: path.mkdir(),
        lambda path: path.touch(),
        write_text,
        write_npy,
        write_pickle,
        write_pickled_member,
    ],
)
def test_files_that_are_no_npz(tmp_path, write):
    path = tmp_path / "data.npz"
    write(path)
    with pytest.raises(ValueError, match=r"not an .npz file") as raised:
        datasets.load(str(path))
    assert "\n" not in str(raised.value)


def header(shape, dtype="|u1"):
    return {"descr": dtype, "fortran_order": False, "shape": shape}


@pytest.mark.parametrize("version", ["1_0", "2_0"])
@pytest.mark.parametrize("claimed", [(10**6, 1000, 1000), (6, 4, 4), (-6, 4, 5)])
def test_header_that_claims_another_size_takes_no_memory(tmp_path, claimed, version):
    path = tmp_path / "data.npz"
    np.savez(path, **{k: v for k, v in VALID.items() if k != "x_train"})
    write_header = getattr(np.lib.format, f"write_array_header_{version}")
    with zipfile.ZipFile(path, "a") as archive, archive.open("x_train.npy", "w") as f:
        write_header(f, header(claimed))
        f.write(VALID["x_train"].tobytes())
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"x_train.npy does not hold an array"):
        datasets.load(str(path))
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def test_zip_bomb_is_not_unpacked(tmp_path):
    path = tmp_path / "data.npz"
    np.savez_compressed(path, **VALID | {"x_train": images_of((2**12, 100, 100))})
    tracemalloc.start()
    with pytest.raises(ValueError, match="packed too tightly"):
        datasets.load(str(path))
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_other_layouts_in_memory(tmp_path, save):
    images = np.asfortranarray(VALID["x_train"].astype(">u2"))
    save(tmp_path / "data.npz", **VALID | {"x_train": images})
    (train_images, _), _ = datasets.load(str(tmp_path / "data.npz"))
    np.testing.assert_allclose(train_images[..., 0] * 255, VALID["x_train"], rtol=1e-6)


@pytest.mark.parametrize("data", [None, 3, b"digits", ["digits"], np.zeros(3)])
def test_data_is_a_name_or_a_path(data):
    with pytest.raises(TypeError, match="data must be a name or a path"):
        datasets.load(data)


@settings(deadline=None, max_examples=200)
@given(data=st.data())
def test_damaged_files_are_refused_or_read(data, tmp_path_factory):
    path = tmp_path_factory.mktemp("damaged") / "data.npz"
    np.savez_compressed(path, **VALID)
    content = bytearray(path.read_bytes())
    content = content[: data.draw(st.integers(0, len(content)))]
    if content:
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(
            st.integers(0, 255)
        )
    path.write_bytes(content)
    try:
        (train_images, _), _ = datasets.load(str(path))
    except ValueError as error:
        assert str(path) in str(error)
    else:
        assert train_images.shape == (6, 4, 5, 1)


def test_download_that_stalls_is_given_up(monkeypatch):
    release = threading.Event()
    with pytest.raises(TimeoutError, match=r"0.2 seconds"):
        datasets._unless_stalled(release.wait, seconds=0.2)
    release.set()


def test_slow_download_that_makes_progress_is_waited_for(capsys):
    def download():
        for _ in range(10):
            time.sleep(0.1)
            print("more")
        return "data"

    assert datasets._unless_stalled(download, seconds=0.5) == "data"
    assert capsys.readouterr().out == ""  # no terminal, no bar


def test_interrupted_download_ends_in_its_own_thread(monkeypatch):
    """Where Keras deletes the part of the file that it has."""
    tidied = threading.Event()

    def download():
        try:
            while True:
                time.sleep(0.05)
                print("more")
        finally:
            tidied.set()

    def interrupted(seconds):
        raise KeyboardInterrupt

    clock = SimpleNamespace(monotonic=time.monotonic, sleep=interrupted)
    monkeypatch.setattr(datasets, "time", clock)
    with pytest.raises(KeyboardInterrupt):
        datasets._unless_stalled(download)
    assert tidied.is_set()


def test_download_gets_a_time_limit_of_its_own(monkeypatch):
    import keras

    def load_data():
        assert socket.getdefaulttimeout() == 10
        return (VALID["x_train"], VALID["y_train"]), (VALID["x_test"], VALID["y_test"])

    monkeypatch.setattr(keras.datasets.mnist, "load_data", load_data)
    (images, _), _ = datasets.load("mnist")
    np.testing.assert_allclose(images[..., 0] * 255, VALID["x_train"], rtol=1e-6)
    assert socket.getdefaulttimeout() is None


def test_failed_download_is_a_connection_error(monkeypatch):
    import keras

    def load_data():
        raise Exception("URL fetch failure\non host")  # as Keras does

    monkeypatch.setattr(keras.datasets.fashion_mnist, "load_data", load_data)
    with pytest.raises(ConnectionError, match=r"fashion_mnist is neither .* on host"):
        datasets.load("fashion_mnist")
