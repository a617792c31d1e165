"""The page of the server in a browser: drop, slide, download, phone, keyboard. `scripts/browser` installs one.

With BROWSER_PICTURES=FOLDER, pictures of the page are also written there, to look at.
"""

import base64
import io
import os
import shutil
import threading
import zipfile
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import tifffile
from helpers import axe_rules, runs_to_serve, wait_until
from PIL import Image

import img2img
from img2img.serve.models import open_models
from img2img.serve.options import ServeOptions

MISSING = "needs {}, which `scripts/browser` installs"
selenium = pytest.importorskip("selenium", reason=MISSING.format("selenium"))
pytest.importorskip("fastapi")
chromium, chromedriver = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (chromium and chromedriver), reason=MISSING.format("chromium and its driver")),
]
WIDTHS = {"phone": 390, "desktop": 1280}
TOKEN = "a-token-of-some-length"
DROP = """
const [target, names] = arguments, transfer = new DataTransfer();
for (const [name, text] of names)
  transfer.items.add(new File([Uint8Array.from(atob(text), c => c.charCodeAt(0))], name));
for (const kind of ["dragenter", "dragover", "drop"])
  target.dispatchEvent(new DragEvent(kind, {dataTransfer: transfer, bubbles: true, cancelable: true}));
"""

