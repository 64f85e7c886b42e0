"""SimpleCNN, FGSM and adversarial batch generators for Keras 3 on TensorFlow.

Three files are the tutorials' own: `simplecnn.py` is the network, `fgsm.py` the attack,
`datagen.py` the batch generators. What goes beyond the tutorials is in the folders:
`attacks/`, `training/` and `robustness/` for use elsewhere, `experiment/` for the two
scripts, and `core/`, which the others stand on.

Importing this package loads nothing heavy; its modules load TensorFlow and Keras.
"""

import os
import sys

# For Keras, when it is imported, this variable comes before its own keras.json.
_backend = os.environ["KERAS_BACKEND"] = os.getenv("KERAS_BACKEND") or "tensorflow"
if "keras" in sys.modules:
    _backend = sys.modules["keras"].backend.backend()
if _backend != "tensorflow":
    raise ImportError(
        "pyimagesearch needs Keras on its TensorFlow backend, but the backend is "
        f"{_backend!r}: set KERAS_BACKEND=tensorflow before Keras is imported"
    )
