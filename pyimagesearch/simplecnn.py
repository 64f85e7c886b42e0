"""The small convolutional network that both tutorials train."""

import keras
from keras import layers

from pyimagesearch.checks import positive_integer


class SimpleCNN:
    """Two strided convolutions and one hidden dense layer."""

    @staticmethod
    def build(width: int, height: int, depth: int, classes: int) -> keras.Sequential:
        """Build the network, uncompiled.

        Args:
            width: Image width in pixels.
            height: Image height in pixels.
            depth: Channels of an image.
            classes: Number of classes, the width of the softmax output.

        Returns:
            A `Sequential` that maps images `(n, height, width, depth)` to class
            probabilities `(n, classes)`. It has 422,538 parameters for MNIST's
            28x28x1 images and 10 classes.

        Raises:
            TypeError: If an argument is not an integer.
            ValueError: If an argument is not positive.

        Source: "Defending against adversarial image attacks with Keras and
        TensorFlow", PyImageSearch, 2021.
        """
        width = positive_integer("width", width)
        height = positive_integer("height", height)
        depth = positive_integer("depth", depth)
        classes = positive_integer("classes", classes)

        # Channels come last even where keras.json sets another default.
        return keras.Sequential(
            [
                keras.Input((height, width, depth)),
                layers.Conv2D(
                    32, 3, strides=2, padding="same", data_format="channels_last"
                ),
                layers.Activation("relu"),
                layers.BatchNormalization(axis=-1),
                layers.Conv2D(
                    64, 3, strides=2, padding="same", data_format="channels_last"
                ),
                layers.Activation("relu"),
                layers.BatchNormalization(axis=-1),
                layers.Flatten(data_format="channels_last"),
                layers.Dense(128),
                layers.Activation("relu"),
                layers.BatchNormalization(),
                layers.Dropout(0.5),
                layers.Dense(classes),
                layers.Activation("softmax"),
            ]
        )
