"""Fool classifiers without a gradient: by a substitute, and by the Square attack.

A target may be anything that answers with classes. An attacker who sees only these
answers trains a substitute on them and attacks that; one who sees scores needs none.
"""

import keras
import numpy as np
from keras import layers
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier

from pyimagesearch.attacks import projected_gradient_descent, square_attack
from pyimagesearch.simplecnn import SimpleCNN

eps = 0.2
clip = (0, 1)
keras.utils.set_random_seed(0)
digits, labels = load_digits(return_X_y=True)
images = digits.reshape(-1, 8, 8, 1) / 16
train = slice(0, 800)
attackers = slice(800, 1500)  # images that the attacker has, without labels
test = slice(1500, 1600)


def flat(images):
    return images.reshape(len(images), -1)


def train_network():
    """Train the target that is a network, and return its scores."""
    network = SimpleCNN.build(8, 8, 1, 10)
    network.compile("adam", "sparse_categorical_crossentropy")
    network.fit(images[train], labels[train], epochs=15, verbose=0)

    def scores(images):
        return network.predict_on_batch(images)

    return scores


def train_classifier(classifier):
    """Train a classifier of scikit-learn, and return its scores."""
    classifier.fit(flat(images[train]), labels[train])
    method = getattr(classifier, "predict_proba", None)
    if method is None:  # as a support vector machine
        method = classifier.decision_function

    def scores(images):
        return method(flat(images))

    return scores


def train_substitute(answers):
    """Train a network on a target's answers to the attacker's images."""
    substitute = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(32, 3, activation="relu"),
            layers.Flatten(),
            layers.Dense(128, activation="relu"),
            layers.Dense(10),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    substitute.compile("adam", loss)
    substitute.fit(images[attackers], answers, batch_size=64, epochs=10, verbose=0)
    return substitute


def accuracy(scores, given):
    return (scores(given).argmax(axis=1) == labels[test]).mean()


targets = {
    "SimpleCNN": train_network(),
    "logistic regression": train_classifier(LogisticRegression(max_iter=1000)),
    "support vector machine": train_classifier(SVC()),
    "decision tree": train_classifier(DecisionTreeClassifier(random_state=0)),
    "nearest neighbours": train_classifier(KNeighborsClassifier(weights="distance")),
}
signs = np.random.default_rng(0).choice([-1, 1], images[test].shape)
noisy = np.clip(images[test] + eps * signs, *clip)

print(f"{'target':<24}{'clean':>8}{'noise':>8}{'transfer':>10}{'Square':>8}")
for name, scores in targets.items():
    clean = accuracy(scores, images[test])
    noise = accuracy(scores, noisy)
    substitute = train_substitute(scores(images[attackers]).argmax(axis=1))
    transferred = projected_gradient_descent(
        substitute, images[test], labels[test], eps, clip=clip, rng=0
    )
    transfer = accuracy(scores, transferred)
    searched = square_attack(
        scores, images[test], labels[test], eps, queries=200, clip=clip, rng=0
    )
    square = accuracy(scores, searched)
    print(f"{name:<24}{clean:8.3f}{noise:8.3f}{transfer:10.3f}{square:8.3f}")
