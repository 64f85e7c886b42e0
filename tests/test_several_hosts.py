import json
import os
import re
import runpy
import socket
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from conftest import ROOT
from sklearn.datasets import load_digits

EXAMPLE = ROOT / "tests" / "examples" / "several_hosts.py"

# Runs the example as a program, and keeps its weights.
HOST = """
import runpy, sys
import numpy as np

_, example, path = sys.argv
network = runpy.run_path(example, run_name="__main__")["network"]
np.savez(path, *network.get_weights())
"""


def free_addresses(count):
    """Return addresses of this machine that are free."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    addresses = []
    for listening in sockets:
        addresses.append(f"127.0.0.1:{listening.getsockname()[1]}")
    for listening in sockets:
        listening.close()
    return addresses


def start_host(index, addresses, path):
    task = {"type": "worker", "index": index}
    config = json.dumps({"cluster": {"worker": addresses}, "task": task})
    return subprocess.Popen(
        [sys.executable, "-c", HOST, str(EXAMPLE), str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        env=os.environ | {"TF_CONFIG": config, "CUDA_VISIBLE_DEVICES": "-1"},
    )


def train_alone(example):
    """Return the weights and the last loss of one process with both hosts' batches."""
    network, optimizer = example["build"]()
    batches = [example["draw_batches"](network, host, 2) for host in range(2)]
    variables = network.trainable_variables
    for _ in range(example["STEPS"]):
        drawn = [next(own) for own in batches]  # by the same weights
        images, labels = [np.concatenate(parts) for parts in zip(*drawn, strict=True)]
        with tf.GradientTape() as tape:
            outputs = network(images, training=True)
            of_labels = tf.gather(outputs, labels, batch_dims=1)
            loss = -tf.reduce_mean(tf.math.log(of_labels))
        optimizer.apply(tape.gradient(loss, variables), variables)
    return network.get_weights(), float(loss)


@pytest.mark.slow
def test_two_hosts_train_as_one_process_does_with_the_batches_of_both(tmp_path):
    addresses = free_addresses(2)
    paths = [tmp_path / "first.npz", tmp_path / "second.npz"]
    hosts = [start_host(index, addresses, path) for index, path in enumerate(paths)]
    try:
        printed = [host.communicate(timeout=120)[0] for host in hosts]
    finally:
        for host in hosts:
            host.kill()
    assert [host.returncode for host in hosts] == [0, 0], "\n".join(printed)
    lines = []
    for index, text in enumerate(printed):
        pattern = rf"^host {index}: loss (\S+), checksum of the weights (\w{{8}})$"
        lines += re.findall(pattern, text, flags=re.M)
    assert len(lines) == 2
    assert lines[0] == lines[1]
    weights = [list(np.load(path).values()) for path in paths]
    for first, second in zip(*weights, strict=True):
        np.testing.assert_array_equal(first, second)

    example = runpy.run_path(str(EXAMPLE))
    alone, loss = train_alone(example)
    for together, expected in zip(weights[0], alone, strict=True):
        np.testing.assert_allclose(together, expected, rtol=1e-5, atol=1e-6)
    assert float(lines[0][0]) == pytest.approx(loss, abs=1e-4)


def test_each_host_has_other_images_and_all_are_taken():
    load_share = runpy.run_path(str(EXAMPLE))["load_share"]
    shares = [load_share(host, 3) for host in range(3)]
    images = np.concatenate([images for images, _ in shares]).reshape(-1, 64)
    labels = np.concatenate([labels for _, labels in shares])
    found = np.column_stack([images, labels])
    expected = np.column_stack(load_digits(return_X_y=True))
    assert sorted(map(tuple, found)) == sorted(map(tuple, expected))
