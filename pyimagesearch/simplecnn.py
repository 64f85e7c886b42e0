"""The small convolutional network that both tutorials train."""

import keras
from keras import layers

from pyimagesearch.core.checks import positive_integer


class SimpleCNN:
    """Two strided convolutions and one hidden dense layer."""

    @staticmethod
    def build(width: int, height: int, depth: int, classes: int) -> keras.Sequential:
        """Build the network, uncompiled; 422,538 parameters for MNIST.

        Args:
            width: Image width in pixels.
            height: Image height in pixels.
            depth: Channels of an image.
            classes: Number of classes.

        Returns:
            A model from images `(n, height, width, depth)` to the probabilities of
            the classes `(n, classes)`.

        Raises:
            TypeError, ValueError: If an argument is not a positive integer.
        """
        width = positive_integer("width", width)
        height = positive_integer("height", height)
        depth = positive_integer("depth", depth)
        classes = positive_integer("classes", classes)
        # Channels come last even where keras.json says otherwise.
        last = "channels_last"
        return keras.Sequential(
            [
                keras.Input((height, width, depth)),
                layers.Conv2D(32, 3, strides=2, padding="same", data_format=last),
                layers.Activation("relu"),
                layers.BatchNormalization(axis=-1),
                layers.Conv2D(64, 3, strides=2, padding="same", data_format=last),
                layers.Activation("relu"),
                layers.BatchNormalization(axis=-1),
                layers.Flatten(data_format=last),
                layers.Dense(128),
                layers.Activation("relu"),
                layers.BatchNormalization(),
                layers.Dropout(0.5),
                layers.Dense(classes),
                layers.Activation("softmax"),
            ]
        )
