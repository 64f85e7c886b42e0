"""The Square attack, a random search that needs no gradient."""

from collections.abc import Callable
from functools import partial

import keras
import numpy as np
import tensorflow as tf

from pyimagesearch.core import checks
from pyimagesearch.core.compiled import Network, compile_for, in_chunks, one_hot
from pyimagesearch.core.gradients import check_outputs
from pyimagesearch.core.losses import OnLogits, are_probabilities

Scores = Callable[[np.ndarray], np.ndarray]

# The queries, of 10,000, after which the squares are half as large.
_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
_ROUND = 100  # queries, after which images that are misread by now are left alone


def square_attack(
    model: keras.Model | Scores,
    images: np.ndarray,
    labels: np.ndarray,
    eps: float = 2 / 255.0,
    *,
    queries: int = 1000,
    clip: tuple[float, float] | None = None,
    from_logits: bool | None = None,
    rng: checks.Seed | None = None,
) -> np.ndarray:
    """Attack a classifier by squares of +eps or -eps at random places.

    A square stays if it brings the model nearer to a wrong answer. As it needs no
    gradient, it finds what is left where gradients mislead other attacks.

    Args:
        model: A Keras classifier, or any function from images to scores `(n, classes)`,
            or to those of class 1 alone `(n,)`: such as `predict_proba` or
            `decision_function` of scikit-learn. Scores that are probabilities are
            recognised.
        images: Images `(n, height, width, channels)`, `(n, length, channels)` or `(n,
            length)`, of any real dtype.
        labels: One-hot rows or class ids.
        eps: Largest change of a value, in the units of the images.
        queries: How many changes are tried for an image; more find more. AutoAttack
            tries 5,000.
        clip: The valid range `(low, high)` of images and adversaries.
        from_logits: Whether the Keras model returns logits; None finds it out.
        rng: Seed or NumPy generator; by default a seed from NumPy's global state.

    Returns:
        The adversaries, float32, in the shape of `images`. Images that are misread
        already stay as they are.

    Raises:
        TypeError, ValueError: If an argument is of a wrong type, out of range or does
            not fit the model, or if the model returns NaN or infinity.

    Source: Andriushchenko et al., "Square attack: a query-efficient black-box
    adversarial attack via random search", 2020.
    """
    images, eps, clip = checks.attack_arguments("images", images, eps, clip)
    if images.ndim > 4:
        raise ValueError(f"images must have 2 to 4 dimensions, got {images.shape}")
    heights, widths = _square_sizes(images, checks.positive_integer("queries", queries))
    rng = checks.generator(rng)
    sizes = tf.TensorSpec((None,), tf.int32)
    more = [tf.TensorSpec((None, *images.shape[1:])), tf.TensorSpec(())]
    more += [tf.TensorSpec((2,)), sizes, sizes, tf.TensorSpec((2,), tf.int32)]
    if isinstance(model, keras.Model):
        loss = OnLogits("margin", from_logits)
        search, targets = compile_for(_search, model, images, labels, loss, *more)
    else:
        network, classes = _network(model, images)
        targets = one_hot("labels", labels, len(images), (classes,))
        # Only the squares are compiled; the function runs as ordinary Python.
        specs = [more[0]] * 3 + [tf.TensorSpec((), tf.int32)] * 2 + more[-1:]
        compiled = tf.function(_try_squares, specs, autograph=False)
        search = partial(_search, network, try_squares=compiled)

    def search_on(rows, start, queries):
        """Return images after some queries, and the rows that are right even so."""

        def search_chunk(*arrays):
            seed = rng.integers(2**31, size=2, dtype=np.int32)
            settings = eps, clip, heights[queries], widths[queries], seed
            return search(*arrays, *map(tf.constant, settings))

        best, margins = in_chunks(search_chunk, images[rows], targets[rows], start)
        check_outputs(model, np.isfinite(margins))
        return best, rows[margins <= 0]

    adversaries = images.copy()
    _, rows = search_on(np.arange(len(images)), images, slice(0))
    # It starts with stripes from top to bottom.
    stripes = rng.choice(np.float32([-eps, eps]), (len(rows), 1, *images.shape[2:]))
    adversaries[rows] = np.clip(images[rows] + stripes, *clip)
    for first in range(0, queries, _ROUND):
        if rows.size > 0:
            some = slice(first, first + _ROUND)
            adversaries[rows], rows = search_on(rows, adversaries[rows], some)
    return adversaries


