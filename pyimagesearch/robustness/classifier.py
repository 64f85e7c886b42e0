"""Is a classifier right as often as it says itself?"""

import tensorflow as tf

from pyimagesearch.core import losses
from pyimagesearch.core.compiled import example_output

_ACCURACIES = ("accuracy", "acc", "binary_accuracy", "categorical_accuracy")


def check_compiled(model, images, targets, ids, correct) -> None:
    """Raise if a model was compiled for other answers than those that are correct."""
    loss = losses.compiled_loss(model)
    if loss is None:
        return
    is_unknown = targets.shape[1] == 1 and losses.compiled_from_logits(model) is None
    if is_unknown and not losses.are_probabilities(example_output(model, images[:64])):
        raise ValueError(
            f"model {model.name!r} was compiled with another loss than a classifier's: "
            "give from_logits=True if its one output is a logit"
        )
    given = ids if losses.takes_class_ids(loss) else targets
    try:
        own = model.evaluate(images, given, verbose=0, return_dict=True)
    except (TypeError, ValueError, tf.errors.OpError):
        return  # it was compiled for other labels
    accuracy = correct.mean()
    for name in _ACCURACIES:
        if abs(own.get(name, accuracy) - accuracy) > 0.01:
            raise ValueError(
                f"model {model.name!r} has {own[name]:.3f} of the images right by its "
                f"compiled {name}, but {accuracy:.3f} by its classes: say from_logits= "
                "or compile it with a metric of another threshold"
            )
