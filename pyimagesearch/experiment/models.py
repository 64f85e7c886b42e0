"""Networks that options name, or that a run made: loading and checking them."""

import keras
import numpy as np

from pyimagesearch.core.checks import one_line, shown
from pyimagesearch.core.compiled import example_output
from pyimagesearch.core.logits import are_probabilities
from pyimagesearch.experiment.console import fail
from pyimagesearch.experiment.data import Split


def load_model(path: str, data: Split, to_train: bool = True) -> keras.Model:
    """Load a saved classifier in Keras's safe mode, or fail if it does not fit data.

    To train it further, it must return probabilities, not logits.
    """
    classes = data[1].shape[1]
    try:
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # Keras, zip and JSON raise a dozen kinds
        *_, reason = str(error).split("Exception encountered: ")  # Keras's root cause
        fail(f"{path} cannot be loaded in safe mode: {one_line(reason)}")
    try:
        output = example_output(model, data[0], 64)
    except (TypeError, ValueError) as error:
        fail(f"{path}: {one_line(error)}")
    shape = output.shape[1:]
    if shape != (classes,) and (to_train or (shape, classes) != ((1,), 2)):
        fail(f"{path} must have {classes} classes as the data, got {shape}")
    if to_train and not are_probabilities(output):
        got = shown(output[-1])
        fail(f"{path} must return probabilities, as a softmax does, got {got}")
    return model


def seed_random_layers(model: keras.Model, seed: int) -> None:
    """Give dropout and its kin the random numbers that follow from a seed.

    A saved network does not keep where they were; so a training that starts from one
    ends as a training that went straight on.
    """
    rng = np.random.default_rng(seed)
    weights = {id(weight) for weight in model.weights}
    for variable in model.variables:
        if id(variable) not in weights:  # but the state of a layer's random numbers
            variable.assign(rng.integers(2**31, size=2))
