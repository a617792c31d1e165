"""Reports in a browser: on a phone, on a desktop, on paper. `scripts/browser` installs what it needs.

With BROWSER_PICTURES=FOLDER, the pages are also written there, as pictures and as PDF, to look at.
"""

import base64
import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import DONE, FACTS, axe_rules, full_folder, noise_rows, records, run_folder

from img2img.lab.judgement.case import Case
from img2img.lab.judgement.judge import evaluate
from img2img.lab.recommendation import Difference, Recommendation
from img2img.lab.synthetic import EFFECTS, expose, nuclei
from img2img.report.curves import WIDE
from img2img.report.run import write_report
from img2img.runs.facts import Progress, Report, RunFacts
from img2img.runs.folder import RunFolder

MISSING = "needs {}, which `scripts/browser` installs"
selenium = pytest.importorskip("selenium", reason=MISSING.format("selenium"))
chromium, chromedriver = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (chromium and chromedriver), reason=MISSING.format("chromium and its driver")),
]
WIDTHS = {"phone": 390, "desktop": 1280}


@pytest.fixture(autouse=True)
def blank_curves():
    """Draw them."""


def drawn_from_noise(root):
    folder = run_folder(root, "digits")
    write_report(RunFolder(folder), noise_rows(), Report(RunFacts(method="dcgan"), Progress(19, 30)))
    return folder


def long_names(root):
    folder = run_folder(root, "a_run_with_a_name_that_is_much_longer_than_a_phone_is_wide_" * 2)
    facts = replace(FACTS, notes={"a": "x" * 300, "training images": "y" * 200})
    write_report(RunFolder(folder), records(200), Report(facts, DONE))
    return folder


def equalized_plates(root):
    """The judgement of an equalizer, with two channels and long names of files."""
    rng = np.random.default_rng(0)
    plates = np.repeat(["plate 1", "plate 2"], 12)
    effects = {"plate 1": EFFECTS["A"], "plate 2": EFFECTS["B"]}
    images = [np.stack([expose(nuclei(rng, 64, 6)[0], effects[plate], rng) for _ in range(2)]) for plate in plates]
    brighter = [
        x if plate == "plate 1" else (x * 1.5).astype(np.uint16) for x, plate in zip(images, plates, strict=True)
    ]
    case = Case(
        images, batch=plates, reference="plate 1", scale=[[400, 4000]] * 2, channels=["DNA", "Actin"],
        group=[str(i // 2) for i in range(24)], control=[True] * 24,
        names=[f"{'folder/' * 12}{i}.tif" for i in range(24)],
    )  # fmt: skip
    evaluate({"tone": brighter}, case, judged="tone", notes=["y" * 200]).to_html(root / "report.html")
    return root


def checked_plates(root):
    """The check of many differences before a fit."""
    found = [Difference(f"plate {i}", "DNA", "brightness", -0.5, 0.1, True) for i in range(20)]
    wells = {f"plate {i}": 8 for i in range(20)}
    parts = {"cramers_v": 0.1, "told": None, "differences": found, "notes": ["x" * 300]}
    check = Recommendation(
        "tone", "the brightness differs", "plate 1", on_controls=True, wells=wells, images=wells, **parts
    )
    check.to_html(root / "report.html")
    return root


RUNS = {"full": full_folder, "noise": drawn_from_noise, "long": long_names}
PAGES = RUNS | {"equalized": equalized_plates, "checked": checked_plates}


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    return {name: make(tmp_path_factory.mktemp(name)) / "report.html" for name, make in PAGES.items()}


@pytest.fixture(scope="module")
def browser():
    from selenium.webdriver import Chrome, ChromeOptions, ChromeService

    options = ChromeOptions()
    options.binary_location = str(chromium)
    for argument in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "disable-gpu", "hide-scrollbars"):
        options.add_argument(f"--{argument}")
    options.add_argument("--host-resolver-rules=MAP * ~NOTFOUND")  # the browser itself is not to go out either
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = Chrome(options=options, service=ChromeService(chromedriver))
    yield driver
    driver.quit()


def opened(browser, path, width):
    """Opens a page at a width; returns the addresses that were asked for."""
    size = {"width": width, "height": 844, "deviceScaleFactor": 2 if width < 500 else 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get_log("performance"), browser.get_log("browser")
    browser.get(path.as_uri())
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    return [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]


def keep(name, data):
    if folder := os.environ.get("BROWSER_PICTURES"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / name).write_bytes(data)


def whole_page(browser):
    shot = browser.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True})
    return base64.b64decode(shot["data"])


