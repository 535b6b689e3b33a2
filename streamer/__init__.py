"""Streaming classification of X-ray free-electron-laser events. Read `pipeline` first."""

__version__ = "0.1.0"
