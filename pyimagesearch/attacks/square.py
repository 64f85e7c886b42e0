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

# Up to which of 10,000 queries the squares keep a size, of which half is left then; and
# the first squares' share of an image.
_HALVINGS, _FIRST_SHARE = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000), 0.8
_ROUND = 100  # queries until images that have fallen are left alone


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
        queries: How many changes are tried for an image; more find more. The published
            figures take 5,000.
        clip: The valid range `(low, high)` of images and adversaries.
        from_logits: Whether the Keras model returns logits; None finds it out.
        rng: Seed or NumPy generator; by default a seed from NumPy's global state.

    Returns:
        The adversaries, float32, in the shape of `images`. What is wrong unaided stays.

    Raises:
        TypeError: If an argument is of a wrong type.
        ValueError: If an argument is out of range or does not fit the model, or if the
            model returns NaN or infinity.

    Source: Andriushchenko et al., "Square attack: a query-efficient black-box
    adversarial attack via random search", 2020.
    """
    images, eps, clip = checks.attack_arguments("images", images, eps, clip)
    if images.ndim > 4:
        raise ValueError(f"images must have 2 to 4 dimensions, got {images.shape}")
    heights, widths = _square_sizes(images, checks.positive_integer("queries", queries))
    rng = checks.generator(rng)
    flat = tf.TensorSpec((None,), tf.int32)
    more = [tf.TensorSpec((None, *images.shape[1:])), tf.TensorSpec(())]
    more += [tf.TensorSpec((2,)), flat, flat, tf.TensorSpec((2,), tf.int32)]
    if isinstance(model, keras.Model):
        loss = OnLogits("margin", from_logits)
        search, targets = compile_for(_search, model, images, labels, loss, *more)
    else:
        search, targets = _search_scores(model, images, labels, more)

    def search_on(rows, start, queries):
        """Return the best of some queries for some images, and their margins."""

        def search_chunk(*arrays):
            seed = rng.integers(2**31, size=2, dtype=np.int32)
            settings = eps, clip, heights[queries], widths[queries], seed
            return search(*arrays, *map(tf.constant, settings))

        best, margins = in_chunks(search_chunk, images[rows], targets[rows], start)
        check_outputs(model, np.isfinite(margins))
        return best, margins

    adversaries, rows = images.copy(), np.arange(len(images))
    _, margins = search_on(rows, images, slice(0))
    rows = rows[margins <= 0]
    # It starts with stripes from top to bottom.
    shape = len(rows), 1, *images.shape[2:]
    stripes = rng.choice(np.float32([-1, 1]), shape)
    adversaries[rows] = np.clip(images[rows] + eps * stripes, *clip)
    for first in range(0, queries, _ROUND):
        if rows.size == 0:
            break
        round_ = slice(first, first + _ROUND)
        adversaries[rows], margins = search_on(rows, adversaries[rows], round_)
        rows = rows[margins <= 0]
    return adversaries


def _grid(images):
    """Return height, width and depth of images, also of flat ones and of series."""
    return (*images.shape[1:], 1, 1)[:3]


def _square_sizes(images, queries):
    """Return the height and the width of each query's square, int32 `(queries,)`."""
    height, width, _ = _grid(images)
    progress = np.arange(queries) / queries * 10_000
    shares = _FIRST_SHARE * 0.5 ** np.searchsorted(_HALVINGS, progress, side="left")
    areas = shares * height * width
    sides = np.maximum(1, np.sqrt(areas).round())
    heights = np.where(sides > width, areas / width, sides).round()
    widths = np.where(sides > height, areas / height, sides).round()
    return (
        np.clip(size, 1, most).astype(np.int32)
        for size, most in ((heights, height), (widths, width))
    )


def _search(network: Network, images, targets, best, eps, clip, heights, widths, seed):
    grid, count = _grid(images), tf.shape(images)[0]
    low, high = (
        tf.clip_by_value(images + eps * side, clip[0], clip[1]) for side in (-1, 1)
    )

    def is_inside(axis, sizes, i):
        """Return where along an axis the squares are."""
        places = tf.cast(grid[axis] - sizes[i] + 1, tf.float32)
        first = (
            tf.random.stateless_uniform((count, 1), seed + tf.stack([3 * i, axis]))
            * places
        )
        first, along = tf.cast(first, tf.int32), tf.range(grid[axis])
        return (along >= first) & (along < first + sizes[i])

    def query(i, best, margins):
        rows, columns = is_inside(0, heights, i), is_inside(1, widths, i)
        inside = rows[:, :, None, None] & columns[:, None, :, None]
        signs = tf.random.stateless_uniform(
            (count, 1, 1, grid[2]), seed + tf.stack([3 * i, 2])
        )
        up = tf.broadcast_to(signs < 0.5, (count, *grid))
        inside, up = (tf.reshape(inside & side, tf.shape(images)) for side in (up, ~up))
        tried = tf.where(inside, high, tf.where(up, low, best))
        tried_margins = network.losses(targets, network.output(tried))
        better = tried_margins > margins
        kept = tf.reshape(better, (-1, *[1] * (len(images.shape) - 1)))
        margins = tf.where(better, tried_margins, margins)
        return i + 1, tf.where(kept, tried, best), margins

    margins = network.losses(targets, network.output(best))
    loop = tf.while_loop(lambda i, *_: i < tf.size(heights), query, (0, best, margins))
    return loop[1:]


def _search_scores(scores, images, labels, more):
    """Return the search for a function that is not TensorFlow's, and the targets."""
    if not callable(scores):
        got = checks.shown(scores)
        raise TypeError(f"model must be a Keras model or a function, got {got}")
    example = checks.finite_array("model's scores", scores(images))
    if example.ndim not in (1, 2) or len(example) != len(images):
        wanted = f"scores ({len(images)}, classes) or ({len(images)},)"
        raise ValueError(f"model must return {wanted}, got shape {example.shape}")
    classes = max(2, *example.shape[1:], 0)
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
        result = tf.numpy_function(logits, [images], tf.float32)
        return tf.ensure_shape(result, (None, classes))

    network = Network(output, OnLogits("margin"), None)
    specs = [more[0], tf.TensorSpec((None, classes)), *more]
    search = tf.function(partial(_search, network), specs, autograph=False)
    return search, one_hot("labels", labels, len(images), (classes,))
