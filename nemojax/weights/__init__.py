"""Weight files as NumPy arrays, read as data only."""

from nemojax.weights.read import read_weights as read_weights
