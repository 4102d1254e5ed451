"""A local page to search with: drop a picture, click or draw a box, see the answers.

Whatever is sent is taken for hostile: bodies are cut at a limit, pictures decoded within limits and never stored, files
named by numbers that the gallery knows, and everything that comes from files is text. Only the gallery's own scenes are
shown, drawn anew as JPEG.
"""

import functools
import hashlib
import json
import math
import secrets
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ps_jax.errors import DataError, GalleryError, PersonSearchError
from ps_jax.evaluation.cbgm import ContextMatching
from ps_jax.evaluation.contact_sheets import QUERY
from ps_jax.search.answers import STYLE, answer_record, place_words
from ps_jax.search.detector import Detector, Found
from ps_jax.search.drawing import data_uri, scene, tile
from ps_jax.search.finding import Answer, Query, find, make_query
from ps_jax.search.gallery import Gallery
from ps_jax.search.guards import Bodies, KnownHosts, WithHeaders
from ps_jax.search.media import decode, scene_image
from ps_jax.search.recent import Recent
from ps_jax.search.records import Part, Restriction

MOST_UPLOAD = 32 << 20  # bytes of a picture
MOST_JSON = 64 << 10
COUNT = 30  # answers
MOST_QUERIES, MOST_AROUND = 16, 64
CONTEXT = ContextMatching(10, 3)
KEPT = 256 << 20  # bytes of uploaded pictures that are remembered with their detections
KEPT_QUERIES = 128 << 20  # bytes of features of queries that can be searched with: some hundreds at least
DECODERS = 2  # scenes of the gallery that are in memory at a time
KEPT_TILES = 2000  # of answers, about 5 KB each

_WEB = Path(__file__).parent / "web"


