"""One page: its plots, its letters, its questions, as one Bokeh document.

Owns the document and its rhythm. What is shown is worked out once for all pages by the board; this module
sends what is new of it. Only the stream whose tab is open is sent.
"""

import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from bokeh.core.validation import silence
from bokeh.core.validation.warnings import EMPTY_LAYOUT
from bokeh.document import Document
from bokeh.layouts import column
from jinja2 import Environment

from streamer.dashboard import gallery_view, ledger_view, overview, steering_view, theme
from streamer.dashboard.board import TICK_S, View
from streamer.dashboard.desk import BAD, Desk
from streamer.dashboard.detail import Detail
from streamer.dashboard.histograms import Batches, Latency
from streamer.dashboard.history_plots import Classes, Mix, Rates
from streamer.dashboard.journal_view import journal
from streamer.dashboard.mail import Mail, dumps, read_ask
from streamer.dashboard.plots import Plot
from streamer.dashboard.scatter import Latent
from streamer.dashboard.security import Access
from streamer.dashboard.service import Service
from streamer.dashboard.state import Shot

log = logging.getLogger(__name__)

PLOTS: Final[Mapping[str, Callable[[View], Plot]]] = {
    "rates": Rates,
    "mix": Mix,
    "classes": Classes,
    "latent": Latent,
    "latency": Latency,
    "batches": Batches,
}
GALLERY_S: Final = 2.0  # pictures that change faster cannot be looked at
JOURNAL_S: Final = 2.0
MAX_CLASS_CHARS: Final = 100
LOCKED_TEXT: Final = "Read only. Moving a slider shows what it would keep; unlock with the token to apply it."
silence(EMPTY_LAYOUT)  # the places of plots are empty until their tab is opened
TEMPLATE: Final = Environment(autoescape=True).from_string(
    (Path(__file__).parent / "template.html").read_text()
)

Ask = Mapping[str, Any]
Answer = dict[str, Any]


