"""Ways to run the networks of a stream on a CPU: one module each, and the choice among them."""
