"""Metadata that pyproject.toml cannot state: the address of the project, and a README whose links contain it.

On GitHub, the links of README.md are relative; on PyPI they would lead nowhere. IMG2IMG_REPOSITORY is the address of
the repository, e.g. https://github.com/OWNER/NAME; the release workflow sets it to its own. Without it, the metadata
have no addresses and the links stay as they are.
"""

import os
import re
from pathlib import Path
from typing import Any

from setuptools import setup

ROOT = Path(__file__).parent
LINK = re.compile(r"(!?)(\[[^][]*\])\((?!\w+:)([^)\s]+)\)")
CODE = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)


def metadata(repository: str | None) -> dict[str, Any]:
    """Return the long description and the addresses of the project."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    found: dict[str, Any] = {"long_description": text, "long_description_content_type": "text/markdown"}
    if repository:
        repository = repository.rstrip("/")
        version = re.search(r'"(.+)"', (ROOT / "img2img" / "version.py").read_text(encoding="utf-8").split("=")[1])[1]
        tag = f"v{version}"
        found["long_description"] = with_absolute_links(text, repository, tag)
        found["project_urls"] = {
            "Repository": repository,
            "Documentation": f"{repository}/blob/{tag}/README.md#documentation",
            "Changelog": f"{repository}/blob/{tag}/CHANGELOG.md",
            "Issues": f"{repository}/issues",
        }
    return found


def with_absolute_links(text: str, repository: str, tag: str) -> str:
    """Return the README with its links leading to the files of a tag, and its pictures shown from there."""

    def link(match: re.Match[str]) -> str:
        bang, title, address = match.groups()
        if address.startswith("#"):
            return match[0]
        return f"{bang}{title}({repository}/{'raw' if bang else 'blob'}/{tag}/{address})"

    pieces = CODE.split(text)
    return "".join(piece if i % 2 else LINK.sub(link, piece) for i, piece in enumerate(pieces))


if __name__ == "__main__":
    setup(**metadata(os.environ.get("IMG2IMG_REPOSITORY")))
