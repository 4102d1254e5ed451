"""A local page to search with: drop a picture, click or draw a box, see the answers.

Whatever is sent is taken for hostile: bodies are cut at a limit, pictures decoded within limits and never stored, files
named by numbers that the gallery knows, and everything that comes from files is text. Only the gallery's own scenes are
shown, drawn anew as JPEG.
"""

import asyncio
import functools
import hashlib
import json
import math
import threading
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ps_jax.errors import DataError, GalleryError, PersonSearchError
from ps_jax.evaluation.cbgm import ContextMatching
from ps_jax.evaluation.contact_sheets import QUERY
from ps_jax.search.answers import STYLE, answer_record, place_words
from ps_jax.search.detector import Detector, Found
from ps_jax.search.drawing import data_uri, scene, tile
from ps_jax.search.finding import Answer, Query, find, make_query
from ps_jax.search.gallery import Gallery
from ps_jax.search.media import decode, scene_image
from ps_jax.search.records import Part, Restriction

LOCAL = ("127.0.0.1", "localhost")
MOST_UPLOAD = 32 << 20  # bytes of a picture
MOST_JSON = 4 << 20
MOST_HELD = 1 << 30  # bytes of all bodies that are in memory at a time
BODY_SECONDS = 30.0  # that a body may take to arrive
COUNT = 30  # answers
MOST_QUERIES, MOST_AROUND = 16, 64
CONTEXT = ContextMatching(10, 3)
KEPT = 256 << 20  # bytes of uploaded pictures that are remembered with their detections
DECODERS = 2  # scenes of the gallery that are in memory at a time
KEPT_TILES = 2000  # of answers, about 5 KB each

_WEB = Path(__file__).parent / "web"
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


