"""Attacks beyond FGSM: the iterated one, and one that needs no gradient."""

from pyimagesearch.attacks.pgd import projected_gradient_descent, shrinking_steps
from pyimagesearch.attacks.square import square_attack

__all__ = ["projected_gradient_descent", "shrinking_steps", "square_attack"]
