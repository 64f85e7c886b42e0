#!/usr/bin/env bash
# Runs the unit tests in fresh environments on the oldest and on the newest releases
# that requirements.txt admits. It takes the Python of each from the PATH.
set -euo pipefail
cd "$(dirname "$0")/.."

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

check() { # NAME PYTHON REQUIREMENT...
    local name=$1 python=$2
    shift 2
    "$python" -m venv "$folder/$name"
    "$folder/$name/bin/pip" install --quiet '.[test]' "$@"
    "$folder/$name/bin/pip" freeze | grep -iE '^(tensorflow|keras|numpy|scikit-learn)=='
    "$folder/$name/bin/python" -m pytest -q -m 'not slow'
}

check oldest python3.10 \
    tensorflow==2.16.1 keras==3.11.3 numpy==1.26.0 scikit-learn==1.4.0
check newest python3.13