def _grid(images):
    """Return height, width and depth of images, also of flat ones and of series."""
    return (*images.shape[1:], 1, 1)[:3]


def _square_sizes(images, queries):
    """Return the height and the width of each query's square, int32 `(queries,)`."""
    height, width, _ = _grid(images)
    halvings = np.searchsorted(_HALVINGS, np.arange(queries) / queries * 10_000)
    areas = 0.8 * height * width / 2**halvings
    sides = np.sqrt(areas)
    heights = np.where(sides > width, areas / width, sides).round()
    widths = np.where(sides > height, areas / height, sides).round()
    heights, widths = np.clip(heights, 1, height), np.clip(widths, 1, width)
    return heights.astype(np.int32), widths.astype(np.int32)


def _search(network: Network, images, targets, best, *settings, try_squares=None):
    eps, clip, heights, widths, seed = settings
    try_squares = try_squares or _try_squares
    low, high = (tf.clip_by_value(images + e, clip[0], clip[1]) for e in (-eps, eps))
    column = (-1, *[1] * (len(images.shape) - 1))

    def query(i, best, margins):
        own = seed + tf.stack([0, 3 * i])
        tried = try_squares(low, high, best, heights[i], widths[i], own)
        tried_margins = network.losses(targets, network.output(tried))
        better = tried_margins > margins
        margins = tf.where(better, tried_margins, margins)
        return i + 1, tf.where(tf.reshape(better, column), tried, best), margins

    margins = network.losses(targets, network.output(best))
    loop = tf.while_loop(lambda i, *_: i < tf.size(heights), query, (0, best, margins))
    return loop[1:]


def _try_squares(low, high, best, height, width, seed):
    """Set a square of each image to its lowest or highest values."""
    grid, count = _grid(best), tf.shape(best)[0]

    def is_inside(axis, size):
        places = tf.cast(grid[axis] - size + 1, tf.float32)
        first = tf.random.stateless_uniform((count, 1), seed + axis) * places
        first, along = tf.cast(first, tf.int32), tf.range(grid[axis])
        return (along >= first) & (along < first + size)

    rows, columns = is_inside(0, height), is_inside(1, width)
    inside = rows[:, :, None, None] & columns[:, None, :, None]
    up = tf.random.stateless_uniform((count, 1, 1, grid[2]), seed + 2) < 0.5
    rise, fall = (tf.reshape(inside & way, tf.shape(best)) for way in (up, ~up))
    return tf.where(rise, high, tf.where(fall, low, best))


def _network(scores, images):
    """Return a network that calls a function of scores, and how many classes it has."""
    if not callable(scores):
        got = checks.shown(scores)
        raise TypeError(f"model must be a Keras model or a function, got {got}")
    example = checks.array("model's scores", scores(images))
    if example.ndim not in (1, 2) or len(example) != len(images):
        wanted = f"scores ({len(images)}, classes) or ({len(images)},)"
        raise ValueError(f"model must return {wanted}, got shape {example.shape}")
    is_probability = are_probabilities(example.reshape(len(images), -1))

    def logits(images):
        values = np.asarray(scores(images), float).reshape(len(images), -1)
        if values.shape[1] == 1:
            first = 1 - values if is_probability else 0 * values
            values = np.concatenate([first, values], axis=1)
        if is_probability:
            values = np.log(np.maximum(values, np.finfo(float).tiny))
        return values.astype(np.float32)

    def output(images):
        return tf.constant(logits(images.numpy()))

    return Network(output, OnLogits("margin"), None), logits(images[:1]).shape[1]
