"""`streamer explain BUNDLE [DATA] --out DIR`: pictures of why a bundle answers as it does.

Importance maps of classes, traversals of latent spaces, spectra along latent directions; each as a PNG, all
on one page. Slow by nature (gradients, many pictures): never part of the stream.
"""

import sys
from pathlib import Path
from typing import Final

import torch
from rich.console import Console

from models.bundle import Bundle, load_bundle
from models.command import set_threads
from models.data_sets.data_set import DataSet
from models.manifest import CLASS_KINDS, Manifest, ModelError
from models.report import figures
from models.report.asked import arguments, load_data
from models.report.case import Case, make_case
from models.report.explained_classes import Drawn, explain_classes
from models.report.explained_latents import explain_coder, explain_mixture
from models.report.output import write, write_bytes
from models.report.page import Chapter, Picture, Section, render
from models.shipped import find_bundle

EVENTS: Final = 12  # surest events a class: a few rows of a page
MOST_EVENTS: Final = 2000  # of the data: enough to choose from and to take means of


def explain(bundle: Bundle, data: DataSet, out: Path, classes: tuple[str, ...], events: int) -> list[Path]:
    """Write the pictures and index.html into `out`; gives the paths. Raises ModelError."""
    if events < 1:
        raise ModelError(f"events: expected at least 1, got {events}; give --events 12")
    case = make_case(bundle, data.take(torch.arange(min(len(data), MOST_EVENTS))))
    drawn = _drawn(case, bundle, classes, events)
    paths = [out / f"{picture.name}.png" for picture in drawn]
    for path, picture in zip(paths, drawn, strict=True):
        write_bytes(path, figures.png_of(picture.figure))
    write(out / "index.html", _page(bundle.manifest, drawn, len(case.data)))
    return [*paths, out / "index.html"]


def _drawn(case: Case, bundle: Bundle, classes: tuple[str, ...], events: int) -> list[Drawn]:
    kind = bundle.manifest.kind
    if kind in CLASS_KINDS:
        return explain_classes(case, bundle.preprocess, classes, events)
    if classes:
        raise ModelError(
            f"class: expected none for a bundle of the kind {kind!r}, got {list(classes)}; leave --class out"
        )
    return explain_mixture(case) if kind == "vae_mixture" else explain_coder(case, bundle.preprocess)


def _page(manifest: Manifest, drawn: list[Drawn], events: int) -> str:
    sections = tuple(
        Section(one.title, (Picture("", one.caption, one.title, f"{one.name}.png"),)) for one in drawn
    )
    lead = f"Made from {events} events with the bundle of hash {manifest.sha256}."
    notes = () if _has_all(manifest, drawn) else (Section("Left out", (_NO_DECODER,)),)
    return render(f"{manifest.name}: explained", lead, [Chapter("Pictures", (*sections, *notes))])


_NO_DECODER: Final = (
    "This bundle holds no decoder, so nothing can be drawn from its latent numbers; train it again to have "
    "one."
)


def _has_all(manifest: Manifest, drawn: list[Drawn]) -> bool:
    return manifest.kind in CLASS_KINDS or len(drawn) > 1


def main(given: list[str] | None = None) -> int:
    """The command; exit status 1 and one line on stderr if bundle or data cannot be used."""
    parser = arguments("streamer explain", "Show why a bundle answers as it does.")
    parser.add_argument("--class", dest="classes", action="append", default=[], help="only this class")
    parser.add_argument("--events", type=int, default=EVENTS, help="pictures a class")
    options = parser.parse_args(given)
    errors = Console(stderr=True, soft_wrap=True)
    try:
        set_threads(options.threads)
        bundle = load_bundle(find_bundle(options.bundle))
        splits = load_data(options, bundle.manifest, errors)
        data = next(iter(splits.values()))
        paths = explain(bundle, data, options.out, tuple(options.classes), options.events)
    except ModelError as error:
        errors.print(str(error), markup=False, highlight=False)
        return 1
    for path in paths:
        Console(soft_wrap=True).print(str(path), markup=False, highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
