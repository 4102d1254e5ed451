"""The command line of `search.py`: index, find, serve."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import jax
from tqdm import tqdm

from input_pipeline.plan import STRIDE
from ps_jax.errors import ConfigError, DataError, GalleryError
from ps_jax.evaluation.cbgm import CANDIDATES, ContextMatching
from ps_jax.evaluation.contact_sheets import QUERY
from ps_jax.evaluation.options import two_numbers
from ps_jax.search.answers import answers_table, printable, write_answers
from ps_jax.search.detector import Detector, Found, load_detector
from ps_jax.search.drawing import scene
from ps_jax.search.files import MediaFile, reason_of
from ps_jax.search.finding import check_model, find, make_query
from ps_jax.search.gallery import EXACT_BYTES, Gallery
from ps_jax.search.indexing import Plan, begin, gallery_about, index_files
from ps_jax.search.media import decode, read_picture
from ps_jax.search.records import Restriction
from ps_jax.search.stores import locked, make_store, open_store
from ps_jax.search.video import frames_expected
from ps_jax.training.processes import is_first, on_first

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def parser(description: str) -> argparse.ArgumentParser:
    """The parser of all three commands; the chosen function lies in `run`."""
    top = argparse.ArgumentParser(
        prog="search.py",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = top.add_subparsers(dest="command", required=True)
    _index_options(commands.add_parser("index", allow_abbrev=False, help="look at pictures and videos"))
    _find_options(commands.add_parser("find", allow_abbrev=False, help="look for a person"))
    _serve_options(commands.add_parser("serve", allow_abbrev=False, help="a page to search with"))
    return top


def _common(command: argparse.ArgumentParser, model_required: bool) -> None:
    option = command.add_argument
    option("--gallery", required=True, help="folder, s3://bucket/folder, or qdrant://host[:port][/name]")
    option(
        "--model",
        type=Path,
        required=model_required,
        help="work directory of a training, or model package"
        + ("" if model_required else " (default: the one that the gallery was indexed with)"),
    )
    option("--phase", help="phase to take the checkpoint of (default: the last one that has any)")
    option("--checkpoint", choices=("last", "best"), default="last")


def _index_options(command: argparse.ArgumentParser) -> None:
    _common(command, model_required=True)
    option = command.add_argument
    option("places", nargs="+", metavar="PICTURES_OR_VIDEO", help="folders, pictures, videos")
    option("--fps", type=float, default=1.0, help="frames to look at in a second of video (default 1)")
    option("--batch_size", type=int, default=4, help="pictures in a batch (default 4)")
    option(
        "--stride",
        type=int,
        default=32,
        help="sizes are padded to multiples of it and compiled once each; 32 (default) as in evaluation, 256 for "
        "folders of pictures of very many sizes",
    )
    option("--coordinator_address", help="host:port of the first process, to index in several")
    option("--num_processes", type=int, help="how many processes index together")
    option("--process_id", type=int, help="number of this process, 0 for the first")
    command.set_defaults(run=index)


def index(options: argparse.Namespace) -> str:
    """Runs `index`; returns what to print."""
    from ps_jax.training import enable_compilation_cache, joined

    enable_compilation_cache()
    with (
        ExitStack() as held,  # until all processes are done, which leave `joined` together
        joined(options.coordinator_address, options.num_processes, options.process_id),
    ):
        return _index(options, held)


def _index(options: argparse.Namespace, held: ExitStack) -> str:
    detector = load_detector(
        options.model, options.phase, options.checkpoint, options.batch_size, options.stride
    )
    about = gallery_about(detector, options.model, options.fps)

    def begin_alone() -> dict[str, Any]:
        held.enter_context(locked(options.gallery))
        return asdict(begin(make_store(options.gallery, about), options.places))

    made = on_first(begin_alone)
    plan = Plan(
        tuple((MediaFile(**dict(file)), int(first)) for file, first in made["files"]),
        tuple(made["outdated"]),
        made["unchanged"],
        tuple(made["gone"]),
        tuple(made["unnamed"]),
        made["damaged"],
        made["unread"],
    )
    share = plan.files[jax.process_index() :: jax.process_count()]
    store = make_store(options.gallery, about, jax.process_index())
    with _progress(share, options.fps) as bar:
        report = index_files(store, detector, share, options.fps, lambda look: bar.update())
    known = plan if is_first() else Plan((), (), 0, ())  # what all have been told, one says
    for path in known.unnamed:
        print(f"passed over: {printable(path)}: its name is not UTF-8; rename it", file=sys.stderr)
    for path, reason in {**known.unread, **report.unread}.items():
        print(f"passed over, tried again next time: {printable(path)}: {reason}", file=sys.stderr)
    for path, reason in {**known.damaged, **report.damaged}.items():
        print(f"damaged: {printable(path)}: {reason}", file=sys.stderr)
    if share:
        store.optimize(index=store.count() * int(about["width"]) * 4 > EXACT_BYTES)
    everything = make_store(options.gallery, about)
    damaged = sum(bool(part.damage) for part in everything.parts())
    return (
        f"{options.gallery}: {report.scenes} scenes of {report.files} files looked at, {report.people} people found; "
        f"{plan.unchanged} files unchanged, {len(plan.gone)} gone, {damaged} damaged in all; "
        f"{everything.count()} people in the gallery"
    )


def _find_options(command: argparse.ArgumentParser) -> None:
    _common(command, model_required=False)
    option = command.add_argument
    option(
        "--query",
        type=Path,
        action="append",
        required=True,
        help="picture; several of the same person: again",
    )
    option(
        "--box", type=float, nargs=4, action="append", metavar=("X1", "Y1", "X2", "Y2"), help="one a query"
    )
    option("--pick", type=int, action="append", help="number of a detection, one a query")
    option("--count", type=int, default=30, help="answers wanted (default 30)")
    option("--least_score", type=float, default=0.0, help="leave out detections of a lower score")
    option(
        "--after", type=_date, help="leave out what was seen before this date: 2024-05-17 or 2024-05-17T10:30"
    )
    option("--before", type=_date, help="leave out what was seen from this date on")
    option("--cbgm", type=two_numbers, metavar="K1,K2", help="context bipartite graph matching")
    option("--cbgm_candidates", choices=CANDIDATES, default=CANDIDATES[0])
    option("--out", type=Path, help="folder of the page and JSON (default: runs/search/<name of the query>)")
    command.set_defaults(run=find_command)


def _date(text: str) -> float:
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no date such as 2024-05-17 or 2024-05-17T10:30"
        ) from None


def open_gallery(options: argparse.Namespace) -> tuple[Gallery, Detector]:
    """The gallery, and the model that it was indexed with; raises where that is another one now."""
    from ps_jax.training import enable_compilation_cache

    enable_compilation_cache()
    gallery = Gallery(open_store(options.gallery))
    detector = load_detector(
        options.model or gallery.about["model"],
        options.phase,
        options.checkpoint,
        stride=int(gallery.about.get("stride", STRIDE)),
    )
    check_model(gallery, detector)
    return gallery, detector


def find_command(options: argparse.Namespace) -> str:
    """Runs `find`; returns what to print."""
    chosen = options.box or options.pick
    if options.box and options.pick:
        raise ConfigError("--box and --pick: give one of them, as often as --query")
    if chosen and len(chosen) != len(options.query):
        raise ConfigError(
            f"{len(chosen)} times --{'box' if options.box else 'pick'} for {len(options.query)} times --query; give as "
            "many"
        )
    if options.count < 1:
        raise ConfigError(f"--count {options.count}: wanted is at least one answer")
    images = [_query_picture(path) for path in options.query]
    gallery, detector = open_gallery(options)
    looked = detector.look(images)
    detections = [found.above(detector.settings.score_threshold) for found in looked]
    out = options.out or Path("runs") / "search" / options.query[0].stem
    if not chosen:
        return _detections(options.query, images, detections, out)
    queries, shown = [], []
    for number, (path, image, found) in enumerate(zip(options.query, images, looked, strict=True)):
        box = chosen[number] if options.box else _picked(detections[number], chosen[number], path)
        queries.append(make_query(detector, image, found, box, str(path)))
        shown.append((path.name, scene(image, [box], QUERY)))
    context = ContextMatching(**options.cbgm, candidates=options.cbgm_candidates) if options.cbgm else None
    restriction = Restriction(options.least_score, options.after, options.before)
    answers = find(gallery, queries, options.count, restriction, context)
    about = {
        "gallery": options.gallery,
        "people": gallery.count,
        "search": "exact" if gallery.exact else "by an index",
        "cbgm": context.words if context else "off",
        **{name: gallery.about[name] for name in ("system", "fingerprint", "similarity")},
    }
    write_answers(out, shown, answers, about)
    return f"{answers_table(answers)}\nwritten to {out}: index.html, answers.json"


def _query_picture(path: Path) -> Any:
    try:
        return decode(read_picture(path), str(path))[0]
    except (OSError, MemoryError) as error:
        raise DataError(f"--query {path}: {reason_of(error)}") from error


def _picked(found: Found, number: int, path: Path) -> list[float]:
    if not 1 <= number <= len(found.score):
        raise ConfigError(
            f"--pick {number}: {len(found.score)} people are detected in {path}; or give a --box"
        )
    return found.box[number - 1].tolist()


def _detections(paths: Sequence[Path], images: Sequence[Any], detections: Sequence[Found], out: Path) -> str:
    """Writes the pictures with numbered detections; returns their table."""
    lines = []
    for number, (path, image, found) in enumerate(zip(paths, images, detections, strict=True), 1):
        drawn = out / f"people_{number}.jpg"
        try:
            out.mkdir(parents=True, exist_ok=True)
            drawn.write_bytes(scene(image, found.box.tolist(), QUERY, numbered=True))
        except OSError as error:
            raise GalleryError(
                f"{out}: cannot write here ({error.strerror}); choose another --out"
            ) from error
        lines.append(f"{path}: {len(found.score)} people, drawn in {drawn}")
        for place, (box, score) in enumerate(zip(found.box, found.score, strict=True), 1):
            lines.append(f"{place:>4}  score {score:.2f}  box {' '.join(f'{value:.0f}' for value in box)}")
    lines.append("choose with --pick N, or draw your own with --box X1 Y1 X2 Y2, once for each --query")
    return "\n".join(lines)


def _serve_options(command: argparse.ArgumentParser) -> None:
    _common(command, model_required=False)
    option = command.add_argument
    option("--host", default="127.0.0.1", help="address to listen at (default: this machine alone)")
    option("--port", type=int, default=8000)
    option(
        "--name",
        action="append",
        default=[],
        help="name that the page is opened under, beside localhost, addresses and --host; again for more",
    )
    option("--most_mb", type=float, default=32.0, help="largest picture that may be sent, MiB (default 32)")
    command.set_defaults(run=serve)


def serve(options: argparse.Namespace) -> str:
    """Runs `serve` until it is stopped; returns what to print then."""
    try:
        import uvicorn

        from ps_jax.search.guards import CONNECTIONS, Prompt
        from ps_jax.search.server import SearchService, make_app
    except ImportError as error:
        raise ConfigError("the page needs starlette and uvicorn: install the extra `search`") from error
    gallery, detector = open_gallery(options)
    if options.host not in LOOPBACK:
        print(
            f"listening at {options.host}: everybody who reaches this address can search and see the gallery",
            file=sys.stderr,
        )
    names = (options.host, *options.name)
    app = make_app(SearchService(gallery, detector), names, int(options.most_mb * 2**20))
    shown = f"[{options.host}]" if ":" in options.host else options.host
    print(f"http://{shown}:{options.port}/ (Ctrl-C ends it)", flush=True)
    try:
        uvicorn.run(
            app,
            http=Prompt,
            host=options.host,
            port=options.port,
            log_level="warning",
            server_header=False,
            limit_concurrency=CONNECTIONS,
        )
    except SystemExit as stop:  # uvicorn has said why on stderr
        raise ConfigError(f"cannot listen at {options.host}:{options.port}; choose another --port") from stop
    return "stopped"


@contextmanager
def _progress(files: Any, fps: float) -> Iterator[tqdm]:
    """A bar with the time that is left; on a terminal only."""
    quiet = not sys.stderr.isatty()
    total = None if quiet else sum(max(1, frames_expected(file, fps) - first) for file, first in files)
    with tqdm(total=total, desc="index", unit="scene", dynamic_ncols=True, disable=quiet) as bar:
        yield bar
