"""The robust recipe: a fine-tuning whose defence holds. Functions, and a command."""

__all__ = ["WatchRobustness", "hold_out", "robust_attack", "robust_optimizer"]


def __getattr__(name):
    """Import the recipe only where it is asked for: the command's --help is quick."""
    if name in __all__:
        from pyimagesearch.training import robust

        return getattr(robust, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
