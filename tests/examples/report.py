"""Report how robust a Keras classifier is, whatever the range of its images."""

import keras
from sklearn.datasets import load_digits

from pyimagesearch.robustness import evaluate_robustness

keras.utils.set_random_seed(0)
images, labels = load_digits(return_X_y=True)  # values from 0 to 16; class ids
images = images.reshape(-1, 8, 8, 1)
train, test = slice(0, 1400), slice(1400, 1600)

model = keras.Sequential(
    [
        keras.Input((8, 8, 1)),
        keras.layers.Rescaling(1 / 16),
        keras.layers.Flatten(),
        keras.layers.Dense(128, activation="relu"),
        keras.layers.Dense(10),  # logits
    ]
)
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
model.compile(optimizer="adam", loss=loss, metrics=["accuracy"])
model.fit(images[train], labels[train], epochs=20, verbose=0)

rows = evaluate_robustness(
    model, images[test], labels[test], eps=[1.0, 2.0], clip=(0, 16), rng=0
)
for row in rows:
    print(f"{row.eps:<5g}{row.attack:<26}{row.accuracy:.3f}")
