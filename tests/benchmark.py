"""Time this package against the tutorials' way, ART and bare TensorFlow.

    python tests/benchmark.py [mnist|FILE.npz]
    python tests/benchmark.py --large

Every ratio is a median over rounds in which the rivals take turns, so that a change in
the machine's speed meets all of them. ART is the Adversarial Robustness Toolbox. At the
end stands what memory the second script takes. With `--large` it takes networks of
ImageNet's size instead.
"""

import argparse
import functools
import multiprocessing
import os
import resource
import statistics
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf

from pyimagesearch.attacks import projected_gradient_descent, square_attack
from pyimagesearch.datagen import generate_mixed_adverserial_batch, in_step
from pyimagesearch.experiment.data import load
from pyimagesearch.fgsm import generate_image_adversary
from pyimagesearch.simplecnn import SimpleCNN
from pyimagesearch.training import robust_attack

ROOT = Path(__file__).parent.parent
EPS = 0.1
DIMS = (28, 28, 1)
BATCH = 64
ROUNDS = 5
TRAINING_ROUNDS = 11
STEPS = 150
LARGE = ("ResNet50", "MobileNetV3Small")


def compare(title, unit, rivals, rounds=ROUNDS):
    """Run the rivals in turns; print medians and ratios to the first.

    A rival is a function, and what its seconds are to be multiplied with.
    """
    times = {name: [] for name in rivals}
    for run, _ in rivals.values():
        run()
    for _ in range(rounds):
        for name, (run, factor) in rivals.items():
            started = time.perf_counter()
            run()
            times[name].append((time.perf_counter() - started) * factor)
    print(f"\n{title}", flush=True)
    reference, *_ = times.values()
    for name, values in times.items():
        ratios = [v / r for v, r in zip(values, reference, strict=True)]
        print(
            f"  {name:42}{statistics.median(values):9.2f} {unit}"
            f"{statistics.median(ratios):9.2f} x   "
            f"({min(ratios):.2f} to {max(ratios):.2f})",
            flush=True,
        )


