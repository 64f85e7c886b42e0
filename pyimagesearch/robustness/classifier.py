"""Is it a classifier with these labels, and do its gradients mislead the attacks?"""

import keras
import numpy as np
import tensorflow as tf

from pyimagesearch.core.compiled import chunks, example_output, one_hot
from pyimagesearch.core.losses import (
    are_probabilities,
    compiled_from_logits,
    compiled_loss,
    takes_class_ids,
)
from pyimagesearch.robustness.suite import TRANSFER

_ACCURACIES = ("accuracy", "acc", "binary_accuracy", "categorical_accuracy")


def class_ids(
    model: keras.Model, images: np.ndarray, labels: np.ndarray, from_logits: bool | None
) -> np.ndarray:
    """Return the class id of each image `(n,)`, or raise if labels are something else.

    Arguments as for `evaluate_robustness`.
    """
    example = example_output(model, images[next(chunks(images))])
    if example.ndim != 2:
        got = f"an output of shape {example.shape[1:]}"
        raise ValueError(f"model must return a row of classes an image, got {got}")
    targets = one_hot("labels", labels, len(images), example.shape[1:])
    single = example.shape[1] == 1
    if not np.isin(targets, (0, 1)).all() or not (
        single or (targets.sum(axis=1) == 1).all()
    ):
        wanted = "0 or 1 for a model of one output" if single else "one class an image"
        got = f"values from {targets.min():g} to {targets.max():g}"
        raise ValueError(
            f"labels must be {wanted}, got {got}: only classifiers are evaluated, not "
            "regression, nor several labels an image"
        )
    loss = compiled_loss(model)
    is_unknown = from_logits is None and compiled_from_logits(model) is None
    if single and loss is not None and is_unknown and not are_probabilities(example):
        raise ValueError(
            f"model {model.name!r} was compiled with another loss than a classifier's: "
            "give from_logits=True if its one output is a logit"
        )
    return targets[:, 0].astype(int) if single else targets.argmax(axis=1)


def check_accuracy(
    model: keras.Model, images: np.ndarray, labels: np.ndarray, logits: np.ndarray
) -> None:
    """Raise if a compiled model's own accuracy is not that of these logits."""
    loss, given = compiled_loss(model), labels
    if loss is None:
        return
    if not takes_class_ids(loss) and example_output(model, images[:1]).shape[1] > 1:
        given = np.eye(logits.shape[1])[labels]
    try:
        own = model.evaluate(images, given, verbose=0, return_dict=True)
    except (TypeError, ValueError, tf.errors.OpError):
        return  # it was compiled for other labels
    accuracy = (logits.argmax(axis=1) == labels).mean()
    for name in _ACCURACIES:
        if abs(own.get(name, accuracy) - accuracy) > 0.01:
            raise ValueError(
                f"model {model.name!r} has {own[name]:.3f} of the images right by its "
                f"compiled {name}, but {accuracy:.3f} by its classes: say from_logits= "
                "or compile it with a metric of another threshold"
            )


def find_doubts(
    shares: dict[str, float], square: float, longer: float, at_largest: float
) -> list[str]:
    """Return what speaks for gradients that mislead the attacks.

    Args:
        shares: Accuracy under each attack, by its name in the report.
        square: By how much the Square attack lowers the worst case.
        longer: By how much more steps and restarts do.
        at_largest: Accuracy with an eps that can turn every image into plain grey.

    Source: Athalye et al., "Obfuscated gradients give a false sense of security", 2018.
    """
    pgd = min(share for name, share in shares.items() if name.startswith("PGD"))
    transfer = shares.get(TRANSFER, 1)
    found = [
        (pgd > shares["FGSM"] + 0.01, "PGD is weaker than FGSM"),
        (pgd > transfer + 0.01, "the black-box attack is stronger than PGD"),
        (
            square > 0.01,
            f"the Square attack, without a gradient, leaves {square:.1%} less",
        ),
        (longer > 0.01, f"more steps and restarts leave {longer:.1%} less"),
        (at_largest > 0.05, f"{at_largest:.1%} withstand even half of the range"),
    ]
    doubts = [doubt for holds, doubt in found if holds]
    return [f"{doubt}; the true robustness may be far lower" for doubt in doubts]
