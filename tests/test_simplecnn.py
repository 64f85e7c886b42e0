import keras
import numpy as np

from pyimagesearch.simplecnn import SimpleCNN


def test_layers_in_the_tutorials_order():
    model = SimpleCNN.build(width=28, height=28, depth=1, classes=10)
    kinds = [type(layer).__name__ for layer in model.layers]
    block = ["Conv2D", "Activation", "BatchNormalization"]
    dense = ["Dense", "Activation", "BatchNormalization", "Dropout"]
    assert kinds == [*block, *block, "Flatten", *dense, "Dense", "Activation"]
    assert model.count_params() == 422_538
    assert model.layers[-3].rate == 0.5
    assert model.layers[-1].activation is keras.activations.softmax
    assert not model.compiled


def test_height_comes_first_and_channels_last_whatever_keras_is_set_to():
    keras.config.set_image_data_format("channels_first")
    try:
        model = SimpleCNN.build(12, 20, 3, 5)
    finally:
        keras.config.set_image_data_format("channels_last")
    assert model(np.zeros((2, 20, 12, 3))).shape == (2, 5)