def in_chunks(images, *others):
    """Return arrays as tensors, in the package's own batches."""
    rows = max(1, 512 * 28 * 28 // images[0].size)
    parts = []
    for start in range(0, len(images), rows):
        chunk = slice(start, start + rows)
        parts.append([tf.constant(array[chunk]) for array in (images, *others)])
    return parts


def bare_gradient_sign(model, loss_function):
    """Return what every attack has to compute, compiled, and nothing around it."""

    @tf.function
    def gradient_sign(images, labels):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(images)
            outputs = model(images, training=False)
            loss = tf.reduce_sum(loss_function(labels, outputs))
        return tf.sign(tape.gradient(loss, images))

    return gradient_sign


def bare_gradients(model, loss_function, images, labels, steps=1):
    """Return a function that computes the gradients of an attack's steps."""
    parts = in_chunks(images, labels)
    gradient_sign = bare_gradient_sign(model, loss_function)

    def run():
        for part in parts:
            for _ in range(steps):
                signs = gradient_sign(*part)
            signs.numpy()

    return run


def art_classifier(model, loss, clip=None):
    """Wrap a model for ART, which is imported where no memory is measured."""
    from art.estimators.classification import TensorFlowV2Classifier

    classes = model.output_shape[-1]
    return TensorFlowV2Classifier(
        model, classes, model.input_shape[1:], loss_object=loss, clip_values=clip
    )


def fgsm_rivals(model, images, labels):
    """Return ways to attack all the images with FGSM, MSE and no clipping."""
    run_bare = bare_gradients(model, keras.losses.mean_squared_error, images, labels)

    def run_per_image():
        """Take 100 images as the tutorials do."""
        for image, label in zip(images[:100], labels[:100], strict=True):
            image = tf.constant(image[np.newaxis])
            with tf.GradientTape() as tape:
                tape.watch(image)
                answer = model(image)
                loss = keras.losses.mean_squared_error(label[np.newaxis], answer)
            (image + tf.sign(tape.gradient(loss, image)) * EPS).numpy()

    from art.attacks.evasion import FastGradientMethod

    loss = keras.losses.MeanSquaredError()
    attack = FastGradientMethod(art_classifier(model, loss), eps=EPS)
    run_package = functools.partial(
        generate_image_adversary, model, images, labels, EPS
    )
    return {
        "bare compiled gradient": (run_bare, 1),
        "this package": (run_package, 1),
        "per-image loop (from 100 images)": (run_per_image, len(images) / 100),
        "ART": (functools.partial(attack.generate, images, labels), 1),
    }


def pgd_rivals(model, images, labels):
    """Return ways to take 40 steps of PGD."""
    loss_function = keras.losses.categorical_crossentropy
    run_bare = bare_gradients(model, loss_function, images, labels, steps=40)

    def run_package():
        projected_gradient_descent(
            model, images, labels, EPS, steps=40, step_size=0.01, clip=(0, 1)
        )

    from art.attacks.evasion import ProjectedGradientDescent

    loss = keras.losses.CategoricalCrossentropy()
    attack = ProjectedGradientDescent(
        art_classifier(model, loss, clip=(0.0, 1.0)),
        eps=EPS,
        eps_step=0.01,
        max_iter=40,
        num_random_init=1,
        batch_size=512,
        verbose=False,
    )
    return {
        "bare compiled gradient, 40 times": (run_bare, 1),
        "this package": (run_package, 1),
        "ART": (functools.partial(attack.generate, images, labels), 1),
    }


def square_rivals(model, images, queries):
    """Return Square, on images that all stay as they are answered, and bare passes."""
    answers = model.predict(images, verbose=0).argmax(axis=1)
    parts = in_chunks(images)
    forward = tf.function(functools.partial(model, training=False))

    run_square = functools.partial(
        square_attack, model, images, answers, 1e-6, queries=queries, rng=0
    )

    def run_bare():
        for _ in range(queries):
            for (part,) in parts:
                forward(part).numpy()

    # Two more passes come before the first query.
    return {
        "bare compiled pass": (run_bare, 1000 / queries),
        "a query": (run_square, 1000 / (queries + 2)),
    }


def bare_steps(model):
    """Return functions that make a training step: plain, and on mixed images."""
    half = BATCH // 2
    gradient_sign = bare_gradient_sign(model, keras.losses.mean_squared_error)
    loss_function = keras.losses.CategoricalCrossentropy()
    optimizer = keras.optimizers.Adam(1e-4)
    optimizer.build(model.trainable_variables)

    def train(images, labels):
        with tf.GradientTape() as tape:
            loss = loss_function(labels, model(images, training=True))
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply(gradients, model.trainable_variables)

    def train_mixed(images, labels):
        normal = images[:half]
        adversaries = normal + EPS * gradient_sign(normal, labels[:half])
        train(tf.concat([adversaries, images[half:]], axis=0), labels)

    return tf.function(train), tf.function(train_mixed)


def compare_training(model, images, labels):
    """Compare ways to make a training step, a mixed one, and one of the recipe."""
    batch = (tf.constant(images[:BATCH]), tf.constant(labels[:BATCH]))
    data = (images[: STEPS * BATCH], labels[: STEPS * BATCH])
    plain_batches = tf.data.Dataset.from_tensor_slices(data)
    plain_batches = plain_batches.shuffle(STEPS * BATCH, 0).batch(BATCH)
    make_batches = functools.partial(
        generate_mixed_adverserial_batch, model, BATCH, images, labels, DIMS, rng=0
    )

    def fit(batches):
        settings = {"steps_per_epoch": STEPS, "shuffle": False, "verbose": 0}
        return functools.partial(model.fit, batches, **settings), 1000 / STEPS

    def fit_robust(eps):
        attack = robust_attack(1, rng=0)
        return fit(in_step(make_batches(eps=eps, split=0.0, attack=attack)))

    def repeat(step):
        def run():
            for _ in range(STEPS):
                step(*batch)

        return run, 1000 / STEPS

    train, train_mixed = bare_steps(model)
    fit_mixed = fit(in_step(make_batches(eps=EPS)))
    plain = {
        "bare compiled step": repeat(train),
        "model.fit": fit(plain_batches.repeat()),
    }
    mixed = {
        "fused compiled step": repeat(train_mixed),
        "model.fit, in step": fit_mixed,
    }
    robust = {
        "the tutorial's mixed step": fit_mixed,
        "the recipe's at eps 0.1": fit_robust(0.1),
        "the recipe's at eps 0.3": fit_robust(0.3),
    }
    compare("A plain training step", "ms", plain, TRAINING_ROUNDS)
    compare("A mixed training step", "ms", mixed, TRAINING_ROUNDS)
    compare("A training step of the recipe", "ms", robust, TRAINING_ROUNDS)


def in_a_process(function, *arguments):
    """Return what a function returns in a process of its own, whose memory is new."""
    new = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, new) as pool:
        return pool.submit(function, *arguments).result()


