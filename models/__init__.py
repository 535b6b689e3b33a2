"""Models: simulation, preprocessing, networks, training and bundles. Never imports `streamer`."""