@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
@pytest.mark.parametrize("run", PAGES)
def test_the_page_fits_and_needs_nothing_else(browser, reports, run, width):
    asked = opened(browser, reports[run], width)
    assert browser.get_log("browser") == []
    assert reports[run].as_uri() in asked
    assert all(url == reports[run].as_uri() or url.startswith("data:") for url in asked)
    inner, scroll = browser.execute_script("return [innerWidth, document.documentElement.scrollWidth]")
    assert inner == width and scroll <= inner
    beyond = browser.execute_script(
        """return [...document.querySelectorAll("body *")].filter(e => !e.closest(".wide") &&
        e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 80))"""
    )
    assert beyond == []
    images = browser.execute_script(
        "return [...document.images].map(i => [i.complete, i.naturalWidth, i.getBoundingClientRect().width, i.alt])"
    )
    assert (images or run == "checked") and all(
        complete and natural > 0 and shown > 50 and alt for complete, natural, shown, alt in images
    )
    keep(f"{run}_{width}.png", whole_page(browser))


@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_commands_can_be_read_whole(browser, reports, width):
    opened(browser, reports["full"], width)
    commands = browser.find_elements("css selector", "pre")
    assert [command.text.split()[1] for command in commands] == ["translate", "evaluate"]
    for command in commands:
        assert command.is_displayed() and command.size["height"] > 20
        assert browser.execute_script("return arguments[0].scrollWidth <= arguments[0].clientWidth", command)


def test_letters_of_curves_are_large_enough_on_a_phone(browser, reports):
    opened(browser, reports["full"], WIDTHS["phone"])
    widths = browser.execute_script(
        "return [...document.querySelectorAll('.panels:not(.earlier) img')].map(i => i.getBoundingClientRect().width)"
    )
    assert len(widths) == 5 and all(11 / 72 * width / WIDE > 9 for width in widths)  # letters of 11 points


def test_wide_tables_scroll_within_themselves(browser, reports):
    opened(browser, reports["full"], WIDTHS["phone"])
    wide = browser.execute_script(
        """return [...document.querySelectorAll(".numbers .wide")].map(e => [e.scrollWidth > e.clientWidth,
        getComputedStyle(e).overflowX, e.getBoundingClientRect().right <= innerWidth])"""
    )
    assert wide and all(overflow == "auto" and inside for _, overflow, inside in wide)
    assert any(scrolls for scrolls, _, _ in wide)


@pytest.mark.parametrize("run", ["full", "equalized", "checked"])
def test_axe_finds_nothing(browser, reports, run):
    check, found = axe_rules(), []
    for width in WIDTHS.values():
        opened(browser, reports[run], width)
        for scheme in ("light", "dark"):
            features = [{"name": "prefers-color-scheme", "value": scheme}]
            browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
            found.extend((width, scheme, rule) for rule in check(browser))
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert found == []


def test_it_prints(browser, reports):
    opened(browser, reports["full"], WIDTHS["desktop"])
    paper = {"paperWidth": 8.27, "paperHeight": 11.69, "printBackground": True}
    pdf = base64.b64decode(browser.execute_cdp_cmd("Page.printToPDF", paper)["data"])
    keep("full.pdf", pdf)
    assert pdf.startswith(b"%PDF-")
    assert 4 <= len(re.findall(rb"/Type\s*/Page\b", pdf)) <= 16
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        values = browser.execute_script(
            """const of = (what, name) => [...new Set([...document.querySelectorAll(what)].map(
                e => getComputedStyle(e)[name]))];
            return [of("figure", "breakInside"), of("pre", "whiteSpace"), of("nav", "display")]"""
        )
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    assert values == [["avoid"], ["pre-wrap"], ["none"]]
