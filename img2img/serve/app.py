"""The API: what each path does. The page in `page/` is a client of it."""

import asyncio
import json
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from img2img.errors import ConfigError, DataError, Img2ImgError, TooLargeError, choose, quote
from img2img.model.folder import SMALL
from img2img.runs.folder import RunFolder
from img2img.serve import schema
from img2img.serve.asked import SAMPLE, TRANSLATE, WRITTEN, parsed
from img2img.serve.counts import Counts
from img2img.serve.guard import FILES
from img2img.serve.line import Line, Result, Task, remove_file
from img2img.serve.models import Loaded, described, drawing, translation
from img2img.serve.options import ServeOptions
from img2img.serve.preview import draw
from img2img.serve.uploads import ACCEPTED, RefusedError, Upload, header_of, receive, words
from img2img.serve.watching import HEADERS as REPORT_HEADERS, report_of
from img2img.serve.worker import BrokenError, Worker
from img2img.version import __version__

PAGE = Path(__file__).parent / "page"
PREVIEWS = 2  # drawn at a time
LEFT = 499  # the status of an answer that nobody reads, as nginx has it
DESCRIPTION = "Translate images with trained models: the bytes of an image in, an image of the same format out."


class Sent(FileResponse):
    """A file that is removed once it is sent, or cannot be."""

    def __init__(self, path: Path, release: Callable[[], None], **kwargs: Any) -> None:
        super().__init__(path, **kwargs)
        self.release = release

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            remove_file(Path(self.path))
            self.release()


class Service:
    """What the paths share.

    Args:
        devices: the models on each device.
        options: the limits.
        folder: a private one.
        runs: the runs to watch, by name.
    """

    def __init__(
        self, devices: list[Loaded], options: ServeOptions, folder: Path, runs: Mapping[str, RunFolder] | None = None
    ) -> None:
        self.runs = dict(runs or {})
        self.options, self.folder, self.models = options, folder, devices[0]
        self.uploads = folder / "in"
        self.uploads.mkdir()
        self.line, self.counts, self.used = Line(), Counts(), 0
        self.workers = [Worker(models, self.line, folder, self.counts) for models in devices]
        self.previews = asyncio.Semaphore(PREVIEWS)
        self.described = [described(name, model) for name, model in self.models.items()]
        on_cpu = all(model.runtime.device.type == "cpu" for model in self.models.values())
        self.whole = SMALL if on_cpu else math.inf

    def enter(self) -> Callable[[], None]:
        """Take one of the places of the queue, and return the function that gives it back.

        Raises:
            RefusedError: if there is none.
        """
        if self.used >= self.options.queue:
            raise RefusedError(429, f"{self.used} requests are being served, the limit; try again later.")
        self.used += 1
        taken = [True]

        def leave() -> None:
            if taken:
                taken.pop()
                self.used -= 1

        return leave

    def patience(self) -> int:
        """Return the seconds after which a place may be free: those that a request takes."""
        done = self.counts.total("img2img_images_total", outcome="done")
        return max(1, math.ceil(self.counts.total("img2img_seconds_sum") / done)) if done else 1

    async def _placed(self, work: Callable[[Callable[[], None]], Awaitable[Response]]) -> Response:
        """Do the work of a request in one of the places, in the time that there is."""
        leave = self.enter()
        try:
            async with asyncio.timeout(self.options.timeout):
                return await work(leave)
        except TimeoutError:
            leave()
            seconds = f"{self.options.timeout:g} s"
            raise RefusedError(504, f"There was no result within {seconds}, the limit of this server.") from None
        except BaseException:
            leave()
            raise

    async def translate(self, request: Request) -> Response:
        """Translate an image."""

        async def work(leave: Callable[[], None]) -> Response:
            upload = await receive(request, self.uploads, self.options.max_megabytes * 1e6)
            try:
                task, lost = await asyncio.to_thread(self._task, upload)
            except BaseException:
                remove_file(upload.path)
                raise
            result = await self._computed(request, task)
            end = result.path.name.removeprefix(upload.path.stem)
            return self._sent(result, PurePosixPath(upload.name).stem + end, leave, lost)

        return await self._placed(work)

    def _task(self, upload: Upload) -> tuple[Task, tuple[str, ...]]:
        """Return the task of an upload, and what its result does not keep."""
        asked = translation(self.models, parsed(upload.values, TRANSLATE), self.options.max_megapixels)
        pages = asked.files.pages or self.models[asked.model].card.pages
        header = header_of(upload, pages, self.options.max_megapixels)
        alone = header.width * header.height * header.pages > self.whole
        return Task(asked, upload.path, upload.name, alone), header.stated.lost

    async def sample(self, request: Request) -> Response:
        """Draw images from noise."""

        async def work(leave: Callable[[], None]) -> Response:
            values = parsed(dict(request.query_params), SAMPLE)
            task = Task(await asyncio.to_thread(drawing, self.models, values, self.options.max_megapixels), alone=True)
            result = await self._computed(request, task)
            return self._sent(result, f"{task.asked.model}{result.path.suffix}", leave)

        return await self._placed(work)

    async def preview(self, request: Request) -> Response:
        """Draw a picture of a file that browsers cannot show."""

        async def work(leave: Callable[[], None]) -> Response:
            upload = await receive(request, self.uploads, self.options.max_megabytes * 1e6)
            pages, pixels = upload.values.pop("pages", "images"), int(self.options.max_megapixels * 1e6)
            try:
                async with self.previews:
                    png, facts = await asyncio.to_thread(_drawn, upload, pages, pixels)
            finally:
                remove_file(upload.path)
            leave()
            return Response(png, headers={"Img2img-Image": json.dumps(facts)}, media_type="image/png")

        return await self._placed(work)

    async def _computed(self, request: Request, task: Task) -> Result:
        """Wait for the result of a task, for as long as its client does."""
        loop, done = asyncio.get_running_loop(), asyncio.Event()
        task.future.add_done_callback(lambda _: loop.call_soon_threadsafe(done.set))
        self.line.put(task)
        waits = [asyncio.ensure_future(done.wait()), asyncio.ensure_future(_gone(request))]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            if not done.is_set():
                raise ClientDisconnect
            result = task.future.result()
        except BaseException:
            self.line.drop(task)
            raise
        finally:
            for wait in waits:
                wait.cancel()
        self.counts.add("img2img_seconds_sum", time.monotonic() - task.begun)
        return result

    def _sent(self, result: Result, name: str, leave: Callable[[], None], lost: tuple[str, ...] = ()) -> Response:
        notes = [*(f"The result does not keep {what}." for what in lost), *result.notes]
        headers = {"Img2img-Outside": f"{result.outside:.6g}"} if result.outside else {}
        headers |= {"Img2img-Notes": json.dumps(notes)} if notes else {}
        return Sent(result.path, leave, filename=name, headers=headers)

    async def list_models(self, request: Request) -> Response:
        """List the models, the formats and the limits."""
        limits = {name: getattr(self.options, name) for name in ("max_megabytes", "max_megapixels", "timeout", "queue")}
        formats = {"read": sorted(suffix[1:] for suffix in ACCEPTED), "written": list(WRITTEN)}
        facts = {"version": __version__, "models": self.described, "runs": list(self.runs)}
        return JSONResponse(facts | {"formats": formats, "limits": limits})

    async def watch(self, request: Request) -> Response:
        """Return the report of a run that is watched, as it is now."""
        name = request.path_params["name"]
        if name not in self.runs:
            raise RefusedError(404, f"No run called {quote(name)} is shown here.")
        report = await asyncio.to_thread(report_of, self.runs[name])
        if report is None:
            raise RefusedError(404, f"The run {quote(name)} has no report yet; it has one once it has saved.")
        return Response(report, media_type="text/html; charset=utf-8", headers=REPORT_HEADERS)

    async def health(self, request: Request) -> Response:
        """Say whether the workers are alive."""
        well = all(worker.is_alive() for worker in self.workers)
        return JSONResponse({"status": "ok" if well else "a worker has ended"}, 200 if well else 503)

    async def metrics(self, request: Request) -> Response:
        """Return counters as Prometheus reads them."""
        gauges = {"slots_used": self.used, "slots": self.options.queue, "waiting": len(self.line)}
        text = self.counts.text({f"img2img_{name}": value for name, value in gauges.items()})
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    async def page(self, request: Request) -> Response:
        """Return a file of the page."""
        name, kind = FILES[request.url.path]
        return Response((PAGE / name).read_bytes(), media_type=f"{kind}; charset=utf-8")

    async def refuse(self, request: Request, error: Exception) -> Response:
        """Answer with the sentence of an error."""
        headers = {}
        if isinstance(error, RefusedError):
            status = error.status
        elif isinstance(error, HTTPException):
            status, headers = error.status_code, dict(error.headers or {})
            return JSONResponse({"error": f"{error.detail}."}, status, headers)
        elif isinstance(error, ClientDisconnect):
            return Response(status_code=LEFT)
        else:
            status = (
                422 if isinstance(error, ConfigError | DataError) else 500 if isinstance(error, BrokenError) else 507
            )
        if status == 429:
            headers = {"Retry-After": str(self.patience())}
        if status in (413, 429):
            headers["Connection"] = "close"  # the body is not read
        return JSONResponse({"error": str(error)}, status, headers)