SHARE = "return document.querySelector('#stage').style.getPropertyValue('--share')"
SLIDE = "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input'))"


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return runs_to_serve(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def address(models):
    yield from served(models)


def served(models, **options):
    from img2img.serve.app import Service
    from img2img.serve.server import listening, private_folder, run, server_of

    chosen = ServeOptions(port=0, **options)
    with closing(listening(chosen)) as listener, private_folder() as folder:
        service = Service(open_models(models, device="cpu", precision="fp32", backend="auto"), chosen, folder)
        server, ready = server_of(service), threading.Event()
        thread = threading.Thread(target=run, args=(service, server, listener, lambda _: ready.set()))
        thread.start()
        assert ready.wait(30)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        server.stop()
        thread.join(30)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A photo, a stack of 16 bits, and a file that is no image."""
    folder = tmp_path_factory.mktemp("pictures")
    y, x = np.mgrid[:120, :160]
    colours = np.stack([128 + 100 * np.sin(x / 9), 128 + 100 * np.cos(y / 7), 128 + 60 * np.sin((x + y) / 5)], 2)
    Image.fromarray(colours.astype(np.uint8)).save(folder / "photo.jpg")
    stack = [np.stack([2000 + 1500 * np.sin(x / (9 + p)), 500 + 400 * np.cos(y / 9)], 2) for p in range(2)]
    tifffile.imwrite(
        folder / "deep.tif", np.array(stack).astype(np.uint16), photometric="minisblack", planarconfig="contig"
    )
    (folder / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(50))
    return folder


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    from selenium.webdriver import Chrome, ChromeOptions, ChromeService

    options = ChromeOptions()
    options.binary_location = str(chromium)
    for argument in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "disable-gpu", "hide-scrollbars"):
        options.add_argument(f"--{argument}")
    options.add_argument("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = Chrome(options=options, service=ChromeService(chromedriver))
    driver.downloads = tmp_path_factory.mktemp("downloads")
    driver.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(driver.downloads)})
    yield driver
    driver.quit()


def seen_as(browser, scheme=None):
    """Emulate the light or the dark mode of the system."""
    features = [{"name": "prefers-color-scheme", "value": scheme}] if scheme else []
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def resized(browser, width):
    size = {"width": width, "height": 844, "deviceScaleFactor": 2 if width < 500 else 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def opened(browser, address, width=1280):
    """Open the page anew, at a width."""
    resized(browser, width)
    browser.get_log("browser")
    browser.get(address)
    wait_until(lambda: find(browser, "#choices").is_displayed() or find(browser, "#key").is_displayed())


def find(browser, selector):
    return browser.find_element("css selector", selector)


def choose(browser, name, value):
    from selenium.webdriver.support.ui import Select

    Select(find(browser, f"#{name}")).select_by_visible_text(value)


def drop(browser, *paths):
    """Drop files on the page, and wait for the results."""
    files = [[path.name, base64.b64encode(path.read_bytes()).decode()] for path in paths]
    browser.execute_script(DROP, find(browser, "#drop"), files)
    finished(browser)


def finished(browser):
    wait_until(lambda: find(browser, "#state").is_displayed() and not find(browser, "#stop").is_displayed(), 60)


def shown(browser, selector):
    """Wait for an image, and return its width in pixels."""
    script = "const i = document.querySelector(arguments[0]); return i.complete ? i.naturalWidth : 0"
    wait_until(lambda: browser.execute_script(script, selector) > 0)
    return browser.execute_script(script, selector)


def downloaded(browser, name):
    path = browser.downloads / name
    wait_until(lambda: path.exists() and path.stat().st_size)  # the browser makes an empty file first
    content = path.read_bytes()
    path.unlink()
    return content


def keep(browser, name):
    if folder := os.environ.get("BROWSER_PICTURES"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        picture = browser.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True})["data"]
        (Path(folder) / f"serve_{name}.png").write_bytes(base64.b64decode(picture))


def test_drop_slide_download(browser, address, pictures, models, tmp_path):
    opened(browser, address)
    drop(browser, pictures / "photo.jpg", pictures / "bad.png")
    assert find(browser, "#progress").text == "1 of 2 done, 1 failed"
    assert "bad.png is truncated." in find(browser, ".failed .what").text
    assert shown(browser, "#before") == shown(browser, "#after") == 160
    browser.execute_script(SLIDE, find(browser, "#slider"), 20)
    edge, image = (find(browser, f"#{name}").rect for name in ("edge", "after"))
    assert abs(edge["x"] + edge["width"] - image["x"] - 0.2 * image["width"]) < 2
    img2img.translate(models[0], pictures / "photo.jpg", tmp_path, device="cpu", precision="fp32")
    find(browser, ".done .get").click()
    assert downloaded(browser, "photo.jpg") == (tmp_path / "photo.jpg").read_bytes()
    find(browser, "#files").send_keys(str(pictures / "photo.jpg"))  # the same once more
    finished(browser)
    find(browser, "#save").click()
    with zipfile.ZipFile(io.BytesIO(downloaded(browser, "results.zip"))) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["photo.jpg", "photo (2).jpg"]
        assert {archive.read(name) for name in archive.namelist()} == {(tmp_path / "photo.jpg").read_bytes()}
    keep(browser, "photo")
    assert [entry for entry in browser.get_log("browser") if "422" not in entry["message"]] == []


def test_16_bits_are_shown_and_kept(browser, address, pictures, models, tmp_path):
    opened(browser, address)
    choose(browser, "model", "deep")
    browser.execute_script("document.querySelector('#seed').value = 3")
    drop(browser, pictures / "deep.tif")
    assert shown(browser, "#before") == shown(browser, "#after") == 160
    wait_until(lambda: "uint16, 2 channels, page 0 of 0 to 1" in find(browser, "#facts").text)
    find(browser, "#show").send_keys("1\t")
    wait_until(lambda: "Shown: channels 1, black 100" in find(browser, "#facts").text)
    img2img.translate(models[1], pictures / "deep.tif", tmp_path, device="cpu", precision="fp32", seed=3)
    find(browser, ".done .get").click()
    assert downloaded(browser, "deep.tif") == (tmp_path / "deep.tif").read_bytes()
    keep(browser, "16_bits")
    assert browser.get_log("browser") == []


def test_draw(browser, address):
    opened(browser, address)
    choose(browser, "model", "drawn")
    choose(browser, "label", "y")
    find(browser, "#go").click()
    finished(browser)
    assert find(browser, "#progress").text == "4 of 4 done"
    names = [element.text for element in browser.find_elements("css selector", ".name")]
    assert names == [f"drawn_y_seed_{k}" for k in range(4)]
    assert shown(browser, "#after") == 8 and not find(browser, "#slider").is_displayed()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_it_fits_and_can_be_read(browser, address, pictures, width, scheme):
    seen_as(browser, scheme)
    opened(browser, address, width)
    long = pictures / f"{'a_long_name_' * 12}.jpg"
    shutil.copy(pictures / "photo.jpg", long)
    drop(browser, long, pictures / "bad.png", pictures / "deep.tif")
    shown(browser, "#after")
    keep(browser, f"{width}_{scheme}")
    inner, scroll = browser.execute_script("return [innerWidth, document.documentElement.scrollWidth]")
    assert inner == width and scroll <= inner
    contrast = browser.execute_script(
        """const light = c => { const [r, g, b] = c.match(/[\\d.]+/g).map(x => (x /= 255) <= .04045 ? x / 12.92 :
          ((x + .055) / 1.055) ** 2.4); return .2126 * r + .7152 * g + .0722 * b };
        const behind = e => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor;
          if (c !== "rgba(0, 0, 0, 0)") return c } };
        const ratio = e => { const [a, b] = [light(getComputedStyle(e).color), light(behind(e))];
          return (Math.max(a, b) + .05) / (Math.min(a, b) + .05) };
        return [...document.querySelectorAll("h1, p, label, button, .name, .what, a")].filter(e => e.offsetParent &&
          e.textContent.trim() && ratio(e) < 4.5).map(e => e.outerHTML.slice(0, 60))"""
    )
    assert contrast == []
    unnamed = browser.execute_script(
        """return [...document.querySelectorAll("button, input, select, a[href]")].filter(e => e.offsetParent &&
        !(e.textContent.trim() || e.labels?.length || e.ariaLabel)).map(e => e.outerHTML.slice(0, 80))"""
    )
    assert unnamed == []
    seen_as(browser)


def test_axe_finds_nothing(browser, address, pictures):
    check, found = axe_rules(), []

    def every_look(state):
        for scheme in ("light", "dark"):
            seen_as(browser, scheme)
            for width in WIDTHS.values():
                resized(browser, width)
                found.extend((state, scheme, width, rule) for rule in check(browser))
        seen_as(browser)

    opened(browser, address)
    every_look("empty")
    drop(browser, pictures / "photo.jpg", pictures / "bad.png")
    shown(browser, "#after")
    every_look("a result and a failure")
    choose(browser, "model", "deep")
    drop(browser, pictures / "deep.tif")
    find(browser, "li:last-child .open").click()
    wait_until(lambda: "uint16" in find(browser, "#facts").text)
    every_look("16 bits")
    choose(browser, "model", "drawn")
    browser.execute_script("document.querySelector('#key').hidden = false")
    every_look("noise and token")
    assert found == []


def test_keyboard_alone(browser, address, pictures):
    from selenium.webdriver import ActionChains, Keys

    opened(browser, address)
    find(browser, "#files").send_keys(str(pictures / "photo.jpg"))
    finished(browser)
    shown(browser, "#after")
    reached = []
    for _ in range(30):
        ActionChains(browser).send_keys(Keys.TAB).perform()
        focused = browser.switch_to.active_element
        reached.append(focused.get_attribute("id") or focused.get_attribute("class"))
        if reached[-1] == "slider":
            ActionChains(browser).send_keys(Keys.ARROW_RIGHT * 5).perform()
            wait_until(lambda: browser.execute_script(SHARE) == "55%")
        if reached[-1] == "get":
            ActionChains(browser).send_keys(Keys.ENTER).perform()
            break
    assert {"model", "direction", "pick", "pick-folder", "shoot", "save", "clear", "slider", "open", "get"} <= set(
        reached
    )
    assert downloaded(browser, "photo.jpg")


def test_the_token_is_asked_for_and_kept(browser, models, pictures):
    for address in served(models[:1], token=TOKEN):
        opened(browser, address)
        assert find(browser, "#key").is_displayed() and not find(browser, "#drop").is_displayed()
        find(browser, "#token").send_keys("a-wrong-one\n")
        wait_until(lambda: find(browser, "#about").text == "This server asks for a token.")
        find(browser, "#token").clear()
        find(browser, "#token").send_keys(f"{TOKEN}\n")
        wait_until(lambda: find(browser, "#drop").is_displayed())
        drop(browser, pictures / "photo.jpg")
        assert find(browser, "#progress").text == "1 of 1 done"
        opened(browser, address)
        wait_until(lambda: find(browser, "#drop").is_displayed())
