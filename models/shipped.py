"""The bundles that come with the package, and how a bundle is named: by one of their names, or a folder."""

from pathlib import Path
from typing import Final

from models.manifest import MANIFEST_FILE, BundleError

SHIPPED: Final = Path(__file__).parent / "bundles"


def shipped_names() -> list[str]:
    """Names of the bundles that came along."""
    return sorted(path.parent.name for path in SHIPPED.glob(f"*/{MANIFEST_FILE}"))


def find_bundle(name: str | Path) -> Path:
    """Folder of a bundle: `name` itself if it is one, else a shipped one. Raises BundleError."""
    for folder in (Path(name), SHIPPED / name):
        if (folder / MANIFEST_FILE).is_file():
            return folder.resolve()
    raise BundleError(
        f"no bundle {str(name)!r}: expected a folder with a {MANIFEST_FILE} or one of {shipped_names()}; "
        "look at the name, or train one with `streamer train`"
    )
