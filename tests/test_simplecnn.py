import keras
import numpy as np
import pytest
from conftest import no_warning

from pyimagesearch.simplecnn import SimpleCNN


@pytest.mark.parametrize(
    ("width", "height", "depth", "parameters"),
    [(28, 28, 1, 422_538), (32, 32, 3, 545_994), (8, 8, 1, 53_898)],
)
def test_parameter_counts_of_the_tutorial(width, height, depth, parameters):
    model = SimpleCNN.build(width, height, depth, 10)
    assert model.count_params() == parameters


def test_layers_in_the_tutorials_order():
    with no_warning():
        model = SimpleCNN.build(width=28, height=28, depth=1, classes=10)
    kinds = [type(layer).__name__ for layer in model.layers]
    block = ["Conv2D", "Activation", "BatchNormalization"]
    dense = ["Dense", "Activation", "BatchNormalization", "Dropout"]
    assert kinds == [*block, *block, "Flatten", *dense, "Dense", "Activation"]
    assert sum(np.prod(w.shape) for w in model.trainable_weights) == 422_090
    assert model.layers[-3].rate == 0.5
    assert model.layers[-1].activation is keras.activations.softmax
    assert not model.compiled


@pytest.mark.parametrize("data_format", ["channels_last", "channels_first"])
def test_height_comes_first_and_channels_last_whatever_keras_is_set_to(data_format):
    usual = keras.config.image_data_format()
    keras.config.set_image_data_format(data_format)
    try:
        model = SimpleCNN.build(12, 20, 3, 5)
    finally:
        keras.config.set_image_data_format(usual)
    assert model.input_shape == (None, 20, 12, 3)
    assert model(np.zeros((2, 20, 12, 3))).shape == (2, 5)
