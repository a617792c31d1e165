"""The options of serving; imports nothing heavy, so that help is quick."""

import ipaddress
from dataclasses import dataclass
from typing import Annotated

from img2img.errors import ConfigError
from img2img.options.declared import Options, Within

TOKEN = "IMG2IMG_TOKEN"  # the environment variable
SHORTEST = 16  # characters of a token


@dataclass(frozen=True)
class ServeOptions(Options):
    """Options of serving."""

    host: Annotated[
        str, f"Address to listen at. Any but this machine's own, such as 0.0.0.0 for all, needs --token or {TOKEN}."
    ] = "127.0.0.1"
    port: Annotated[int, "Port to listen at.", Within(1, 65535, special=(0, "any that is free"))] = 8000
    token: Annotated[
        str | None,
        f"What clients must send, as Authorization: Bearer TOKEN. {TOKEN} keeps it out of the list of processes.",
    ] = None
    queue: Annotated[
        int, "Requests that are received, waiting or computed at a time; others get 429.", Within(1, 10**4)
    ] = 64
    max_megabytes: Annotated[float, "Refuse larger files.", Within(0, 10**6, above=True)] = 256.0
    max_megapixels: Annotated[
        float,
        "Refuse files whose headers claim more pixels than this, all pages together.",
        Within(0, 10**6, above=True),
    ] = 64.0
    timeout: Annotated[
        float, "Seconds from the start of a request to its result, waiting included.", Within(0, 10**6, above=True)
    ] = 300.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.token is not None and (len(self.token) < SHORTEST or not self.token.isascii() or " " in self.token):
            raise ConfigError(f"A token has at least {SHORTEST} ASCII characters and no spaces; see docs/serving.md.")
        if self.token is None and not is_loopback(self.host):
            raise ConfigError(
                f"--host {self.host} lets other machines in; give --token, or {TOKEN} in the environment, or leave "
                "--host out."
            )


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
