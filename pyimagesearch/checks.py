"""Argument checks: each error names the argument, what it takes and what it got."""

import math
import operator

import numpy as np


def positive_integer(name: str, value: int) -> int:
    """Return `value` as an int, or raise."""
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be a positive integer, got {value!r}") from None
    if isinstance(value, bool) or number < 1:
        raise ValueError(f"{name} must be a positive integer, got {value!r}")
    return number


def number_in(name: str, value: float, low=-math.inf, high=math.inf) -> float:
    """Return `value` as a finite float from `low` to `high`, or raise."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a number, got {value!r}") from None
    if not (math.isfinite(number) and low <= number <= high):
        raise ValueError(f"{name} must be from {low} to {high}, got {value!r}")
    return number


def real_array(name: str, values: np.ndarray) -> np.ndarray:
    """Return `values` as an array of finite real numbers, or raise."""
    array = np.asarray(values)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{name} must hold real numbers, got an array of {array.dtype}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must hold finite numbers, got NaN or infinity")
    return array