class LivePage:
    """The document of one page and what its browser may ask."""

    def __init__(self, service: Service, document: Document) -> None:
        self._service, self._document = service, document
        self._streams = tuple(service.board.feed.streams)
        self._stream = self._streams[0]
        self._mail = Mail(name="letters")
        self._detail = Detail()
        self._plots: dict[str, dict[str, Plot]] = {}
        self._places = {
            (stream, cell): column(children=[], name=f"{stream}/{cell}", sizing_mode="stretch_width")
            for stream in self._streams
            for cell in PLOTS
        }
        context = document.session_context
        self._desk = Desk(service.board, service.gate, Access(), _address(context))

    def open(self) -> None:
        """Fill the document; it keeps itself up to date from now on."""
        document = self._document
        document.title = "streamer"
        document.config.notify_connection_status = False  # page.js says it
        document.template = TEMPLATE
        document.template_variables["streams"] = self._streams
        document.theme = theme.THEMES["light"]
        for place in self._places.values():
            document.add_root(place)
        document.add_root(column(self._detail.figure, name="detail", sizing_mode="stretch_width"))
        document.add_root(column(children=[], name="mail", tags=[self._mail]))
        self._mail.on_change("ask", self._asked)
        self._tick()
        document.add_periodic_callback(self._tick, int(TICK_S * 1000))
        document.on_session_destroyed(self._gone)

    def _gone(self, _context: object) -> None:
        self._desk.access.lock()

    # --- what is shown --------------------------------------------------------------------------------

    def _tick(self) -> None:
        try:
            self._document.hold("combine")
            self._send()
        except Exception:  # a fault in one view must not end the page, nor hide
            log.exception("the page could not be brought up to date")
        finally:
            self._document.unhold()

    def _send(self) -> None:
        view = self._service.board.view(self._stream)
        self._update_plots(view)
        self._send_texts(view)

    def _update_plots(self, view: View) -> None:
        for plot in self._plots.get(view.stream, {}).values():
            plot.update(view)

    def _send_texts(self, view: View) -> None:
        stream, texts, now_s = view.stream, self._service.texts, time.time()
        self._mail.run = texts.get("run", "", lambda: self._run(now_s))
        self._mail.ledger = texts.get("ledger", stream, lambda: _ledger(view))
        self._mail.steering = texts.get("steering", stream, lambda: _named(view, steering_view.steering))
        self._mail.journal = texts.get("journal", "", self._journal, JOURNAL_S)
        self._mail.gallery = texts.get(
            "gallery", stream, lambda: _named(view, gallery_view.gallery), GALLERY_S
        )
        self._mail.access = dumps(self._access())
        latent = self._plots.get(stream, {}).get("latent")
        if isinstance(latent, Latent):
            self._mail.tiles = dumps(self._tiles(view, latent, now_s))

    def _run(self, now_s: float) -> dict[str, Any]:
        views = {stream: self._service.board.view(stream) for stream in self._streams}
        return overview.run(views, now_s)

    def _journal(self) -> dict[str, Any]:
        entries, problem = self._service.journal.newest()
        return journal(entries, problem)

    def _access(self) -> dict[str, Any]:
        unlocked = self._desk.access.unlocked
        text = "Unlocked on this page. Every action is journalled." if unlocked else LOCKED_TEXT
        return {"unlocked": unlocked, "text": text}

    def _tiles(self, view: View, latent: Latent, now_s: float) -> dict[str, Any]:
        return {
            "stream": view.stream,
            "tiles": overview.tiles(view, now_s),
            "note": overview.note(view),
            "latent": latent.words(view),
            "colour_by": {"choices": latent.space.choices, "now": latent.by},
        }

    # --- what is asked --------------------------------------------------------------------------------

    def _asked(self, _name: str, _old: object, text: object) -> None:
        asked = read_ask(text)
        if asked is None:
            return
        try:
            self._document.hold("combine")
            answer = self._answer(asked)
        except Exception:
            log.exception("a question of the page failed")
            answer = {"ok": False, "text": BAD}
        finally:
            self._document.unhold()
        if answer is not None:
            self._reply(asked, answer)

    def _reply(self, asked: Ask, answer: Answer) -> None:
        self._mail.answer = dumps({"number": asked["number"], **answer})
        self._mail.access = dumps(self._access())

    def _answer(self, asked: Ask) -> Answer | None:
        """The answer; None when it comes later."""
        match asked["do"]:
            case "show":
                return self._show(str(asked.get("stream")))
            case "theme":
                self._document.theme = theme.THEMES["dark" if asked.get("theme") == "dark" else "light"]
            case "scale":
                self._detail.scale(bool(asked.get("log")))
            case "colour":
                self._colour(str(asked.get("by")))
            case "detail":
                return self._open(asked)
            case "unlock":
                return self._desk.unlock(asked)
            case "lock":
                self._desk.access.lock()
            case "preview":
                return self._desk.preview(asked)
            case "explain":
                return self._explain(asked)
            case _:
                return self._act(asked)
        return {"ok": True, "text": ""}

    def _show(self, stream: str) -> Answer:
        """Open a stream's tab; its plots are made when it is opened first."""
        if stream not in self._streams:
            return {"ok": False, "text": BAD}
        self._stream = stream
        view = self._service.board.view(stream)
        if stream in self._plots:
            self._update_plots(view)
        else:
            # What they are made with leaves with them; updated now too, it would come twice.
            self._plots[stream] = {cell: make(view) for cell, make in PLOTS.items()}
            for cell, plot in self._plots[stream].items():
                self._places[stream, cell].children = [plot.figure]
        self._send_texts(view)
        return {"ok": True, "text": ""}

    def _colour(self, by: str) -> None:
        latent = self._plots.get(self._stream, {}).get("latent")
        if isinstance(latent, Latent):
            latent.colour(self._service.board.view(self._stream), by)

    def _shot(self, asked: Ask) -> Shot | None:
        state = self._service.board.feed.streams.get(str(asked.get("stream")))
        train, pulse = str(asked.get("train")), str(asked.get("pulse"))
        if state is None or not (train + pulse).isdecimal() or len(train + pulse) > 60:
            return None
        return state.gallery.of(int(train), int(pulse))

    def _open(self, asked: Ask) -> Answer:
        shot = self._shot(asked)
        if shot is None:
            return {"ok": False, "text": "This event has left the gallery; choose another."}
        view = self._service.board.view(str(asked["stream"]))
        self._detail.show(shot.picture if shot.full is None else shot.full)
        classes = list(view.labels)
        return {
            "ok": True,
            "text": "" if shot.full is not None else "Shown binned: the whole frame is too large to be kept.",
            "parts": gallery_view.facts(shot, view),
            "classes": [[name, name] for name in classes],
            "class_now": shot.label if shot.label in classes else (classes[0] if classes else ""),
        }

    # --- what takes time ------------------------------------------------------------------------------

    def _act(self, asked: Ask) -> Answer | None:
        call = self._desk.action(asked)
        if isinstance(call, str):
            return {"ok": False, "text": call}
        self._later(asked, call, lambda answer: answer)
        return None

    def _explain(self, asked: Ask) -> Answer | None:
        shot = self._shot(asked)
        if shot is None or shot.full is None:
            return {
                "ok": False,
                "text": "The whole frame is not kept, so no network can look at it.",
            }
        spec = self._service.board.view(str(asked["stream"])).state.spec
        wanted = str(asked.get("class"))[:MAX_CLASS_CHARS]
        full = shot.full
        self._later(asked, lambda: self._service.explainer.explain(spec, full, wanted), self._attended)
        return None

    def _attended(self, answer: Answer) -> Answer:
        heat = answer.pop("map", None)
        if heat is not None:
            self._detail.attend(heat)
        return answer

    def _later(self, asked: Ask, call: Callable[[], Answer], then: Callable[[Answer], Answer]) -> None:
        """Call in another thread; the answer comes back in the page's own."""

        def work() -> None:
            try:
                answer = call()
            except Exception:
                log.exception("an action of the page failed")
                answer = {"ok": False, "text": "It failed; the log of the dashboard says why."}
            self._document.add_next_tick_callback(lambda: self._reply(asked, then(answer)))

        self._service.executor.submit(work)


def _ledger(view: View) -> dict[str, Any]:
    return {"stream": view.stream, "rows": ledger_view.rows(view.counts) if view.counts else []}


def _named(view: View, make: Callable[[View], dict[str, Any]]) -> dict[str, Any]:
    """A letter with the stream that it is about: the browser may have opened another tab meanwhile."""
    return {"stream": view.stream, **make(view)}


def _address(context: Any) -> str:
    request = getattr(context, "request", None)
    return str(getattr(request, "remote_ip", "unknown"))
