"""Data and models that options name; what does not fit ends a script with a line."""

import warnings
from argparse import Namespace

import keras

from pyimagesearch.core.checks import one_line, shown
from pyimagesearch.core.compiled import example_output
from pyimagesearch.core.losses import are_probabilities
from pyimagesearch.experiment import data
from pyimagesearch.experiment.console import fail
from pyimagesearch.experiment.options import DIGITS_EPOCHS, EPOCHS
from pyimagesearch.training.robust import watched


def load_data(options: Namespace) -> tuple[data.Split, data.Split]:
    """Load the data of the options, by default MNIST or else digits; set the epochs."""
    name = options.data or "mnist"
    try:
        train, test = data.load(name)
    except (ConnectionError, ValueError) as error:
        if options.data:
            fail(f"--data: {error}")
        warnings.warn(f"{error}; using scikit-learn's digits instead", stacklevel=2)
        name = "digits"
        train, test = data.load(name)
    if options.data in data.NAMES[1:]:
        print(f"[INFO] using {options.data} instead of MNIST")
    options.data = name
    if "epochs" in options:
        epochs, fine_tune_epochs = DIGITS_EPOCHS if name == "digits" else EPOCHS
        options.epochs = options.epochs or epochs
        options.fine_tune_epochs = options.fine_tune_epochs or fine_tune_epochs
        most = len(train[0])
        if "recipe" in options and options.recipe == "robust":
            most -= watched(most)
        if options.batch_size > most:
            wanted = f"at most {most}, the images of the training"
            fail(f"--batch-size must be {wanted}, got {options.batch_size}")
    return train, test


def load_model(path: str, split: data.Split, to_train: bool = True) -> keras.Model:
    """Load a saved classifier in Keras's safe mode, or fail if it does not fit data.

    To train it further, as the scripts do, it must return probabilities, not logits.
    """
    images, classes = split[0][:64], split[1].shape[1]
    try:
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # Keras, zip and JSON raise a dozen kinds
        *_, reason = str(error).split("Exception encountered: ")  # Keras's root cause
        fail(f"{path} cannot be loaded in safe mode: {one_line(reason)}")
    try:
        output = example_output(model, images)
    except (TypeError, ValueError) as error:
        fail(f"{path}: {one_line(error)}")
    shape = output.shape[1:]
    if shape != (classes,) and (to_train or (shape, classes) != ((1,), 2)):
        fail(f"{path} must have {classes} classes as the data, got {shape}")
    if to_train and not are_probabilities(output):
        got = shown(output[-1])
        fail(f"{path} must return probabilities, as a softmax does, got {got}")
    return model


def copy_of(model: keras.Model) -> keras.Model:
    """Return a copy of a model that further training leaves as it is."""
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    return copy
