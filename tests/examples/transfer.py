"""Fool classifiers without a gradient: by a substitute, and by the Square attack.

The targets may be anything that answers with classes. An attacker who sees only these
trains a substitute on them and attacks that; one who sees scores needs no substitute.
"""

import keras
import numpy as np
from sklearn.datasets import load_digits
from sklearn.ensemble import VotingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier

from pyimagesearch.attacks import projected_gradient_descent, square_attack
from pyimagesearch.robustness.transfer import train_substitute

keras.utils.set_random_seed(0)
images, labels = load_digits(return_X_y=True)
images = images.reshape(-1, 8, 8, 1) / 16
train, attackers, test = slice(0, 800), slice(800, 1400), slice(1400, None)

targets = {
    "logistic regression": LogisticRegression(max_iter=1000),
    "support vector machine": SVC(),
    "decision tree": DecisionTreeClassifier(random_state=0),
    "nearest neighbours": KNeighborsClassifier(),
}
targets["vote of the four"] = VotingClassifier(list(targets.items()))
flatten = FunctionTransformer(lambda images: images.reshape(len(images), -1))
for name, target in targets.items():
    targets[name] = make_pipeline(flatten, target).fit(images[train], labels[train])

eps, clip = 0.2, (0, 1)
signs = np.random.default_rng(0).choice([-1, 1], images[test].shape)
noisy = np.clip(images[test] + eps * signs, *clip)

answers = targets["vote of the four"].predict(images[attackers])
substitute = train_substitute(images[attackers], answers, clip, rng=0)
transferred = projected_gradient_descent(
    substitute, images[test], labels[test], eps, clip=clip, rng=0
)


def accuracy(given):
    return (target.predict(given) == labels[test]).mean()


print(f"{'target':<24}{'clean':>8}{'noise':>8}{'transfer':>10}{'Square':>8}")
for name, target in targets.items():
    shares = [accuracy(given) for given in (images[test], noisy, transferred)]
    score = getattr(target, "predict_proba", None)
    score = score or getattr(target, "decision_function", None)
    if score is not None:  # a vote has no scores
        searched = square_attack(
            score, images[test], labels[test], eps, queries=200, clip=clip, rng=0
        )
        shares.append(accuracy(searched))
    print(f"{name:<24}{shares[0]:8.3f}{shares[1]:8.3f}{shares[2]:10.3f}", end="")
    print(f"{shares[3]:8.3f}" if len(shares) > 3 else "")
