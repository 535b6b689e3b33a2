"""Files of a report or of an explanation: written whole, with a word of what to do where that cannot be."""

from pathlib import Path

from models.manifest import ModelError


def write(path: Path, text: str) -> None:
    """Write a text file, making its folder. Raises ModelError when that cannot be."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file, making its folder. Raises ModelError when that cannot be."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    except OSError as error:
        raise ModelError(
            f"output {path}: expected a folder to write to, got: {error.strerror}; name another with --out"
        ) from error