def peak_memory(whose):
    """Return the most memory that a process or its children have taken, in MB."""
    return resource.getrusage(whose).ru_maxrss * 1024 // 10**6


def memory_of_the_second_script(data):
    """Return the memory of a short run."""
    command = [sys.executable, ROOT / "train_mixed_adversarial_defense.py", "--quiet"]
    command += ["--data", data, "--epochs", "2", "--fine-tune-epochs", "1"]
    subprocess.check_call(command, stdout=subprocess.DEVNULL)
    return peak_memory(resource.RUSAGE_CHILDREN)


def large_network(name):
    """Return a network of ImageNet's size, with images and labels."""
    model = getattr(keras.applications, name)(weights=None, input_shape=(224, 224, 3))
    images = np.random.default_rng(0).random((32, 224, 224, 3), dtype=np.float32)
    labels = np.eye(1000, dtype=np.float32)[np.arange(32)]
    return model, images, labels


def memory_of_large(name, is_bare):
    """Return the memory of FGSM, or of the bare gradient, on a large network."""
    model, images, labels = large_network(name)
    if is_bare:
        bare_gradients(model, keras.losses.mean_squared_error, images, labels)()
    else:
        generate_image_adversary(model, images, labels, EPS)
    return peak_memory(resource.RUSAGE_SELF)


def compare_large(name):
    """Compare FGSM's memory and Square's time on a large network with bare passes."""
    bare = in_a_process(memory_of_large, name, True)
    fgsm = in_a_process(memory_of_large, name, False)
    print(f"\nPeak memory, {name}, 32 images of 224x224")
    print(f"  {'bare gradient':42}{bare:9,} MB{1:9.2f} x")
    print(f"  {'FGSM':42}{fgsm:9,} MB{fgsm / bare:9.2f} x", flush=True)
    model, images, _ = large_network(name)
    bias = model.trainable_weights[-1]  # else each change would get a new answer
    bias.assign(np.random.default_rng(0).normal(size=bias.shape))
    rivals = square_rivals(model, images, queries=3)
    compare(f"Square, {name}, 32 images", "ms", rivals, rounds=3)


def compare_on(data):
    """Run the comparisons on MNIST, or on data like it."""
    loaded = load(data)
    images, labels = loaded.test
    keras.utils.set_random_seed(0)
    model = SimpleCNN.build(28, 28, 1, 10)
    adam = keras.optimizers.Adam(1e-4)
    model.compile(adam, "categorical_crossentropy", metrics=["accuracy"])
    model.fit(*loaded.train, batch_size=BATCH, epochs=1, verbose=0)

    rivals = fgsm_rivals(model, images, labels)
    compare(f"FGSM over {len(images):,} images", "s ", rivals)
    images = images[:1000]
    labels = labels[:1000]
    compare("PGD, 1,000 images", "s ", pgd_rivals(model, images, labels))
    compare("Square, 1,000 images", "ms", square_rivals(model, images, 100))
    compare_training(model, *loaded.train)
    memory = in_a_process(memory_of_the_second_script, data)
    print(f"\nThe second script\n  {'peak memory':42}{memory:9,} MB")


def main():
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "data", nargs="?", default="mnist", help="mnist, or an .npz file"
    )
    parser.add_argument(
        "--large", action="store_true", help="take networks of ImageNet's size instead"
    )
    options = parser.parse_args()
    if options.large:
        for name in LARGE:
            compare_large(name)
    else:
        compare_on(options.data)


if __name__ == "__main__":
    main()