def _drawn(upload: Upload, pages: str, pixels: int) -> tuple[bytes, dict[str, Any]]:
    for name in upload.values:
        choose("parameter", name, schema.PREVIEW)
    try:
        return draw(upload.path, pages, pixels, upload.values)
    except DataError as error:
        raise RefusedError(413 if isinstance(error, TooLargeError) else 422, words(str(error), upload)) from error


async def _gone(request: Request) -> None:
    """Wait until the client goes away."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def build(service: Service) -> FastAPI:
    """Return the application."""
    app = FastAPI(title="img2img", version=__version__, description=DESCRIPTION, docs_url=None, redoc_url=None)
    add = app.add_api_route
    image = "image/*"
    add(
        "/v1/translate", service.translate, methods=["POST"], openapi_extra=schema.TRANSLATING,
        response_class=Response, responses=schema.responses("The result.", image, headers=schema.HEADERS),
    )  # fmt: skip
    add(
        "/v1/sample", service.sample, methods=["POST"], openapi_extra=schema.SAMPLING, response_class=Response,
        responses=schema.responses("An image; several as a zip.", image, "application/zip"),
    )  # fmt: skip
    add(
        "/v1/preview", service.preview, methods=["POST"], openapi_extra=schema.PREVIEWING, response_class=Response,
        responses=schema.responses("A PNG; Img2img-Image says what is shown.", "image/png"),
    )  # fmt: skip
    add("/v1/models", service.list_models, methods=["GET"], response_class=JSONResponse)
    add("/healthz", service.health, methods=["GET"], response_class=JSONResponse)
    add("/metrics", service.metrics, methods=["GET"], response_class=PlainTextResponse)
    add(
        "/runs/{name}", service.watch, methods=["GET"], response_class=Response, openapi_extra=schema.WATCHING,
        responses=schema.responses("The report of a run that is watched.", "text/html"),
    )  # fmt: skip
    for path in FILES:
        add(path, service.page, methods=["GET"], include_in_schema=False, response_class=Response)
    for kind in (RefusedError, Img2ImgError, HTTPException, ClientDisconnect):
        app.add_exception_handler(kind, service.refuse)
    return app
