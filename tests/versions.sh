#!/usr/bin/env bash
# Builds the wheel and the source archive, and tries one in a fresh environment of the
# oldest releases that requirements.txt admits, the other in one of the newest; then
# runs the unit tests there. Both Pythons must be on the PATH.
set -euo pipefail
cd "$(dirname "$0")/.."
project=$PWD

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

try_installed() { # PYTHON
    cd "$folder"
    "$1" -m pyimagesearch.robustness --help >"$folder/help"
    "$1" -m pyimagesearch.training --help >"$folder/help"
    "$1" - <<'END'
from importlib.resources import files

import numpy as np

import pyimagesearch
from pyimagesearch.attacks import projected_gradient_descent, square_attack
from pyimagesearch.datagen import generate_mixed_adversarial_batch
from pyimagesearch.robustness import evaluate_robustness
from pyimagesearch.simplecnn import SimpleCNN
from pyimagesearch.training import robust_attack

assert files(pyimagesearch).joinpath("py.typed").is_file()
assert "site-packages" in pyimagesearch.__file__
model = SimpleCNN.build(8, 8, 1, 3)
images = np.random.rand(20, 8, 8, 1)
labels = np.arange(20) % 3
for attack in (projected_gradient_descent, square_attack, robust_attack(2)):
    batches = generate_mixed_adversarial_batch(
        model, 8, images, labels, (8, 8, 1), attack=attack
    )
    assert next(batches)[0].shape == (8, 8, 8, 1)
rows = evaluate_robustness(model, images, labels, steps=2, queries=2, verbose=False)
assert rows[-1].accuracy <= rows[0].accuracy
END
    cd "$project"
}

check() { # NAME ARCHIVE PYTHON REQUIREMENT...
    local python=$folder/$1/bin/python
    "$3" -m venv "$folder/$1"
    "$python" -m pip install --quiet "$2" "${@:4}"
    try_installed "$python"
    "$python" -m pip install --quiet '.[test]' "${@:4}"
    "$python" --version
    "$python" -m pip freeze | grep -iE '^(tensorflow|keras|numpy|scikit-learn)=='
    "$python" -m pytest -q -m 'not slow'
}

python3 -m venv "$folder/build"
"$folder/build/bin/pip" install --quiet build
"$folder/build/bin/python" -m build --outdir "$folder" . >"$folder/build.txt"
check oldest "$(echo "$folder"/*.whl)" python3.10 \
    tensorflow==2.16.1 keras==3.11.3 numpy==1.26.0 scikit-learn==1.4.0
check newest "$(echo "$folder"/*.tar.gz)" python3.13
