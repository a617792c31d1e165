"""Lay out the pages of the site, which Zensical then renders: `scripts/docs` does both.

The pages of the repository are the source, and are laid out in the folders that they have there, so that their links
hold. Added to them are the pages of the reference, made from the code, and pages with the source of examples and
notebooks. `zensical.toml` lists all pages in their order.
"""

import json
import os
import re
import shutil
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import command_reference
import python_reference

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
LINK = re.compile(r"(\]\()([^)\s#]+)((?:#[^)\s]*)?\))")


def listed(entry: object) -> Iterator[str]:
    """Yield the pages below an entry of the navigation."""
    if isinstance(entry, str):
        yield entry
    else:
        for one in entry.values() if isinstance(entry, dict) else entry:  # type: ignore[attr-defined]
            yield from listed(one)


def pages() -> list[str]:
    """Return all pages, in their order."""
    return list(listed(tomllib.loads((HERE / "zensical.toml").read_text(encoding="utf-8"))["project"]["nav"]))


def text_of(page: str) -> str:
    """Return the Markdown of a page."""
    if page in python_reference.PAGES:
        return python_reference.page(page)
    if page == "reference/command_line.md":
        return command_reference.page()
    if (ROOT / page).exists():
        return (ROOT / page).read_text(encoding="utf-8")
    notebook, program = ((ROOT / page).with_suffix(suffix) for suffix in (".ipynb", ".py"))
    if notebook.exists():
        return of_notebook(json.loads(notebook.read_text(encoding="utf-8")))
    return f"# {program.name}\n\n{code(program.read_text(encoding='utf-8'))}"


def of_notebook(notebook: dict[str, Any]) -> str:
    """Return the cells of a notebook as Markdown, without what they printed."""
    cells = ((cell["cell_type"], "".join(cell["source"])) for cell in notebook["cells"])
    return "\n\n".join(code(text) if kind == "code" else text for kind, text in cells if text) + "\n"


def code(text: str) -> str:
    """Return the source of a program as a block."""
    return f"```python\n{text.strip()}\n```\n"


def lay_out(out: Path) -> None:
    """Write all pages, and the pictures and other files that they link to, below a new folder."""
    known = pages()
    for page in known:
        target = out / page
        target.parent.mkdir(parents=True, exist_ok=True)

        def link(match: re.Match[str], folder: Path = Path(page).parent) -> str:
            before, address, after = match.groups()
            if address.startswith(("http:", "https:")):
                return match[0]
            path = Path(os.path.normpath(folder / address))
            if path.with_suffix(".md").as_posix() in known:
                return before + str(Path(address).with_suffix(".md")) + after
            (out / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / path, out / path)
            return match[0]

        target.write_text(LINK.sub(link, text_of(page)), encoding="utf-8")


def address(page: str) -> str:
    """Return the path of a page in the built site."""
    path = Path(page)
    return path.with_name("index.html" if path.stem == "README" else f"{path.stem}.html").as_posix()


def prepare(build: Path) -> None:
    """Write what Zensical needs into a folder, in place of what an earlier call and Zensical wrote there."""
    for folder in ("pages", "site"):
        shutil.rmtree(build / folder, ignore_errors=True)
    lay_out(build / "pages")
    shutil.copy(HERE / "zensical.toml", build)


if __name__ == "__main__":
    prepare(Path(sys.argv[1]))
