"""What is asked of a user's model before anything is compiled."""

import keras
import numpy as np
import tensorflow as tf

from pyimagesearch.core import checks


def check_model(model: keras.Model) -> None:
    """Raise unless `model` is a Keras model whose call is what it predicts with."""
    if not isinstance(model, keras.Model):
        kinds = [f"{kind.__module__}.{kind.__name__}" for kind in type(model).__mro__]
        of_tf_keras = [kind for kind in kinds if kind.startswith("tf_keras")]
        got = (of_tf_keras or kinds)[0]
        raise TypeError(f"model must be a Keras 3 model, got {got}")
    if getattr(model, "preprocessor", None) is not None:  # as tasks of KerasHub have
        raise ValueError(
            "model preprocesses images before its call: attack "
            "keras.Model(model.input, model.output) on preprocessed images"
        )


def all_layers(model: keras.Model) -> list[keras.Layer]:
    """Return a model and its layers, with those inside of a user's own layers."""
    return model._flatten_layers()


def example_output(model: keras.Model, images: np.ndarray, count: int) -> np.ndarray:
    """Return the model's one output for some of the images, as float32, or raise."""
    check_model(model)
    takes = getattr(model, "input_shape", None)
    given = images.shape[1:]
    if takes == (None, *images.shape):
        raise ValueError(
            f"images must be (n, ...), got {images.shape}: a single image needs a "
            "batch axis, image[np.newaxis]"
        )
    is_known = isinstance(takes, tuple) and len(takes) == images.ndim
    if is_known and not tf.TensorShape(takes[1:]).is_compatible_with(given):
        shapes = f"{given}, as dims or images are, but takes {takes[1:]}"
        raise ValueError(f"model must take images of shape {shapes}")
    few = tf.constant(images[:count], tf.float32)
    try:
        output = model(few, training=False)
    except Exception as error:  # the user's own code may run in there
        reason = f"model must take images of shape {given}: {error}"
        raise ValueError(checks.one_line(reason)) from error
    outputs = keras.tree.flatten(output)
    if len(outputs) != 1 or outputs[0].shape[:1] != few.shape[:1]:
        shapes = [tuple(output.shape) for output in outputs]
        raise ValueError(f"model must have one output, a row an image, got {shapes}")
    return keras.ops.convert_to_numpy(outputs[0]).astype(np.float32)
