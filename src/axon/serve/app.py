"""The web application: a page, the queue behind it, and who may talk to it."""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import re
from collections.abc import AsyncIterator
from importlib import resources
from pathlib import Path
from typing import IO

from starlette.applications import Starlette
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from axon import DISCLAIMER, __version__
from axon.errors import AxonError
from axon.pictures import WINDOWS
from axon.reconstruct import MENDS, asked_mends, asked_view
from axon.serve.jobs import GRACE_S, OUT, Jobs, Order, scarce

MAX_FILM_BYTES = 32 * 2**20
MAX_FIELD_BYTES = 2**13
PREVIEW_S = 60.0
"""Seconds that a film may take to come and to be drawn before it is sent; it is no loss where that is not enough."""
UPLOAD_S = 300.0
"""Seconds that films may take to come; until then they hold a place in the queue."""
MAX_SAMPLES = 8
MAX_DIGITS = 10
HOSTS = ["127.0.0.1", "localhost"]
DOWNLOADS = (
    "ct.nii.gz",
    "sample.nii.gz",
    "mean.nii.gz",
    "std.nii.gz",
    "dicom.zip",
    "dicom-sample.zip",
    "preview.png",
    "reconstruction.json",
)
STATUS = {
    "DISK_FULL": 507,
    "SERVE_BUSY": 503,
    "SERVE_GONE": 404,
    "SERVE_TOO_LARGE": 413,
    "SERVE_ORIGIN": 403,
    "SERVE_FORM": 400,
}
HEADERS = {
    # The viewer decodes its fonts from data: URIs; everything else comes from this server.
    "content-security-policy": "default-src 'self'; img-src 'self' data: blob:; connect-src 'self' data: blob:; "
    "object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
}
_log = logging.getLogger(__name__)


def make_app(jobs: Jobs) -> Starlette:
    """The application over a queue, which it closes, files and all, when it ends."""

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        expiry = asyncio.create_task(_expire(jobs))
        yield
        expiry.cancel()
        await asyncio.to_thread(jobs.close)

    static = Path(str(resources.files("axon.serve").joinpath("static")))
    app = Starlette(
        lifespan=lifespan,
        routes=[
            Route("/", lambda _: FileResponse(static / "index.html")),
            Mount("/static", StaticFiles(directory=static)),
            Route("/api/about", _about),
            Route("/api/jobs", _submit, methods=["POST"]),
            Route("/api/preview", _preview, methods=["POST"]),
            Route("/api/jobs/{job}", _status, methods=["GET"]),
            Route("/api/jobs/{job}", _drop, methods=["DELETE"]),
            Route("/api/jobs/{job}/{file}", _file),
        ],
        middleware=[Middleware(_Headers), Middleware(TrustedHostMiddleware, allowed_hosts=HOSTS, www_redirect=False)],
        exception_handlers={AxonError: _explained, OSError: _scarce, ClientDisconnect: _left},
    )
    app.state.jobs, app.state.previews = jobs, asyncio.Semaphore(1)
    return app


