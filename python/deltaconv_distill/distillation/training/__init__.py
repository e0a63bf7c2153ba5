"""The training loop: losses, weights, precision, processes."""
