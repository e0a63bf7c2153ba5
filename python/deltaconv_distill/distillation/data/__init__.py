"""Captioned images, encoded, as a stream of batches with noise."""
