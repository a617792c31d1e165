"""The command line. From here on Ctrl-C ends it quietly, even during the seconds that its imports take."""

import os
import signal
from contextlib import suppress
from types import FrameType


def _interrupt(number: int, frame: FrameType | None) -> None:
    while frame is not None:
        if "importlib._bootstrap" in frame.f_code.co_filename:  # no work is lost; some imports swallow exceptions
            with suppress(OSError):
                os.write(2, b"Stopped.\n")
            os._exit(128 + number)
        frame = frame.f_back
    raise KeyboardInterrupt


def main() -> None:
    """Run the command line."""
    with suppress(ValueError):
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, _interrupt)
    from img2img.cli import main as cli

    cli.main()


if __name__ == "__main__":
    main()
