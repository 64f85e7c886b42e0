"""Networks that options name, or that a run made: loading and checking them."""

import keras
import numpy as np

from pyimagesearch.core.checks import one_line, shown
from pyimagesearch.core.logits import are_probabilities
from pyimagesearch.core.models import example_output
from pyimagesearch.experiment.console import fail
from pyimagesearch.experiment.data import Split


def read_model(path: str) -> keras.Model:
    """Load a saved model in Keras's safe mode, or fail."""
    try:
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # Keras, zip and JSON raise a dozen kinds
        *_, reason = str(error).split("Exception encountered: ")  # Keras's root cause
        fail(f"{path} cannot be loaded in safe mode: {one_line(reason)}")
    if not isinstance(model, keras.Model) or len(model.outputs) != 1:
        fail(f"{path} must be a Keras model of one output, got {shown(model)}")
    return model


def load_model(path: str, data: Split) -> keras.Model:
    """Load a saved classifier to train it further, or fail if it does not fit data."""
    model = read_model(path)
    output = check_model_fits(model, path, data)
    if output.shape[1] == 1 or not are_probabilities(output):
        got = shown(output[-1])
        fail(f"{path} must return probabilities, as a softmax does, got {got}")
    return model


def check_model_fits(model: keras.Model, path: str, data: Split) -> np.ndarray:
    """Return a classifier's output for some of the data, or fail if it has another."""
    images, labels = data
    classes = labels.shape[1]
    try:
        output = example_output(model, images, 4)
    except (TypeError, ValueError) as error:
        fail(f"{path}: {one_line(error)}")
    shape = output.shape[1:]
    if shape != (classes,) and (shape, classes) != ((1,), 2):
        fail(f"{path} must have {classes} classes as the data, got {shape}")
    return output
