"""Argument checks: each error names the argument, what it got and what it takes."""

import math
import operator

import numpy as np


def positive_integer(name: str, value: int) -> int:
    """Return `value` as an int, or raise unless it is an integer of at least 1."""
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be a positive integer, got {value!r}") from None
    if isinstance(value, bool) or number < 1:
        raise ValueError(f"{name} must be a positive integer, got {value!r}")
    return number


def number_between(
    name: str, value: float, low: float = -math.inf, high: float = math.inf
) -> float:
    """Return `value` as a float, or raise unless it is finite and in [low, high]."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a number, got {value!r}") from None
    if not (math.isfinite(number) and low <= number <= high):
        wanted = f"from {low:g} to {high:g}" if high < math.inf else f"of {low:g} or more"
        if low == -math.inf:
            wanted = "that is finite"
        raise ValueError(f"{name} must be a number {wanted}, got {value!r}")
    return number


def clip_range(clip: tuple[float, float]) -> tuple[float, float]:
    """Return `clip` as two floats, or raise unless it is (low, high), low < high."""
    try:
        low, high = clip
    except (TypeError, ValueError):
        raise ValueError(f"clip must be (low, high) or None, got {clip!r}") from None
    low, high = number_between("clip", low), number_between("clip", high)
    if low >= high:
        raise ValueError(f"clip must have low < high, got {clip!r}")
    return low, high


def numeric_array(name: str, values: np.ndarray) -> np.ndarray:
    """Return `values` as an array, or raise unless it holds finite real numbers."""
    array = np.asarray(values)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{name} must hold real numbers, got an array of {array.dtype}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must hold finite numbers, got NaN or infinity")
    return array
