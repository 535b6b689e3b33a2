"""Where a page's questions are answered: looking, unlocking, steering.

Owns who may do what: every action asks here whether this page is unlocked, whatever the browser shows. What
an action does is the pipeline's (by the control socket); its answer or refusal goes back as text.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from streamer.dashboard.board import Board, View
from streamer.dashboard.preview import Preview, preview
from streamer.dashboard.security import UNLOCKED_S, Access, Gate
from streamer.errors import ConfigError
from streamer.log import printable
from streamer.thresholds import with_constant

Ask = Mapping[str, Any]
Answer = dict[str, Any]

LOCKED: Final = "This page is locked: unlock steering with the token first."
WAIT: Final = "Too fast after a wrong token; wait a second and give it again."
WRONG: Final = "That is not the token. `streamer token` tells it to who started the run."
BAD: Final = "The page asked for something that cannot be; load it again."
NO_ANSWER: Final = "No answer yet; the journal will say whether it was done."
MAX_TEXT: Final = 1000  # of a name or a path
MAX_SLIDERS: Final = 32


@dataclass
class Desk:
    """One page's. `who` is its address, for the log."""

    board: Board
    gate: Gate
    access: Access
    who: str

    def allowed(self, stream: object) -> str:
        """What forbids to steer a stream now; '' if nothing does."""
        if not self.access.unlocked:
            return LOCKED
        return "" if stream in self.board.feed.streams else f"There is no stream {str(stream)[:60]!r}."

    def unlock(self, asked: Ask) -> Answer:
        token = asked.get("token")
        outcome = self.gate.attempt(token if isinstance(token, str) else "", self.who)
        if outcome == "open":
            self.access.unlock()
            return {"ok": True, "text": f"Unlocked for {UNLOCKED_S / 3600:.0f} hours."}
        return {"ok": False, "text": WAIT if outcome == "wait" else WRONG}

    def action(self, asked: Ask) -> Callable[[], Answer] | str:
        """What an unlocked page asks to do, as a call that may take seconds; or why not.

        Checked here, in the thread of the pages, before anything is called.
        """
        if refusal := self.allowed(asked.get("stream")):
            return refusal
        stream = str(asked["stream"])
        if asked["do"] == "swap":
            bundle = _text(asked, "bundle")
            return (lambda: self._swap(stream, bundle)) if bundle else BAD
        change = self._change(stream, asked)
        return change if isinstance(change, str) else lambda: self._steer(stream, change)

    def _change(self, stream: str, asked: Ask) -> dict[str, Any] | str:
        """The change as the control socket takes it, or what is wrong with the question."""
        match asked["do"]:
            case "store" if isinstance(asked.get("store"), bool):
                return {"store": asked["store"]}
            case "enable" if isinstance(asked.get("enabled"), bool) and _text(asked, "route"):
                return {"route": _text(asked, "route"), "enabled": asked["enabled"]}
            case "cluster" if _text(asked, "name"):
                number = asked.get("of")
                whole = isinstance(number, int) and not isinstance(number, bool)
                if not (number is None or (whole and number >= 0)):
                    return "Give the number of the cluster: a whole number, 0 or more."
                return {"cluster": _text(asked, "name"), "number": number}
            case "cluster":
                return "Give the cluster a name."
            case "route":
                return self._rule(self.board.view(stream), asked)
        return BAD

    def _steer(self, stream: str, change: dict[str, Any]) -> Answer:
        try:
            told = self.board.feed.steer(stream, change)
        except (ConfigError, TimeoutError) as error:
            return _not_done(error)
        return {
            "ok": True,
            "text": f"Done: {in_words(change)}; version {told.get('version', '?')} of {stream}.",
        }

    def _swap(self, stream: str, bundle: str) -> Answer:
        try:
            self.board.feed.swap(stream, bundle)
        except (ConfigError, TimeoutError) as error:
            return _not_done(error)
        return {"ok": True, "text": f"Done: {stream} runs {printable(bundle)}."}

    # --- rules ----------------------------------------------------------------------------------------

    def _rule(self, view: View, asked: Ask) -> dict[str, Any] | str:
        """The change that puts the sliders' values into the rule of a route; or what is wrong."""
        route, values = _text(asked, "route"), asked.get("values")
        when = _shown_rules(view).get(route)
        if when is None or not isinstance(values, dict) or len(values) > MAX_SLIDERS:
            return BAD
        try:
            for index, value in values.items():
                if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
                    return BAD
                when = with_constant(when, int(index), float(value))
        except (ConfigError, ValueError, OverflowError) as error:
            return printable(str(error))
        return {"route": route, "when": when}

    def preview(self, asked: Ask) -> Answer:
        """What the changed rule would keep of the newest events. Reads only: a locked page may ask."""
        if asked.get("stream") not in self.board.feed.streams:
            return {"ok": False, "text": BAD}
        view = self.board.view(str(asked["stream"]))
        change = self._rule(view, asked)
        if isinstance(change, str):
            return {"ok": False, "text": change}
        found = preview(view.state, change)
        return {"ok": not found.problem, "text": _preview_words(found, change["route"])}


def _not_done(error: Exception) -> Answer:
    """What is said of a refusal; and of no answer, which is none."""
    refused = not isinstance(error, TimeoutError)
    return {"ok": False, "text": f"Refused: {printable(str(error))}" if refused else NO_ANSWER}


def _preview_words(found: Preview, route: str) -> str:
    if found.problem:
        return printable(found.problem)
    if route not in found.enabled:
        return "This route is off; it would keep nothing."
    now, then = found.now.get(route, 0), found.then.get(route, 0)
    words = f"would keep {then:,} of the newest {found.n:,} events; now {now:,}"
    if found.unclear_then:
        words += f". For {found.unclear_then:,} events a rule has no answer: they would be kept unclassified"
    return words


def _shown_rules(view: View) -> dict[str, str | None]:
    """The rules of the routes as the page shows them; None: every event."""
    return {route["name"]: route["when"] for route in view.steering.get("routes", [])}


def _text(asked: Ask, key: str) -> str:
    """A text of the question without blanks around it; '' for anything else."""
    value = asked.get(key)
    return value.strip() if isinstance(value, str) and len(value) <= MAX_TEXT else ""


def in_words(change: Mapping[str, Any]) -> str:
    """A change as one says it."""
    if "store" in change:
        return f"storing is {'on' if change['store'] else 'off'}"
    if "cluster" in change:
        name, number = change["cluster"], change["number"]
        return f"the name {name} is forgotten" if number is None else f"cluster {number} is named {name}"
    if "enabled" in change:
        return f"route {change['route']} is {'on' if change['enabled'] else 'off'}"
    return f"route {change['route']} keeps {change.get('when')}"
