"""Argument checks: each error names the argument, what it takes and what it got."""

import sys
from collections.abc import Sequence
from numbers import Integral, Real

import numpy as np

Seed = int | tuple[int, ...] | np.random.Generator
_LARGEST = float(np.finfo(np.float32).max)


def positive_integer(name: str, value: int) -> int:
    """Return `value` as an int, or raise."""
    message = f"{name} must be a positive integer, got {shown(value)}"
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise TypeError(message)
    if not 1 <= value < 2**31:
        raise ValueError(message)
    return int(value)


def number_in(
    name: str, value: float, low: float = -_LARGEST, high: float = _LARGEST
) -> float:
    """Return `value` as a float from `low` to `high`, or raise."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = None
    if number is None or isinstance(value, str):
        raise TypeError(f"{name} must be a number, got {shown(value)}")
    if not low <= number <= high:  # nor NaN
        raise ValueError(f"{name} must be from {low:g} to {high:g}, got {shown(value)}")
    return number


def array(name: str, values: np.ndarray, dtype: np.dtype | None = None) -> np.ndarray:
    """Return `values` as an array of finite real numbers, or raise.

    What only yields its values one by one, perhaps without end, is not read.
    """
    result = None
    if hasattr(values, "__array__") or isinstance(values, Sequence | Real):
        try:
            result = np.asarray(values)
        except NotImplementedError:  # of TensorFlow
            raise TypeError(
                f"{name} must be an array, got a tensor inside a compiled function: "
                "draw batches through in_step, or call the attack by tf.numpy_function"
            ) from None
        except (TypeError, ValueError):  # a ragged list
            result = None
    if result is not None and result.dtype.name == "bfloat16":  # which NumPy lacks
        result = result.astype(np.float32)
    if result is None or result.dtype.kind not in "biuf":
        kind = getattr(values, "dtype", None)
        got = f"an array of {kind}" if kind else shown(values)
        raise TypeError(f"{name} must be an array of real numbers, got {got}")
    with np.errstate(all="ignore"):
        result = result.astype(dtype or result.dtype, copy=False)
    if not np.isfinite(result).all():
        raise ValueError(f"{name} must hold finite numbers, got NaN or infinity")
    return result


def attack_arguments(
    name: str, images, eps, clip, norm: float = np.inf
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return what every attack takes as float32 arrays, or raise.

    They are the images, eps as `strength` returns it, and the bounds of valid values.
    """
    images = array(name, images, np.float32)
    if images.ndim < 2 or images.size == 0:
        got = f"an array of shape {images.shape}"
        raise ValueError(f"{name} must be a batch, (n, height, width, ...), got {got}")
    if norm not in (np.inf, 2):
        raise ValueError(f"norm must be inf or 2, got {shown(norm)}")
    if norm == 2 and (isinstance(eps, list) or getattr(eps, "ndim", 0) > 0):
        raise ValueError(f"eps must be a number for norm 2, got {shown(eps)}")
    strengths = strength(eps, images.shape)
    if clip is None:
        return images, strengths, np.float32([-np.inf, np.inf])
    bounds = array("clip", clip, np.float32)
    if bounds.shape != (2,) or bounds[0] > bounds[1]:
        raise ValueError(f"clip must be (low, high) or None, got {shown(clip)}")
    low = images.min()
    high = images.max()
    if max(bounds[0] - low, high - bounds[1]) > 1e-5 * abs(bounds).max():
        wanted = f"lie in clip, {bounds[0]:g} to {bounds[1]:g}"
        raise ValueError(f"{name} must {wanted}, got values from {low:g} to {high:g}")
    if low < bounds[0] or high > bounds[1]:  # by rounding
        images = images.clip(*bounds)
    return images, strengths, bounds


def strength(eps: float | np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return eps as a float32 array that fits images of a shape, or raise.

    It has as many dimensions as the images, and a row an image.
    """
    if not hasattr(eps, "shape") and not isinstance(eps, list):
        eps = number_in("eps", eps, low=0)
    values = array("eps", eps, np.float32)
    if values.size == 0 or values.min() < 0:
        raise ValueError(f"eps must hold numbers from 0, got {shown(eps)}")
    if values.ndim == 0:
        return np.full((shape[0], *[1] * (len(shape) - 1)), values)
    try:
        return np.broadcast_to(values, shape)
    except ValueError:
        got = f"a shape {values.shape} for {shape}"
        raise ValueError(f"eps must broadcast to the images, got {got}") from None


def truth(name: str, value: bool) -> bool:
    """Return `value` as a bool, or raise."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be True or False, got {shown(value)}")
    return bool(value)


def generator(rng: Seed | None) -> np.random.Generator:
    """Return the generator `rng`, or one with that seed, or raise.

    None draws the seed from NumPy's global state, which `keras.utils.set_random_seed`
    sets.
    """
    if rng is None:
        rng = np.random.randint(2**32, size=4, dtype=np.uint32)
    try:
        return np.random.default_rng(rng)
    except (TypeError, ValueError) as error:
        wanted = f"rng must be a seed or a Generator, got {shown(rng)}"
        raise type(error)(wanted) from None


def shown(value: object, length: int = 80) -> str:
    """Return what a value looks like, in one line of at most `length` characters."""
    return one_line(repr(value), length)


def one_line(error: Exception | str, length: int = 200) -> str:
    """Return what an error says in one line of at most `length` characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= length else f"{text[: length - 3]}..."


def is_live() -> bool:
    """Return whether standard output is a terminal or a notebook's."""
    return getattr(sys.stdout, "isatty", bool)() or "ipykernel" in sys.modules
