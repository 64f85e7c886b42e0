import json
import os
import re
import runpy
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "tests" / "examples" / "several_hosts.py"

# Runs the example as a program, and keeps its weights.
HOST = """
import runpy, sys
import numpy as np

_, example, path = sys.argv
network = runpy.run_path(example, run_name="__main__")["network"]
np.savez(path, *network.get_weights())
"""


def free_addresses():
    """Return two addresses of this machine that are free."""
    anywhere = "127.0.0.1", 0
    with socket.create_server(anywhere) as one, socket.create_server(anywhere) as other:
        ports = [listening.getsockname()[1] for listening in (one, other)]
    return [f"127.0.0.1:{port}" for port in ports]


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
        drawn = [next(own) for own in batches]
        with tf.GradientTape() as tape:
            loss = 0.0
            for images, labels in drawn:
                outputs = network(images, training=True)
                of_labels = tf.gather(outputs, labels, batch_dims=1)
                loss -= tf.reduce_mean(tf.math.log(of_labels)) / 2
        optimizer.apply(tape.gradient(loss, variables), variables)
    return network.get_weights(), float(loss)


@pytest.mark.slow
def test_two_hosts_train_as_one_process_does_with_the_batches_of_both(tmp_path):
    addresses = free_addresses()
    paths = [tmp_path / "first.npz", tmp_path / "second.npz"]
    hosts = []
    try:
        for index, path in enumerate(paths):
            hosts.append(start_host(index, addresses, path))
        printed = [host.communicate(timeout=120)[0] for host in hosts]
    finally:
        for host in hosts:
            host.kill()
    assert [host.returncode for host in hosts] == [0, 0], "\n".join(printed)
    pattern = r"^host \d: loss (\S+), checksum of the weights ([0-9a-f]{8})$"
    first, second = [re.findall(pattern, text, flags=re.M) for text in printed]
    assert len(first) == 1
    assert first == second
    alone, loss = train_alone(runpy.run_path(str(EXAMPLE)))
    assert float(first[0][0]) == pytest.approx(loss, abs=1e-4)
    for path in paths:
        for weights, expected in zip(np.load(path).values(), alone, strict=True):
            np.testing.assert_allclose(weights, expected, rtol=1e-5, atol=1e-6)


def test_each_host_has_other_images_and_all_are_taken():
    load_share = runpy.run_path(str(EXAMPLE))["load_share"]
    seen = [image.tobytes() for host in range(3) for image in load_share(host, 3)[0]]
    assert len(seen) == len(set(seen)) == 1797
