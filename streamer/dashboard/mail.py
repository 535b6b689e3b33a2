"""What travels between a page and its server beside the plots: texts, by one model that both can change.

Owns the model and the reading of what a page asks. Texts to the page are JSON, put on it as text, never as
HTML. A question is a small JSON map; a browser may send anything, so `read_ask` refuses what is no question.
"""

import json
from collections.abc import Mapping
from typing import Any, Final

from bokeh.core.properties import String
from bokeh.model import DataModel

MAX_ASK_CHARS: Final = 4000  # a rule has at most 1000


class Mail(DataModel):
    """One page's letters; to the page all but `ask`."""

    run: Any = String(default="")
    tiles: Any = String(default="")
    ledger: Any = String(default="")
    gallery: Any = String(default="")
    steering: Any = String(default="")
    journal: Any = String(default="")
    access: Any = String(default="")
    answer: Any = String(default="")
    ask: Any = String(default="")


def read_ask(text: object) -> Mapping[str, Any] | None:
    """A question as a map with `do` and `number`; None for anything else."""
    if not isinstance(text, str) or len(text) > MAX_ASK_CHARS:
        return None
    try:
        asked = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(asked, dict) or not isinstance(asked.get("do"), str):
        return None
    return asked if isinstance(asked.get("number"), int) else None


def dumps(content: Any) -> str:
    """JSON; NaN and infinity, which JSON lacks, are refused (ValueError): views turn them into words."""
    return json.dumps(content, allow_nan=False, separators=(",", ":"))
