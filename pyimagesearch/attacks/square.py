"""The Square attack, a random search that needs no gradient."""

from collections.abc import Callable

import keras
import numpy as np

from pyimagesearch.core import checks
from pyimagesearch.core.compiled import compile_logits
from pyimagesearch.core.gradients import check_outputs
from pyimagesearch.core.labels import as_classes
from pyimagesearch.core.logits import SINGLE_SCORE, are_probabilities

Scores = Callable[[np.ndarray], np.ndarray]

# The queries, of 10,000, after which the squares are half as large.
_HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)
_SMALLEST = np.finfo(float).tiny  # probability that has a logarithm


def square_attack(
    model: keras.Model | Scores,
    images: np.ndarray,
    labels: np.ndarray,
    eps: float | np.ndarray = 2 / 255.0,
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
            `decision_function` of scikit-learn.
        images: Images `(n, height, width, channels)`, series or vectors.
        labels: One-hot rows or class ids.
        eps: As for `generate_image_adversary`.
        queries: How many changes are tried for an image; AutoAttack tries 5,000.
        clip: The valid range `(low, high)` of images and adversaries.
        from_logits: Whether the scores are logits, not probabilities. By default a
            Keras model's last operation tells, or the loss that it was compiled with;
            two or more scores are probabilities if they add up to one.
        rng: Seed or NumPy generator; by default a seed from NumPy's global state.

    Returns:
        The adversaries, float32, in the shape of `images`. Images that are misread
        already stay as they are.

    Raises:
        TypeError, ValueError: As `generate_image_adversary`.

    Source: Andriushchenko et al., "Square attack: a query-efficient black-box
    adversarial attack via random search", 2020.
    """
    images, eps, bounds = checks.attack_arguments("images", images, eps, clip)
    if images.ndim > 4:
        raise ValueError(f"images must have 2 to 4 dimensions, got {images.shape}")
    queries = checks.positive_integer("queries", queries)
    rng = checks.generator(rng)
    if isinstance(model, keras.Model):
        predict, scores_shape = compile_logits(model, images, from_logits)
    else:
        predict, scores_shape = _logits_of_function(model, images, from_logits)
    ids = as_classes("labels", labels, len(images), scores_shape)

    def margins_of(tried, ids):
        """Return by how much the largest wrong logit exceeds the true one."""
        logits = predict(tried).copy()
        check_outputs(model, np.isfinite(logits).all(axis=1))
        rows = np.arange(len(ids))
        true = logits[rows, ids]
        logits[rows, ids] = -np.inf
        return logits.max(axis=1) - true

    adversaries = images.copy()
    margins = margins_of(images, ids)
    left = np.flatnonzero(margins <= 0)  # that are right so far
    if left.size == 0:
        return adversaries
    # Columns at +eps or -eps from top to bottom.
    signs = rng.choice(np.float32([-1, 1]), (left.size, 1, *images.shape[2:]))
    adversaries[left] = np.clip(images[left] + signs * eps[left], *bounds)
    margins[left] = margins_of(adversaries[left], ids[left])
    for height, width in _square_sizes(images.shape, queries):
        tried = adversaries[left]
        _change_squares(tried, images[left], eps[left], bounds, height, width, rng)
        tried_margins = margins_of(tried, ids[left])
        is_better = tried_margins > margins[left]
        adversaries[left[is_better]] = tried[is_better]
        margins[left[is_better]] = tried_margins[is_better]
        left = left[margins[left] <= 0]
        if left.size == 0:
            break
    return adversaries


def _grid_shape(shape):
    """Return number, height, width and depth of images, also of vectors and series."""
    return (*shape, 1, 1)[:4]


def _square_sizes(shape, queries):
    """Return the heights and the widths of the queries' squares, int `(queries, 2)`."""
    _, height, width, _ = _grid_shape(shape)
    halvings = np.searchsorted(_HALVINGS, np.arange(queries) / queries * 10_000)
    areas = 0.8 * height * width / 2**halvings
    sides = np.sqrt(areas)
    heights = np.where(sides > width, areas / width, sides)
    widths = np.where(sides > height, areas / height, sides)
    sizes = np.stack([heights, widths], axis=1).round()
    return sizes.clip(1, (height, width)).astype(int)


def _change_squares(tried, images, eps, bounds, height, width, rng):
    """Set a square of each image to +eps or -eps, a sign for each channel, in place."""
    grid = _grid_shape(images.shape)
    count, grid_height, grid_width, depth = grid
    number = np.arange(count)[:, np.newaxis, np.newaxis]
    first_row = rng.integers(grid_height - height + 1, size=(count, 1, 1))
    first_column = rng.integers(grid_width - width + 1, size=(count, 1, 1))
    rows = first_row + np.arange(height)[:, np.newaxis]
    columns = first_column + np.arange(width)
    signs = rng.choice(np.float32([-1, 1]), (count, 1, 1, depth))
    changes = np.broadcast_to(eps, images.shape).reshape(grid)[number, rows, columns]
    square = images.reshape(grid)[number, rows, columns] + signs * changes
    tried.reshape(grid)[number, rows, columns] = square.clip(*bounds)


def _logits_of_function(scores, images, from_logits):
    """Return a function from images to logits, and the shape of an image's scores."""
    if not callable(scores):
        got = checks.shown(scores)
        raise TypeError(f"model must be a Keras model or a function, got {got}")
    example = checks.array("model's scores", scores(images))
    if example.ndim not in (1, 2) or len(example) != len(images):
        wanted = f"scores ({len(images)}, classes) or ({len(images)},)"
        raise ValueError(f"model must return {wanted}, got shape {example.shape}")
    is_single = example.ndim == 1 or example.shape[1] == 1
    if from_logits is None:
        if is_single:
            raise ValueError(SINGLE_SCORE)
        from_logits = not are_probabilities(example)
    from_logits = checks.truth("from_logits", from_logits)

    def predict(images):
        found = np.asarray(scores(images), float).reshape(len(images), -1)
        if is_single:  # of class 1
            others = np.zeros_like(found) if from_logits else 1 - found
            found = np.concatenate([others, found], axis=1)
        return found if from_logits else np.log(np.maximum(found, _SMALLEST))

    return predict, (1,) if is_single else example.shape[1:]
