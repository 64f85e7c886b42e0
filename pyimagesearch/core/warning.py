"""Warnings that speak of the user's own line.

Their texts are constant, so that Python's own filter shows each once at that line.
"""

import sys
import warnings
from traceback import walk_stack

_PACKAGE = __name__.partition(".")[0]


def warn(text: str) -> None:
    """Warn at the line that called this package."""
    outermost = 0  # of our own functions
    for depth, (frame, _) in enumerate(walk_stack(sys._getframe()), 1):
        if frame.f_globals.get("__name__", "").startswith(_PACKAGE):
            outermost = depth
    warnings.warn(text, stacklevel=outermost + 1)
