"""Argument checks: each error names the argument, what it takes and what it got."""

import operator

import numpy as np
import numpy.typing as npt

Seed = int | tuple[int, ...] | np.random.Generator

FLOAT32_MAX = float(np.finfo(np.float32).max)


def positive_integer(name: str, value: int) -> int:
    """Return `value` as an int, or raise."""
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be a positive integer, got {value!r}") from None
    if isinstance(value, bool) or number < 1:
        raise ValueError(f"{name} must be a positive integer, got {value!r}")
    return number


def number_in(
    name: str, value: float, low: float = -FLOAT32_MAX, high: float = FLOAT32_MAX
) -> float:
    """Return `value` as a float from `low` to `high`, or raise."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a number, got {value!r}") from None
    if not low <= number <= high:  # nor NaN
        raise ValueError(
            f"{name} must be from {low:.10g} to {high:.10g}, got {value!r}"
        )
    return number


def real_array(
    name: str, values: npt.ArrayLike, dtype: npt.DTypeLike = None
) -> np.ndarray:
    """Return `values` as an array of real numbers, finite as `dtype`, or raise."""
    array = np.asarray(values)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{name} must hold real numbers, got an array of {array.dtype}")
    with np.errstate(over="ignore"):
        array = array.astype(dtype or array.dtype, copy=False)
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must hold finite numbers, got NaN or infinity")
    return array


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
        raise type(error)(f"rng must be a seed or a Generator, got {rng!r}") from None


def one_line(error: Exception, length: int = 300) -> str:
    """Return what an error says in one line of at most `length` characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= length else f"{text[: length - 3]}..."