class _Headers:
    """Put the security headers on every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *message["headers"],
                    *((name.encode(), value.encode()) for name, value in HEADERS.items()),
                ]
            await send(message)

        await self.app(scope, receive, with_headers)


async def _expire(jobs: Jobs) -> None:
    while True:
        await asyncio.sleep(min(jobs.keep_s / 2, GRACE_S / 2))
        await asyncio.to_thread(jobs.expire)


async def _about(request: Request) -> Response:
    model, jobs = request.app.state.jobs.model, request.app.state.jobs
    pipeline = model.pipeline
    return JSONResponse(
        {
            "disclaimer": DISCLAIMER,
            "software": f"axon-ct {__version__}",
            "model": {"name": model.name, "version": model.version},
            "windows": WINDOWS,
            "hu_window": list(pipeline.config.hu_window),
            "voxel_mm": round(float(pipeline.config.extent_mm) / pipeline.size, 1),
            "patients": len(pipeline.library.references),
            "keep_minutes": jobs.keep_s / 60,
            "max_film_bytes": MAX_FILM_BYTES,
            "max_samples": MAX_SAMPLES,
        }
    )


async def _submit(request: Request) -> Response:
    _refuse_strangers(request)
    bounded = Request(request.scope, _bounded(request.receive, 2 * MAX_FILM_BYTES + 2**16))
    jobs: Jobs = request.app.state.jobs
    try:
        # A place comes first: what nobody has room for is not kept.
        with jobs.place():
            async with asyncio.timeout(UPLOAD_S):
                return await _queued(bounded, jobs)
    except HTTPException as error:
        raise AxonError(
            "SERVE_FORM", f"the form cannot be read ({error.detail})", "send multipart/form-data"
        ) from error
    except TimeoutError:
        message = f"the films took more than {UPLOAD_S / 60:g} minutes to come"
        raise AxonError("SERVE_FORM", message, "send them faster") from None
    except AxonError as error:
        if error.code == "SERVE_BUSY":
            # A browser reads no answer before it has sent all.
            async for _ in bounded.stream():
                pass
        raise


async def _preview(request: Request) -> Response:
    """A picture of a film that browsers do not draw, or null where there is none to be had: it then comes, or is
    explained, once the film is sent.
    """
    _refuse_strangers(request)
    bounded = Request(request.scope, _bounded(request.receive, MAX_FILM_BYTES + 2**16))
    try:
        # One at a time, before its film is read: what waits holds a connection and nothing else.
        async with asyncio.timeout(PREVIEW_S), request.app.state.previews, bounded.form(max_files=1) as form:
            film = _film("frontal", form["film"]) if "film" in form else io.BytesIO()
            image = await asyncio.to_thread(request.app.state.jobs.preview, film)
    except (AxonError, OSError, HTTPException) as error:  # TimeoutError is an OSError
        _log.debug("no preview: %s", error)
        return JSONResponse({"image": None})
    return JSONResponse({"image": image})


async def _queued(request: Request, jobs: Jobs) -> Response:
    fields = 4 + 2 * len(MENDS)
    async with request.form(max_files=2, max_fields=fields, max_part_size=MAX_FIELD_BYTES) as form:
        films = {view: _film(view, form[view]) for view in ("frontal", "lateral") if view in form}
        order = _order({name: value for name, value in form.items() if isinstance(value, str)})
        if "frontal" not in films:
            raise AxonError("XRAY_MISSING", "no frontal film was given", "choose a frontal film")
        job = await asyncio.to_thread(jobs.submit, films, order)
    return JSONResponse({"id": job.id}, 202)


def _film(view: str, upload: UploadFile | str) -> IO[bytes]:
    if isinstance(upload, str):
        raise AxonError("SERVE_FORM", f"{view} is no file", "send each film as a file")
    if (upload.size or 0) > MAX_FILM_BYTES:
        raise _too_large(f"the {view} film has more than {MAX_FILM_BYTES // 2**20} MiB")
    return upload.file


def _order(fields: dict[str, str]) -> Order:
    samples, seed = fields.get("samples", "1"), fields.get("seed", "0")
    # Python refuses to read a number of thousands of digits, so the length comes first.
    if not (samples.isdecimal() and len(samples) <= MAX_DIGITS and 1 <= int(samples) <= MAX_SAMPLES):
        raise AxonError("SERVE_FORM", f"samples is {samples[:20]!r}", f"give a whole number from 1 to {MAX_SAMPLES}")
    if not (seed.isdecimal() and len(seed) <= MAX_DIGITS and int(seed) < 2**31):
        raise AxonError("SERVE_FORM", f"seed is {seed[:20]!r}", f"give a whole number from 0 to {2**31 - 1}")
    return Order(
        int(samples),
        int(seed),
        fields.get("trust_views") == "true",
        fields.get("no_level") == "true",
        asked_mends(fields),
        asked_view(fields.get("view")),
    )


def _bounded(receive: Receive, most: int) -> Receive:
    """``receive`` that refuses to read more than ``most`` bytes of a body, whatever its header promises."""
    seen = 0

    async def bounded() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > most:
            raise _too_large(f"the films have more than {most // 2**20} MiB together")
        return message

    return bounded


def _too_large(message: str) -> AxonError:
    return AxonError("SERVE_TOO_LARGE", message, f"give films of at most {MAX_FILM_BYTES // 2**20} MiB each")


async def _status(request: Request) -> Response:
    jobs: Jobs = request.app.state.jobs
    return JSONResponse(jobs.status(jobs.find(request.path_params["job"])))


async def _drop(request: Request) -> Response:
    _refuse_strangers(request)
    jobs: Jobs = request.app.state.jobs
    # A page that goes may be one that is loaded again.
    let_go = jobs.leave if request.query_params.get("leaving") == "true" else jobs.drop
    await asyncio.to_thread(let_go, request.path_params["job"])
    return Response(status_code=204)


async def _file(request: Request) -> Response:
    name = request.path_params["file"]
    path = request.app.state.jobs.find(request.path_params["job"]).folder / OUT / name
    if name not in DOWNLOADS or not path.is_file():
        raise AxonError(
            "SERVE_GONE", f"there is no {name[:40]!r} of this reconstruction", f"ask for one of {', '.join(DOWNLOADS)}"
        )
    # The page names downloads after the film, which the server does not know.
    prefix = re.sub(r"[^\w-]+", "_", request.query_params.get("prefix", "axon"))[:60].strip("_") or "axon"
    return FileResponse(path, filename=f"{prefix}-{name}")


def _refuse_strangers(request: Request) -> None:
    """Refuse a change asked for by a page of another origin; a browser names it, a script has none."""
    origin = request.headers.get("origin")
    if origin is not None and origin != f"http://{request.headers['host']}":
        raise AxonError(
            "SERVE_ORIGIN", "the request comes from a page of another origin", "use the page of this server"
        )


async def _explained(_: Request, error: Exception) -> Response:
    assert isinstance(error, AxonError)
    content = {"code": error.code, "message": error.message, "fix": error.fix}
    status = STATUS.get(error.code, 422)
    return JSONResponse(content, status, {"retry-after": "60"} if status == 503 else None)


async def _scarce(request: Request, error: Exception) -> Response:
    if (known := scarce(error)) is None:
        raise error
    return await _explained(request, known)


async def _left(_: Request, error: Exception) -> Response:
    _log.warning("a client went away in the midst of its request")
    return Response(status_code=400)
