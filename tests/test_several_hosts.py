import json
import os
import re
import runpy
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import tensorflow as tf

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "tests" / "examples" / "several_hosts.py"


def free_addresses():
    """Return two addresses of this machine that are free."""
    anywhere = "127.0.0.1", 0
    with socket.create_server(anywhere) as one, socket.create_server(anywhere) as other:
        ports = [listening.getsockname()[1] for listening in (one, other)]
    return [f"127.0.0.1:{port}" for port in ports]


def start_host(index, addresses):
    task = {"type": "worker", "index": index}
    config = json.dumps({"cluster": {"worker": addresses}, "task": task})
    added = {"TF_CONFIG": config, "CUDA_VISIBLE_DEVICES": "-1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, EXAMPLE],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | added,
    )


def train_alone(example):
    """Return the last loss of one process with both hosts' batches."""
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
    return float(loss)


@pytest.mark.slow
def test_two_hosts_train_as_one_process_does_with_the_batches_of_both():
    addresses = free_addresses()
    hosts = []
    try:
        for index in range(2):
            hosts.append(start_host(index, addresses))
        printed = [host.communicate(timeout=120)[0] for host in hosts]
    finally:
        for host in hosts:
            host.kill()
    assert [host.returncode for host in hosts] == [0, 0], "\n".join(printed)
    pattern = r"^host \d: loss (\S+), checksum of the weights ([0-9a-f]{8})$"
    first, second = [re.findall(pattern, text, flags=re.M) for text in printed]
    assert first == second
    ((loss, _),) = first
    alone = train_alone(runpy.run_path(str(EXAMPLE)))
    assert float(loss) == pytest.approx(alone, abs=1e-4)


def test_each_host_has_other_images_and_all_are_taken():
    load_share = runpy.run_path(str(EXAMPLE))["load_share"]
    seen = [image.tobytes() for host in range(3) for image in load_share(host, 3)[0]]
    assert len(seen) == len(set(seen)) == 1797
