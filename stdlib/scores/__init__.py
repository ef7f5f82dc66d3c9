"""Biases and other changes of the score. One file each, named after what it makes."""
