"""Warnings that speak of the user's own line, and once of each kind of trouble."""

import contextlib
import contextvars
import sys
import warnings
from collections.abc import Iterator

_warned = contextvars.ContextVar("warned", default=None)


@contextlib.contextmanager
def each_warning_once(warned: set[str]) -> Iterator[None]:
    """Let attacks warn of each kind of trouble only where `warned` lacks it."""
    outer = _warned.get()
    token = _warned.set(warned if outer is None else outer)
    try:
        yield
    finally:
        _warned.reset(token)


def warn(text: str) -> None:
    """Warn at the line that called this package; a text's beginning is its kind."""
    warned, kind = _warned.get(), text[:21]
    if warned is not None:
        if kind in warned:
            return
        warned.add(kind)
    level, called_at, frame = 1, 1, sys._getframe()
    while frame:
        if frame.f_globals["__name__"].startswith("pyimagesearch"):
            called_at = level + 1
        level, frame = level + 1, frame.f_back
    warnings.warn(text, stacklevel=called_at)
