"""Train one network on several hosts, each on mixed batches of its own images.

Start it once on each host, with TF_CONFIG set to the addresses of all and to the number
of this one; on two hosts, for example, on the first of them with
TF_CONFIG='{"cluster": {"worker": ["10.0.0.1:2222", "10.0.0.2:2222"]},
            "task": {"type": "worker", "index": 0}}'
"""

import json
import os
import zlib

import keras
import tensorflow as tf
from sklearn.datasets import load_digits

from pyimagesearch.datagen import generate_mixed_adversarial_batch

STEPS = 20
BATCH_SIZE = 64  # on each host
EPS = 2.0  # in the units of the images, 0 to 16


def build():
    """Build a network, without batch normalisation, and its optimizer."""
    keras.utils.set_random_seed(0)
    network = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Rescaling(1 / 16),
            keras.layers.Conv2D(16, 3, activation="tanh"),
            keras.layers.Flatten(),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
    optimizer.build(network.trainable_variables)
    return network, optimizer


def load_share(host, hosts):
    """Return the images and labels of one host; only these need to be on it."""
    images, labels = load_digits(return_X_y=True)
    return images[host::hosts].reshape(-1, 8, 8, 1), labels[host::hosts]


def draw_batches(network, host, hosts):
    """Generate a host's mixed batches, by its own seed."""
    images, labels = load_share(host, hosts)
    return generate_mixed_adversarial_batch(
        network, BATCH_SIZE, images, labels, (8, 8, 1), EPS, rng=host
    )


def train():
    """Train on all hosts, and return the network, which is the same on each."""
    strategy = tf.distribute.MultiWorkerMirroredStrategy()  # before all else
    config = json.loads(os.environ["TF_CONFIG"])
    host = config["task"]["index"]
    hosts = len(config["cluster"]["worker"])

    def update(images, labels):
        with tf.GradientTape() as tape:
            outputs = network(images, training=True)
            losses = keras.losses.sparse_categorical_crossentropy(labels, outputs)
            loss = tf.reduce_mean(losses) / strategy.num_replicas_in_sync
        gradients = tape.gradient(loss, network.trainable_variables)
        # Keras's optimizer adds up the gradients of all hosts itself.
        optimizer.apply(gradients, network.trainable_variables)
        return tf.distribute.get_replica_context().all_reduce("sum", loss)

    @tf.function
    def update_everywhere(images, labels):
        return strategy.run(update, (images, labels))

    with strategy.scope():
        network, optimizer = build()
        batches = draw_batches(network, host, hosts)
        for _ in range(STEPS):
            loss = update_everywhere(*next(batches))
    checksum = zlib.crc32(b"".join(array.tobytes() for array in network.get_weights()))
    print(f"host {host}: loss {loss:.4f}, checksum of the weights {checksum:08x}")
    return network


if __name__ == "__main__":
    network = train()