_CLOSE = {"Connection": "close"}  # what is left of a refused body is not read


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
        self._seen: OrderedDict[bytes, tuple[np.ndarray, Found]] = OrderedDict()

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
        """The query of a box in an uploaded picture."""
        with self._lock:
            image, found = self._look(data)
            query = make_query(self._detector, image, found, box)
            drawn = tile(image, box, QUERY)
        around = query.around[:MOST_AROUND]
        return {"feature": query.feature.tolist(), "around": around.tolist(), "tile": data_uri(drawn)}

    def search(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Answers to queries; raises DataError for what is none."""
        try:
            queries = [self._query(record) for record in asked["queries"]]
            if not 1 <= len(queries) <= MOST_QUERIES:
                raise ValueError(f"{len(queries)} queries; wanted are 1 to {MOST_QUERIES}")
            least = _number(asked.get("least_score", 0))
            bounds = [
                None if asked.get(name) is None else _number(asked[name]) for name in ("after", "before")
            ]
            context = CONTEXT if asked.get("context") else None
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"this is no search: {error}") from error
        answers = find(self._gallery, queries, COUNT, Restriction(least, *bounds), context)
        return {"answers": [self._answer(answer) for answer in answers]}

    def scene(self, part: int, moment: float, box: Sequence[float]) -> bytes:
        """A scene of the gallery as JPEG, a box drawn; raises GalleryError where it is gone."""
        with self._decoders:
            return scene(scene_image(self._gallery.parts[part], moment), [box])

    def knows(self, part: int) -> bool:
        """Whether the gallery has a part of this number with something to see."""
        return part in self._gallery.parts and not self._gallery.parts[part].damage

    def _look(self, data: bytes) -> tuple[np.ndarray, Found]:
        """A picture and all that is found in it; with the lock held, so that one picture is in work at a time."""
        key = hashlib.sha256(data).digest()
        if key in self._seen:
            self._seen.move_to_end(key)
            return self._seen[key]
        image, _ = decode(data, "the picture")
        found = self._detector.look([image])[0]
        self._seen[key] = image, found
        while len(self._seen) > 1 and sum(kept.nbytes for kept, _ in self._seen.values()) > KEPT:
            self._seen.popitem(last=False)
        return image, found

    def _query(self, record: Mapping[str, Any]) -> Query:
        width = self._gallery.width
        feature = np.array(record["feature"], np.float32)
        around = np.array(record["around"], np.float32).reshape(-1, width)
        if feature.shape != (width,) or len(around) > MOST_AROUND:
            raise ValueError(f"features have {width} numbers, and at most {MOST_AROUND} are around")
        if not (np.isfinite(feature).all() and np.isfinite(around).all()):
            raise ValueError("features are finite numbers")
        return Query(feature, around)

    def _answer(self, answer: Answer) -> dict[str, Any]:
        place = place_words(answer)
        record = {
            "name": Path(answer.part.path).name + place.removeprefix(answer.part.path),
            "place": place,
            "tile": self._tile(answer.part, answer.moment, answer.box),
            "scene": None,
        }
        if record["tile"]:
            box = ",".join(f"{value:.1f}" for value in answer.box)
            record["scene"] = f"scene?part={answer.part.id}&moment={answer.moment!r}&box={box}"
        return record | answer_record(answer)

    def _draw_tile(self, part: Part, moment: float, box: tuple[float, ...]) -> str | None:
        """A person of the gallery as a data URI; None where the file is gone."""
        try:
            with self._decoders:
                return data_uri(tile(scene_image(part, moment), box))
        except GalleryError:
            return None


def make_app(
    service: SearchService, hosts: Sequence[str] = LOCAL, most_upload: int = MOST_UPLOAD
) -> Starlette:
    """The page and what it asks for, as an ASGI application.

    Args:
      service: what answers.
      hosts: names under which it may be asked for: a page elsewhere that has its own name lead here is refused.
      most_upload: bytes of a picture.
    """
    bodies = _Bodies()
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
        if not service.knows(part):
            raise HTTPException(404, "the gallery has no such scene")
        return Response(await run_in_threadpool(service.scene, part, moment, box), media_type="image/jpeg")

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
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts)), Middleware(_WithHeaders)],
        exception_handlers={HTTPException: refused, PersonSearchError: refused},
    )


class _WithHeaders:
    """Adds the headers that keep a browser from doing anything else with what it gets."""

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *message["headers"],
                    *((name.lower().encode(), value.encode()) for name, value in _HEADERS.items()),
                ]
            await send(message)

        await self._app(scope, receive, with_headers)


class _Bodies:
    """Reads bodies, none larger or slower than allowed, and not more than `MOST_HELD` bytes of them together.

    Attributes:
      held: bytes in memory; who is done with a body takes its length off.
    """

    def __init__(self) -> None:
        self.held = 0

    async def read(self, request: Request, most: int) -> bytes:
        """The body of a request; raises HTTPException where it is refused."""
        too_large = HTTPException(413, f"at most {most / 2**20:g} MiB are taken", _CLOSE)
        declared = request.headers.get("content-length", "0")
        if not declared.isdigit() or len(declared) > 15 or int(declared) > 2 * most:
            raise too_large
        parts: list[bytes] = []
        size = 0
        whole = False
        try:
            async with asyncio.timeout(BODY_SECONDS):
                async for part in request.stream():
                    size, self.held = size + len(part), self.held + len(part)
                    if size > 2 * most:
                        raise too_large
                    if self.held > MOST_HELD:
                        raise HTTPException(503, "too many uploads at a time; try again in a moment", _CLOSE)
                    parts.append(part)
            if size > most:  # read to its end, so that the client reads the answer
                raise too_large
            whole = True
        except TimeoutError:
            raise HTTPException(408, "the upload took too long", _CLOSE) from None
        except ClientDisconnect:
            raise HTTPException(400, "the upload was broken off") from None
        finally:
            if not whole:
                self.held -= size
        return b"".join(parts)


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
    number = float(value)
    if not math.isfinite(number) or abs(number) > 1e12:
        raise ValueError(f"{value!r} is no number to use")
    return number
