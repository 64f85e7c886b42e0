"""Warnings that speak of the user's own line, and once of each kind of trouble."""

import contextlib
import contextvars
import sys
import warnings
from collections.abc import Iterator
from traceback import walk_stack

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
    stack = [frame.f_globals["__name__"] for frame, _ in walk_stack(sys._getframe())]
    ours = [i for i, name in enumerate(stack) if name.startswith("pyimagesearch")]
    warnings.warn(text, stacklevel=ours[-1] + 2)
