"""The other side of the wire: a simulated detector and recorded data, served as a facility serves them."""
