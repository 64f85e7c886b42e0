"""Argument checks: each error names the argument, what it takes and what it got."""

import operator

import numpy as np
import numpy.typing as npt

Seed = int | tuple[int, ...] | np.random.Generator

FLOAT32_MAX = float(np.finfo(np.float32).max)


def positive_integer(name: str, value: int) -> int:
    """Return `value` as an int, or raise."""
    message = f"{name} must be a positive integer, got {shown(value)}"
    try:
        number = operator.index(value)
    except Exception:  # any kind, where it is up to the value's own code
        raise TypeError(message) from None
    if isinstance(value, bool) or not 1 <= number < 2**31:
        raise ValueError(message)
    return number


def truth(name: str, value: bool) -> bool:
    """Return `value` as a bool, or raise."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be True or False, got {shown(value)}")
    return bool(value)


def number_in(
    name: str, value: float, low: float = -FLOAT32_MAX, high: float = FLOAT32_MAX
) -> float:
    """Return `value` as a float from `low` to `high`, or raise."""
    try:
        if isinstance(value, str | bytes | bool):
            raise TypeError
        number = float(value)
    except OverflowError:
        number = np.inf
    except Exception:  # any kind, where it is up to the value's own code
        raise TypeError(f"{name} must be a number, got {shown(value)}") from None
    if not low <= number <= high:  # nor NaN
        raise ValueError(
            f"{name} must be from {low:.10g} to {high:.10g}, got {shown(value)}"
        )
    return number


def real_array(
    name: str, values: npt.ArrayLike, dtype: npt.DTypeLike = None
) -> np.ndarray:
    """Return `values` as an array of real numbers, finite as `dtype`, or raise."""
    try:
        array = np.asarray(values)
    except Exception:  # any kind, where it is up to the values' own code
        got = shown(values)
        raise TypeError(f"{name} must be an array of numbers, got {got}") from None
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
    except Exception as error:
        kind = ValueError if isinstance(error, ValueError) else TypeError
        raise kind(f"rng must be a seed or a Generator, got {shown(rng)}") from None


def shown(value: object, length: int = 80) -> str:
    """Return what a value looks like, in one line of at most `length` characters."""
    return one_line(repr(value), length)


def one_line(error: Exception | str, length: int = 300) -> str:
    """Return what an error says in one line of at most `length` characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= length else f"{text[: length - 3]}..."
