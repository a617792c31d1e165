"""Listening, and ending: the address is taken before anything is said, and SIGTERM lets requests finish."""

import asyncio
import os
import re
import shutil
import signal
import socket
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import uvicorn

from img2img.errors import ConfigError
from img2img.runtime.files import is_alive, remove
from img2img.serve.app import Service, build
from img2img.serve.guard import Guard
from img2img.serve.models import open_models
from img2img.serve.options import ServeOptions, is_loopback
from img2img.serve.watching import open_runs

PRIVATE = re.compile(r"img2img-serve-(\d+)-\w+")


class Server(uvicorn.Server):
    """A server that ends with code 0 after a signal, once its requests are answered."""

    def capture_signals(self) -> AbstractContextManager[None]:  # type: ignore[override]
        """Leave signals to `serve`: the original raises them again at the end."""
        return nullcontext()

    def stop(self, *_: Any) -> None:
        """Take no more requests, answer those that are there, and end; at once if this is the second call."""
        self.force_exit = self.should_exit
        self.should_exit = True


def serve(
    paths: Sequence[str | Path],
    options: ServeOptions,
    say: Callable[[str], None],
    runs: Sequence[Path] = (),
    **loading: Any,
) -> None:
    """Serve models until SIGTERM or Ctrl-C, and return once all requests are answered.

    Args:
        paths: model files or run folders, here or on a hub.
        options: where, for whom and how much.
        say: called with the address, once it answers.
        runs: run folders whose reports are shown.
        **loading: device, precision and backend.

    Raises:
        ConfigError: if the address cannot be listened at, or the models do not fit together.
        ModelFileError: if there is no readable model.
    """
    with closing(listening(options)) as listener, private_folder() as folder:
        service = Service(open_models(paths, **loading), options, folder, open_runs(runs))
        server = server_of(service)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, server.stop)
        run(service, server, listener, say)


def server_of(service: Service) -> Server:
    """Return the server of a service, behind its guard."""
    options = service.options
    app = Guard(build(service), service.counts, options.token, is_loopback(options.host))
    quiet: dict[str, Any] = {"log_level": "warning", "access_log": False, "server_header": False}
    return Server(uvicorn.Config(app, lifespan="off", proxy_headers=False, ws="none", **quiet))


def run(service: Service, server: Server, listener: socket.socket, say: Callable[[str], None]) -> None:
    """Answer requests until the server is stopped, and then until all are answered."""
    for worker in service.workers:
        worker.start()
    host, port = listener.getsockname()[:2]
    say(f"http://{f'[{host}]' if ':' in host else host}:{port}")
    asyncio.run(server.serve([listener]))
    service.line.close()
    for worker in service.workers:
        worker.join(service.options.timeout)


def listening(options: ServeOptions) -> socket.socket:
    """Return a socket that listens at the address of `options`.

    Raises:
        ConfigError: if that is not possible.
    """
    try:
        found = socket.getaddrinfo(options.host.strip("[]"), options.port, type=socket.SOCK_STREAM)
        family, _, _, _, address = found[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(1024)
        except OSError:
            listener.close()
            raise
        return listener
    except OSError as error:
        raise ConfigError(
            f"Cannot listen at {options.host}, port {options.port}: {error.strerror or error}; give another --port, or "
            "--host."
        ) from error


@contextmanager
def private_folder() -> Iterator[Path]:
    """Yield a new folder that only this user may enter, which is removed at the end; remove those of killed servers."""
    root = Path(tempfile.gettempdir())
    for path in root.iterdir():
        if (match := PRIVATE.fullmatch(path.name)) and not is_alive(int(match[1])):
            shutil.rmtree(path, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=f"img2img-serve-{os.getpid()}-"))
    try:
        yield folder
    finally:
        remove(folder)
