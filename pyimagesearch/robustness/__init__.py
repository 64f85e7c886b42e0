"""How robust is a classifier? The report as a function, and as a command."""

__all__ = ["Row", "evaluate_robustness"]


def __getattr__(name):
    """Import the report only where it is asked for: the command's --help is quick."""
    if name in __all__:
        from pyimagesearch.robustness import evaluate

        return getattr(evaluate, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
