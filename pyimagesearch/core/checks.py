"""Argument checks: each error names the argument, what it takes and what it got."""

import numbers
import operator
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

Seed = int | tuple[int, ...] | np.random.Generator

_FLOAT32_MAX = float(np.finfo(np.float32).max)


def positive_integer(name: str, value: int) -> int:
    """Return `value` as an int, or raise."""
    message = f"{name} must be a positive integer, got {shown(value)}"
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(message) from None
    if isinstance(value, bool) or not 1 <= number < 2**31:
        raise ValueError(message)
    return number


def number_in(
    name: str, value: float, low: float = -_FLOAT32_MAX, high: float = _FLOAT32_MAX
) -> float:
    """Return `value` as a float from `low` to `high`, or raise."""
    if isinstance(value, str) or np.ndim(value):
        raise TypeError(f"{name} must be a number, got {shown(value)}")
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a number, got {shown(value)}") from None
    if not low <= number <= high:  # nor NaN
        raise ValueError(f"{name} must be from {low:g} to {high:g}, got {shown(value)}")
    return number


def one_of(name: str, value: object, choices: tuple) -> None:
    """Raise a ValueError unless `value` is one of some choices."""
    if value not in choices:
        wanted = " or ".join(map(repr, choices))
        raise ValueError(f"{name} must be {wanted}, got {shown(value)}")


def array(name: str, values: npt.ArrayLike) -> np.ndarray:
    """Return `values` as an array of real numbers, or raise.

    What only yields its values one by one, perhaps without end, is not read.
    """
    known = hasattr(values, "__array__") or isinstance(values, Sequence | numbers.Real)
    try:
        if not known:
            raise TypeError
        result = np.asarray(values)
    except (TypeError, ValueError):  # no sequence, or a ragged one
        got = shown(values)
        raise TypeError(f"{name} must be an array of numbers, got {got}") from None
    if result.dtype.kind not in "biuf":
        got = f"an array of {result.dtype}"
        raise TypeError(f"{name} must hold real numbers, got {got}")
    return result


def finite_array(
    name: str, values: npt.ArrayLike, dtype: npt.DTypeLike = None
) -> np.ndarray:
    """Return `values` as an array of real numbers that are finite as `dtype`."""
    result = array(name, values)
    with np.errstate(over="ignore"):
        result = result.astype(dtype or result.dtype, copy=False)
    if not np.isfinite(result).all():
        raise ValueError(f"{name} must hold finite numbers, got NaN or infinity")
    return result


def shape(name: str, sizes: Iterable[int]) -> tuple[int, ...]:
    """Return the shape of one image as a tuple of positive integers, or raise."""
    if not isinstance(sizes, Sequence | np.ndarray) or len(sizes) == 0:
        wanted = "the shape of an image, such as (height, width, channels)"
        raise ValueError(f"{name} must be {wanted}, got {shown(sizes)}")
    return tuple(positive_integer(name, size) for size in sizes)


def value_range(
    name: str, clip: tuple[float, float] | None
) -> tuple[np.float32, np.float32]:
    """Return the bounds of a range as float32, infinite ones for None, or raise."""
    if clip is None:
        return np.float32(-np.inf), np.float32(np.inf)
    if finite_array(name, clip).shape != (2,):
        raise ValueError(f"{name} must be (low, high) or None, got {shown(clip)}")
    low = number_in(f"{name}'s low", clip[0])
    return np.float32(low), np.float32(number_in(f"{name}'s high", clip[1], low))


def attack_arguments(
    name: str, images: np.ndarray, eps: float, clip: tuple[float, float] | None
) -> tuple[np.ndarray, np.float32, tuple[np.float32, np.float32]]:
    """Return what every attack takes as float32: images, eps and bounds; or raise."""
    images = finite_array(name, images, np.float32)
    if images.ndim < 2 or images.size == 0:
        got = f"an array of shape {images.shape}"
        raise ValueError(f"{name} must be (n, height, width, channels), got {got}")
    low, high = value_range("clip", clip)
    if clip is not None:
        slack = 1e-5 * max(abs(low), abs(high))  # rounding
        if images.min() < low - slack or images.max() > high + slack:
            got = f"values from {images.min():g} to {images.max():g}"
            raise ValueError(f"{name} must lie in clip, {low:g} to {high:g}, got {got}")
    return images, np.float32(number_in("eps", eps, low=0)), (low, high)


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
