"""The command line. Ctrl-C ends it quietly from here on, in the seconds of its imports too."""

import os
import signal
from contextlib import suppress
from types import FrameType


def _interrupt(number: int, frame: FrameType | None) -> None:
    while frame is not None:
        if "importlib._bootstrap" in frame.f_code.co_filename:  # nothing is under way; some imports swallow exceptions
            with suppress(OSError):
                os.write(2, b"Stopped.\n")
            os._exit(128 + number)
        frame = frame.f_back
    raise KeyboardInterrupt


def main() -> None:
    with suppress(ValueError):
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, _interrupt)
    from img2img.cli import main as cli

    cli.main()


if __name__ == "__main__":
    main()
