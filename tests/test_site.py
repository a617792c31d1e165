"""The site of the documentation: it has every page, shows what GitHub shows, leads nowhere else and fetches nothing."""

import inspect
import re
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from markdown_it import MarkdownIt

import img2img
import img2img.lab

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "docs" / "site"
FETCHED = {"audio", "embed", "iframe", "img", "object", "script", "source", "track", "video"}  # by their src or data
FETCHING = {
    "stylesheet",
    "icon",
    "preload",
    "preconnect",
    "dns-prefetch",
    "modulepreload",
    "manifest",
}  # kinds of <link>
COUNTED = {"h1", "h2", "h3", "h4", "li", "ol", "ul", "tr", "td", "pre", "img", "code", "em", "strong", "blockquote"}


class Page(HTMLParser):
    """What a page has: its anchors, the addresses that it links to and fetches, and the elements of its text."""

    def __init__(self, html):
        super().__init__()
        self.anchors, self.links, self.fetched, self.elements = {""}, [], [], Counter()
        self.is_text = "<article" not in html  # of a page without a frame, all is text
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        known = dict(attrs)
        self.is_text |= tag == "article"
        self.anchors.update(value for name, value in attrs if name in ("id", "name") and value)
        if tag == "a" and "href" in known:
            self.links.append(known["href"])
        if tag in FETCHED:
            self.fetched += [known[name] for name in ("src", "data", "poster") if name in known]
        if tag == "link" and FETCHING & set(known["rel"].split()):
            self.fetched.append(known["href"])
        if self.is_text and tag in COUNTED:
            self.elements[tag] += 1

    def handle_endtag(self, tag):
        if tag == "article":
            self.is_text = False


@pytest.fixture(scope="module")
def pages():
    """The module that lays out the pages."""
    sys.path.insert(0, str(SOURCE))
    try:
        import pages
    finally:
        sys.path.remove(str(SOURCE))
    return pages


@pytest.fixture(scope="module")
def site(pages, tmp_path_factory):
    """The folder of the built site: its pages of Markdown are below `pages`, those of HTML below `site`."""
    build = tmp_path_factory.mktemp("build")
    pages.prepare(build)
    command = [sys.executable, "-m", "zensical", "build", "--strict", "-f", str(build / "zensical.toml")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and "No issues found" in done.stdout + done.stderr, done.stdout + done.stderr
    return build


@pytest.fixture(scope="module")
def built(site):
    """Every page of HTML, by its path."""
    return {path: Page(path.read_text(encoding="utf-8")) for path in sorted((site / "site").rglob("*.html"))}


def test_every_page_has_its_place(pages):
    listed = pages.pages()
    of_the_project = [*ROOT.glob("*.md"), ROOT / "datasets" / "README.md", *(ROOT / "docs").rglob("*.md")]
    assert {path.relative_to(ROOT).as_posix() for path in of_the_project} <= set(listed)
    assert len(listed) == len(set(listed))


def test_a_notebook_becomes_a_page(pages):
    cells = [("markdown", ["# Title\n", "\n", "Text"]), ("code", ["x = 1\n", "y = 2"]), ("code", [])]
    notebook = {"cells": [{"cell_type": kind, "source": source} for kind, source in cells]}
    assert pages.of_notebook(notebook) == "# Title\n\nText\n\n```python\nx = 1\ny = 2\n```\n\n"


@pytest.mark.slow
def test_links_lead_to_pages_and_anchors_that_exist(built, site):
    found, wrong = 0, []
    for path, page in built.items():
        if path.name == "404.html":  # its links begin at the root of a server
            continue
        for link in {*page.links, *page.fetched}:
            parts = urlsplit(link)
            if parts.scheme or not link:
                assert parts.scheme in ("http", "https"), link
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            anchors = built[target].anchors if target in built else {""}
            found += 1
            if not target.is_file() or unquote(parts.fragment) not in anchors:
                wrong.append(f"{path.relative_to(site)}: {link}")
    assert wrong == [] and found > 3000


@pytest.mark.slow
def test_pages_fetch_nothing_from_elsewhere(built, site):
    for path, page in built.items():
        assert [link for link in page.fetched if urlsplit(link).netloc or urlsplit(link).scheme] == [], path.name
        assert page.fetched, path.name
    for style in (site / "site").rglob("*.css"):
        text = style.read_text(encoding="utf-8")
        assert not re.search(r"@import|@font-face|url\([\"']?(https?:)?//", text), style.name


@pytest.mark.slow
def test_pages_show_what_github_shows(built, site, pages):
    """The pages of the project are read alike by both kinds of Markdown: as many lists, cells, words in code, ..."""
    markdown = MarkdownIt("commonmark").enable(["table", "strikethrough"])
    different = {}
    for name in (name for name in pages.pages() if not name.startswith("reference/")):
        here = built[site / "site" / pages.address(name)].elements
        there = Page(markdown.render((site / "pages" / name).read_text(encoding="utf-8"))).elements
        if here != there:
            different[name] = {tag: (here[tag], there[tag]) for tag in here | there if here[tag] != there[tag]}
    assert different == {}


@pytest.mark.slow
@pytest.mark.parametrize("module", [img2img, img2img.lab], ids=lambda module: module.__name__)
def test_the_reference_has_every_public_name_and_argument(pages, module):
    path = next(path for path, one in pages.python_reference.PAGES.items() if one is module)
    text = pages.python_reference.page(path)
    parts = {part.split("\n", 1)[0]: part for part in text.split("\n## ")[1:]}
    elsewhere = set(re.findall(r"`img2img\.lab\.(\w+)` is", text))
    assert set(parts) | elsewhere == set(module.__all__) and "..." not in parts
    for name in parts:
        value = getattr(module, name)
        if callable(value) and not issubclass(type(value), type(sys)):
            assert inspect.getdoc(value).split("\n")[0].split("`")[0].strip() in parts[name].replace("\\", ""), name
            is_error = isinstance(value, type) and issubclass(value, Exception)  # some have no signature
            arguments = () if is_error else inspect.signature(value).parameters
            assert [argument for argument in arguments if argument not in parts[name]] == [], name
    if module is img2img:
        assert "| `lr` |" not in parts["train"] and "| `seed` |" in parts["train"]  # an option of some, one of all
        assert "Annotated" not in text and "object at 0x" not in text


@pytest.mark.slow
def test_the_reference_has_every_command_and_option(pages, command_line):
    text = pages.command_reference.page()
    parts = {part.split("\n", 1)[0]: part for part in text.split("\n## ")[1:]}
    _, told, _ = command_line("translate", "--help")
    assert set(re.findall(r"--[a-z][a-z-]+", told)) - {"--help"} <= set(re.findall(r"--[a-z-]+", parts["translate"]))
    assert {"train", "equalize fit", "report merge", "doctor"} <= set(parts)
