"""Events to train on and to be scored on: simulated, or read from the files of a beamtime."""
