"""Gradients that see through a network's first ReLUs.

Robust training turns these into thresholds: most are dead at an image and alive
somewhere near, so that the true gradient is zero where a larger step would matter. The
chord's slope is u / (u - l) if a ReLU's input can move from l < 0 to u > 0, else 0 or
1. The idea is that of Athalye et al., "Obfuscated gradients give a false sense of
security", 2018, with the line of Zhang et al., "Efficient neural network robustness
certification with general activation functions", 2018.

A model is not touched: the operations that its call adds to a graph are looked at.
"""

import tensorflow as tf

_CORNERS = 8


def chord_slopes(network, lowest: tf.Tensor, highest: tf.Tensor) -> list[tf.Tensor]:
    """Return the chord's slope for each value of the first ReLUs.

    What a ReLU's input can be, while an image moves between its lowest and its highest
    values, is taken from the middle and from some random corners with their opposites.
    That is exact enough where the input is an affine function of the image.
    """

    def inputs_at(images):
        network.output(images)  # what comes after the first ReLUs does not run
        return [relu.inputs[0] for relu in _first_relus(images)]

    def widen(i, widths):
        is_high = tf.random.stateless_uniform(lowest.shape[1:], (0, i)) < 0.5
        values = inputs_at(tf.where(is_high, highest, lowest))
        farther = [
            tf.maximum(width, tf.abs(value - middle))
            for width, value, middle in zip(widths, values, middles, strict=True)
        ]
        return i + 1, farther

    middles = inputs_at((lowest + highest) / 2)
    if not middles:
        return []
    nothing = [tf.zeros_like(middle) for middle in middles]
    _, widths = tf.while_loop(lambda i, _: i < _CORNERS, widen, (0, nothing))
    slopes = []
    for middle, width in zip(middles, widths, strict=True):
        rise = tf.nn.relu(middle + width)
        fall = tf.nn.relu(width - middle)
        slopes.append(tf.math.divide_no_nan(rise, rise + fall))
    return slopes


def chord_gradient(network, images, targets, slopes) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the gradient of the losses with these slopes, and the model's output."""
    images = tf.identity(images)  # in the graph that the operations are added to
    output = network.output(images)
    loss = tf.reduce_sum(network.losses(targets, output))
    relus = _first_relus(images)
    inputs = [relu.inputs[0] for relu in relus]
    outputs = [relu.outputs[0] for relu in relus]
    behind = tf.gradients(loss, outputs, unconnected_gradients="zero")
    before = [slope * gradient for slope, gradient in zip(slopes, behind, strict=True)]
    (gradient,) = tf.gradients(
        [loss, *inputs],
        images,
        [tf.ones_like(loss), *before],
        stop_gradients=outputs,
        unconnected_gradients="zero",
    )
    return gradient, output


def _first_relus(images):
    """Return the ReLU operations that images reach without passing another ReLU."""
    reached = {images.ref()}
    past_a_relu = set()
    relus = []
    for operation in images.graph.get_operations():  # in order: inputs come first
        inputs = {tensor.ref() for tensor in operation.inputs}
        outputs = {tensor.ref() for tensor in operation.outputs}
        if not inputs & reached:
            continue
        reached |= outputs
        is_relu = operation.type == "Relu"
        if is_relu and not inputs & past_a_relu:
            relus.append(operation)
        if is_relu or inputs & past_a_relu:
            past_a_relu |= outputs
    return relus
