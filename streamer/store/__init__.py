"""Crash-safe European XFEL HDF5 file series: `series` is the interface, `exdf` the format."""
