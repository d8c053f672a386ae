"""One benchmark file an op."""
