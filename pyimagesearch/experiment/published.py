"""The figures that the tutorials published, beside a run's own."""

# Losses and accuracies, in the order of the console lines.
_FIRST = ((0.0443, 0.9892), (17.2824, 0.0170), (0.0594, 0.9844), (0.0366, 0.9906))
_SECOND = ((0.0477, 0.9891), (14.0658, 0.0188), (0.0315, 0.9906), (0.1190, 0.9641))

# What both ran with.
_SETTINGS = {
    "--data": "mnist",
    "--model": None,
    "--epochs": 20,
    "--fine-tune-epochs": 10,
    "--batch-size": 64,
    "--eps": 0.1,
}


def compare_with_published(settings: dict, figures: dict[str, dict]) -> dict:
    """Print and return a tutorial's figures, beside those of a run with its settings.

    Other settings, data or an earlier network leave nothing to compare.
    """
    if settings.items() >= (_SETTINGS | {"--honest": False}).items():
        published = _FIRST
    elif settings.items() >= (_SETTINGS | {"--split": 0.5}).items():
        published = _SECOND
    else:
        return {}
    print(f"\n[INFO] {'loss and accuracy':<42}{'published':>16}{'this run':>16}")
    compared = {}
    # The run has more figures than the tutorial.
    for what, (loss, accuracy) in zip(figures, published, strict=False):
        compared[what] = {"loss": loss, "accuracy": accuracy}
        theirs = f"{loss:.4f} {accuracy:.4f}"
        ours = "{loss:.4f} {accuracy:.4f}".format(**figures[what])
        print(f"[INFO] {what:<42}{theirs:>16}{ours:>16}")
    return compared
