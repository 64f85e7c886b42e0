"""Is a classifier one that can be judged, and right as often as it says itself?"""

import keras
import numpy as np
import tensorflow as tf

from pyimagesearch.core import labels, logits, losses
from pyimagesearch.core.gradients import check_outputs

_METRICS_OF_CLASSES = (
    keras.metrics.CategoricalAccuracy,
    keras.metrics.SparseCategoricalAccuracy,
)


def check_answers(model, predict, images) -> None:
    """Raise if a model answers with NaN or infinity, or at random."""
    first = predict(images)
    check_outputs(model, np.isfinite(first).all(axis=1))
    if not np.allclose(first, predict(images), rtol=1e-3, atol=1e-4):
        raise ValueError(
            f"model {model.name!r} answers at random: two passes over the same images "
            "differ; switch off what draws random numbers in inference mode, such as "
            "noise or dropout with training=True"
        )


def check_compiled(model, images, ids, shape, accuracy) -> None:
    """Raise if a model's own compiled accuracy is not the given one.

    The images' class ids and the shape of the model's output tell what it is asked.
    """
    loss = logits.compiled_loss(model)
    if loss is None or not loss.__module__.startswith("keras."):
        return  # a user's own may take other labels
    given = ids
    if not losses.takes_class_ids(loss):
        given = labels.as_rows("labels", ids, len(ids), shape)
    try:
        own = model.evaluate(images, given, verbose=0, return_dict=True)
    except (TypeError, ValueError, tf.errors.OpError):
        return  # its metrics take other labels
    kinds = keras.metrics.BinaryAccuracy if shape == (1,) else _METRICS_OF_CLASSES
    for metrics in model.metrics:
        for metric in getattr(metrics, "metrics", []):
            share = own.get(metric.name, accuracy)
            if isinstance(metric, kinds) and abs(share - accuracy) > 0.01:
                raise ValueError(
                    f"model {model.name!r} has {share:.3f} of the images right by its "
                    f"compiled {metric.name}, but {accuracy:.3f} by its classes: say "
                    "from_logits= or compile it with a metric of another threshold"
                )
