"""Wire formats without I/O: bytes in, trains out, and back."""