class SearchService:
    """What the page asks for, one request at a time on the model.

    Args:
      gallery: what is searched.
      detector: the model that it was indexed with.
    """

    def __init__(self, gallery: Gallery, detector: Detector):
        self._gallery, self._detector = gallery, detector
        self._lock, self._decoders = threading.Lock(), threading.BoundedSemaphore(DECODERS)
        self._tile = functools.lru_cache(KEPT_TILES)(self._draw_tile)
        self._seen = Recent[tuple[np.ndarray, Found]](KEPT)
        self._queries = Recent[Query](KEPT_QUERIES)

    def about(self) -> dict[str, Any]:
        """What is searched, in words."""
        gallery = self._gallery
        files = len({part.path for part in gallery.parts.values()})
        how = "exact search" if gallery.exact else "search by an index"
        return {"words": f"{gallery.count} people in {files} files, {how}"}

    def people(self, data: bytes) -> dict[str, Any]:
        """Who is in an uploaded picture, and the picture as it is shown."""
        with self._lock:
            image, found = self._look(data)
            drawn = scene(image, [])
        found = found.above(self._detector.settings.score_threshold)
        height, width = image.shape[:2]
        people = [
            {"box": box, "score": score}
            for box, score in zip(found.box.tolist(), found.score.tolist(), strict=True)
        ]
        return {"width": width, "height": height, "people": people, "image": data_uri(drawn)}

    def query(self, data: bytes, box: Sequence[float]) -> dict[str, Any]:
        """The query of a box in an uploaded picture: a name for `search`, since features stay here, and its person."""
        with self._lock:
            image, found = self._look(data)
            query = make_query(self._detector, image, found, box)
            drawn = tile(image, box, QUERY)
        query = query._replace(around=query.around[:MOST_AROUND].copy())
        name = secrets.token_urlsafe(16)
        self._queries.keep(name, query, query.feature.nbytes + query.around.nbytes)
        return {"query": name, "tile": data_uri(drawn)}

    def search(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Answers to queries; raises DataError for what is none."""
        try:
            queries = [self._queries.get(name) for name in asked["queries"]]
            if not 1 <= len(queries) <= MOST_QUERIES:
                raise ValueError(f"{len(queries)} queries; wanted are 1 to {MOST_QUERIES}")
            known = [query for query in queries if query is not None]
            if len(known) < len(queries):
                raise ValueError("a query is not held here any more; pick its person again")
            least = _number(asked.get("least_score", 0))
            bounds = [
                None if asked.get(name) is None else _number(asked[name]) for name in ("after", "before")
            ]
            context = CONTEXT if asked.get("context") else None
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"this is no search: {error}") from error
        answers = find(self._gallery, known, COUNT, Restriction(least, *bounds), context)
        return {"answers": [self._answer(answer) for answer in answers]}

    def scene(self, part: int, moment: float, box: Sequence[float]) -> bytes | None:
        """A scene of the gallery as JPEG, its person's box drawn; raises GalleryError where the file is gone.

        None where the gallery has nobody there: what the client makes up is neither decoded nor drawn.
        """
        if part not in self._gallery.parts:
            return None
        people = self._gallery.scenes([part])
        if not np.any((people.moment == moment) & (people.box == np.array(box, np.float32)).all(1)):
            return None
        with self._decoders:
            return scene(scene_image(self._gallery.parts[part], moment), [box])

    def _look(self, data: bytes) -> tuple[np.ndarray, Found]:
        """A picture and all that is found in it; with the lock held, so that one picture is in work at a time."""
        key = hashlib.sha256(data).digest()
        seen = self._seen.get(key)
        if seen is None:
            image, _ = decode(data, "the picture")
            seen = image, self._detector.look([image])[0]
            self._seen.keep(key, seen, image.nbytes)
        return seen

    def _answer(self, answer: Answer) -> dict[str, Any]:
        place = place_words(answer)
        try:
            drawn = self._tile(answer.part, answer.moment, answer.box)
        except GalleryError:  # not remembered: a drive that is gone comes back
            drawn = None
        record = {
            "name": Path(answer.part.path).name + place.removeprefix(answer.part.path),
            "place": place,
            "tile": drawn,
            "scene": None,
        }
        if drawn:
            box = ",".join(map(repr, answer.box))  # to the last digit, for `scene` to know it again
            record["scene"] = f"scene?part={answer.part.id}&moment={answer.moment!r}&box={box}"
        return record | answer_record(answer)

    def _draw_tile(self, part: Part, moment: float, box: tuple[float, ...]) -> str:
        """A person of the gallery as a data URI; raises GalleryError where the file is gone."""
        with self._decoders:
            return data_uri(tile(scene_image(part, moment), box))


def make_app(service: SearchService, hosts: Sequence[str] = (), most_upload: int = MOST_UPLOAD) -> Starlette:
    """The page and what it asks for, as an ASGI application.

    Args:
      service: what answers.
      hosts: names under which it may be asked for beside addresses and "localhost", see `KnownHosts`.
      most_upload: bytes of a picture.
    """
    bodies = Bodies()
    files = {
        "/": ("text/html", (_WEB / "index.html").read_bytes()),
        "/page.js": ("text/javascript", (_WEB / "page.js").read_bytes()),
        "/style.css": ("text/css", STYLE.encode() + (_WEB / "page.css").read_bytes()),
    }

    async def file(request: Request) -> Response:
        kind, content = files[request.url.path]
        return Response(content, media_type=kind)

    async def about(request: Request) -> Response:
        return JSONResponse(service.about())

    def posting(
        kind: str, most: int, answer: Callable[[Request, bytes], dict[str, Any]]
    ) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            if request.headers.get("content-type", "").partition(";")[0] != kind:
                raise HTTPException(415, f"wanted is {kind}")  # which other sites' pages cannot send
            body = await bodies.read(request, most)
            try:
                return JSONResponse(await run_in_threadpool(answer, request, body))
            finally:
                bodies.held -= len(body)

        return endpoint

    async def show_scene(request: Request) -> Response:
        try:
            part, moment = int(request.query_params["part"]), _number(request.query_params["moment"])
            box = _box(request.query_params["box"])
        except (KeyError, ValueError):
            raise HTTPException(400, "wanted are part, moment and box") from None
        jpeg = await run_in_threadpool(service.scene, part, moment, box)
        if jpeg is None:
            raise HTTPException(404, "the gallery has nobody there")
        return Response(jpeg, media_type="image/jpeg")

    def people(request: Request, body: bytes) -> dict[str, Any]:
        return service.people(body)

    def query(request: Request, body: bytes) -> dict[str, Any]:
        try:
            box = _box(request.query_params["box"])
        except (KeyError, ValueError):
            raise HTTPException(400, "wanted is box=x1,y1,x2,y2") from None
        return service.query(body, box)

    def search(request: Request, body: bytes) -> dict[str, Any]:
        return service.search(_json(body))

    async def refused(request: Request, error: Exception) -> Response:
        if isinstance(error, HTTPException):
            return JSONResponse({"error": error.detail}, error.status_code, error.headers)
        return JSONResponse({"error": str(error)}, 400)

    picture = "application/octet-stream"
    return Starlette(
        routes=[
            *(Route(path, file) for path in files),
            Route("/about", about),
            Route("/scene", show_scene),
            Route("/people", posting(picture, most_upload, people), methods=["POST"]),
            Route("/query", posting(picture, most_upload, query), methods=["POST"]),
            Route("/search", posting("application/json", MOST_JSON, search), methods=["POST"]),
        ],
        middleware=[Middleware(KnownHosts, hosts=hosts), Middleware(WithHeaders)],
        exception_handlers={HTTPException: refused, PersonSearchError: refused},
    )


def _json(body: bytes) -> Mapping[str, Any]:
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        raise HTTPException(400, "this is no JSON") from None
    if not isinstance(content, dict):
        raise HTTPException(400, "wanted is a JSON object")
    return content


def _box(text: str) -> list[float]:
    box = [_number(value) for value in text.split(",")]
    if len(box) != 4:
        raise ValueError("a box has four numbers")
    return box


def _number(value: Any) -> float:
    try:
        number = float(value)
    except OverflowError:  # JSON has whole numbers of any length
        number = math.inf
    if not math.isfinite(number) or abs(number) > 1e12:
        raise ValueError(f"{value!r} is no number to use")
    return number
