"""Is it a classifier that these labels fit, and right as often as it says itself?"""

import numpy as np
import tensorflow as tf

from pyimagesearch.core import losses
from pyimagesearch.core.compiled import chunks, example_output, one_hot

_ACCURACIES = ("accuracy", "acc", "binary_accuracy", "categorical_accuracy")


def read_labels(model, images, labels, from_logits) -> tuple[np.ndarray, np.ndarray]:
    """Return class ids `(n,)` and targets in the output's shape, or raise."""
    example = example_output(model, images[next(chunks(images))])
    if example.ndim != 2:
        got = f"an output of shape {example.shape[1:]}"
        raise ValueError(f"model must return a row of classes an image, got {got}")
    targets = one_hot("labels", labels, len(images), example.shape[1:])
    single = example.shape[1] == 1
    is_one_class = single or (targets.sum(axis=1) == 1).all()
    if not is_one_class or not np.isin(targets, (0, 1)).all():
        wanted = "0 or 1 for a model of one output" if single else "one class an image"
        got = f"values from {targets.min():g} to {targets.max():g}"
        raise ValueError(
            f"labels must be {wanted}, got {got}: only classifiers are evaluated, not "
            "regression, nor several labels an image"
        )
    is_other = losses.compiled_loss(model) and not losses.are_probabilities(example)
    is_unknown = from_logits is None and losses.compiled_from_logits(model) is None
    if single and is_other and is_unknown:
        raise ValueError(
            f"model {model.name!r} was compiled with another loss than a classifier's: "
            "give from_logits=True if its one output is a logit"
        )
    return targets[:, 0].astype(int) if single else targets.argmax(axis=1), targets


def check_accuracy(model, images, ids, targets, logits) -> None:
    """Raise if a compiled model's own accuracy is not that of these logits."""
    loss = losses.compiled_loss(model)
    if loss is None:
        return
    given = ids if losses.takes_class_ids(loss) else targets
    try:
        own = model.evaluate(images, given, verbose=0, return_dict=True)
    except (TypeError, ValueError, tf.errors.OpError):
        return  # it was compiled for other labels
    accuracy = (logits.argmax(axis=1) == ids).mean()
    for name in _ACCURACIES:
        if abs(own.get(name, accuracy) - accuracy) > 0.01:
            raise ValueError(
                f"model {model.name!r} has {own[name]:.3f} of the images right by its "
                f"compiled {name}, but {accuracy:.3f} by its classes: say from_logits= "
                "or compile it with a metric of another threshold"
            )
