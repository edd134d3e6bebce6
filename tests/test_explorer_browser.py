"""The explorer in a browser: Chromium without a screen, driven by Selenium.

    apt-get install -y chromium chromium-driver     # Debian's; nothing else is downloaded
    python -m pytest -m slow tests/test_explorer_browser.py

With EXPLORER_SHOTS=DIR in the environment screenshots are left there, light and dark at both widths, to be looked at.
"""

import base64
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from explorer_page import DECADES, LOST, made, page, SCALES

from gflow import datasets, explorer

webdriver = pytest.importorskip("selenium.webdriver", reason="needs Selenium: install gflow[dev]")

from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.wait import WebDriverWait  # noqa: E402

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs Debian's packages chromium and chromium-driver"),
]
SWITCHES = (
    "headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking",
    "disable-component-update", "disable-sync",
)  # fmt: skip
SLIDERS = ("scale", "depth", "decades")
FIGURES = ("plane", "distances", "weights", "time")


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Addresses of the pages of two data sets, and what they show."""
    folder, written = tmp_path_factory.mktemp("pages"), {}
    for name in ("toy", "iris"):
        text, shown = page(name)
        file = folder / f"{name}.html"
        file.write_text(text, encoding="utf-8")
        written[name] = file.as_uri(), shown
    return written


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for switch in (*SWITCHES, f"user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(f"--{switch}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


def opened(browser, address, width=1280, scheme="light"):
    sized = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", sized)
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    browser.get_log("browser")
    browser.get(address)
    drawn = "return document.querySelector('#plane figcaption ~ svg').getBoundingClientRect().width > 0"
    WebDriverWait(browser, 20).until(lambda b: b.execute_script(f"{drawn} && innerWidth === {width}"))
    settle(browser)


def settle(browser):
    """Until what was asked for is on the screen."""
    browser.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")


def choose(browser, **places):
    for name, place in places.items():
        script = "const s = document.getElementById(arguments[0]); s.value = arguments[1]; "
        browser.execute_script(script + "s.dispatchEvent(new Event('input'));", name, int(place))
    settle(browser)


def state(browser):
    """Markup of the figures, and the text of the page."""
    drawn = "return document.querySelector(arguments[0] + ' figcaption ~ svg').innerHTML"
    figures = {name: browser.execute_script(drawn, f"#{name}") for name in FIGURES}
    texts = {name: browser.find_element(By.ID, name).text for name in ("sentence", "decades-value")}
    return figures | texts | {"table": browser.find_element(By.TAG_NAME, "table").text}


def test_loads_without_errors_or_requests(browser, pages):
    for address, _ in pages.values():
        for width in (1280, 400):
            opened(browser, address, width)
            assert browser.get_log("browser") == []
            assert browser.execute_script("return performance.getEntriesByType('resource').length") == 0
        for switch in SLIDERS:
            for place in (0, 99):
                choose(browser, **{switch: place})
        assert browser.get_log("browser") == []


@pytest.mark.parametrize("name", SLIDERS)
def test_sliders_by_keyboard(browser, pages, name):
    """Every step is another figure and another text; steps back give the same page."""
    opened(browser, pages["toy"][0])
    choose(browser, scale=2, depth=0, decades=3)
    slider = browser.find_element(By.ID, name)
    last = int(slider.get_attribute("max"))
    slider.send_keys(Keys.HOME)
    settle(browser)
    seen, said = [state(browser)], [slider.get_attribute("aria-valuetext")]
    for _ in range(last):
        slider.send_keys(Keys.ARROW_RIGHT)
        settle(browser)
        seen.append(state(browser))
        said.append(slider.get_attribute("aria-valuetext"))
    assert len(seen) == last + 1 > 1 and len(set(said)) == last + 1
    for what in ("plane", "distances", "weights", "time", "table"):
        # Samples may weigh the same at two points, but not everywhere.
        distinct = len({one[what] for one in seen})
        assert distinct == last + 1 if what in ("distances", "table") else distinct > last // 2, what
    slider.send_keys(Keys.ARROW_LEFT)
    settle(browser)
    assert state(browser) == seen[-2]
    slider.send_keys(Keys.HOME)
    settle(browser)
    assert state(browser) == seen[0]


def test_tab_visits_every_slider_and_shows_where_it_is(browser, pages):
    opened(browser, pages["toy"][0])
    visited = []
    for _ in SLIDERS:
        browser.switch_to.active_element.send_keys(Keys.TAB)
        focused = browser.switch_to.active_element
        visited.append(focused.get_attribute("id"))
        assert focused.accessible_name and focused.value_of_css_property("outline-style") == "solid"
    assert tuple(visited) == SLIDERS


def test_shows_the_numbers_of_the_dataset(browser, pages):
    address, shown = pages["toy"]
    opened(browser, address)
    for j, k in ((0, 0), (2, 3), (4, 5)):
        choose(browser, scale=j, depth=0, decades=k)
        at = shown.isel(depth=0, scale=j, decades=k)
        rows = browser.find_elements(By.CSS_SELECTOR, "table tr")
        told = {row.find_element(By.TAG_NAME, "th").text: row.find_element(By.TAG_NAME, "td").text for row in rows}
        told = {name.replace("\n", ""): value.replace("\n", "") for name, value in told.items()}
        assert float(told["γ = −log L"]) == pytest.approx(DECADES[k] * np.log(10), rel=1e-3)
        assert float(told["log10 t"].replace("−", "-")) == pytest.approx(float(at.log_time) / np.log(10), rel=1e-5)
        for head, name in (("distance to ℓ1 max margin", "distance_l1"), ("excess ℓ2 norm", "excess_l2")):
            number = float(told[head].replace("−", "-").rstrip("%").strip())
            assert number == pytest.approx(100 * float(at[name]), rel=6e-3)
        bars = browser.find_elements(By.CSS_SELECTOR, "#weights rect.bar")
        tracks = browser.find_elements(By.CSS_SELECTOR, "#weights rect.track")
        drawn = [float(bar.get_attribute("width")) / float(tracks[0].get_attribute("width")) for bar in bars]
        np.testing.assert_allclose(drawn, at.weights, atol=1e-5)


def test_point_of_the_flow_is_where_the_dataset_has_it(browser, pages):
    """Positions in the plane are an affine function of what is known."""
    address, shown = pages["toy"]
    opened(browser, address)
    drawn, known = [], []
    for k in range(2, DECADES.size):
        choose(browser, scale=2, depth=0, decades=k)
        marks = browser.find_elements(By.CSS_SELECTOR, "#plane figcaption ~ svg .mark.flow")
        drawn.append([float(v) for v in marks[-1].get_attribute("transform")[10:-1].split()])
        known.append(shown.place.values[0, 2, k])
    drawn, known = np.array(drawn), np.array(known)
    for axis in range(2):
        slope, start = np.polyfit(known[:, axis], drawn[:, axis], 1)
        np.testing.assert_allclose(drawn[:, axis], start + slope * known[:, axis], atol=0.2)
        assert slope * (1, -1)[axis] > 0


def test_flow_that_failed_is_a_gap_and_a_sentence(browser, pages):
    opened(browser, pages["toy"][0])
    depth, scale = LOST
    choose(browser, scale=scale, depth=depth, decades=5)
    assert "The run used up max_steps" in browser.find_element(By.ID, "failure").text
    assert browser.find_element(By.ID, "sentence").text == "The flow did not come to this accuracy."
    assert "1 of 10 flows ended" in browser.find_element(By.ID, "notes").text
    assert browser.find_elements(By.CSS_SELECTOR, "#distances figcaption ~ svg .mark") == []
    curve = browser.find_element(By.CSS_SELECTOR, "#distances figcaption ~ svg path.curve.l2").get_attribute("d")
    assert curve.count("L") == 2 and curve.count("M") == 1
    choose(browser, decades=2)
    assert "away" in browser.find_element(By.ID, "sentence").text
    choose(browser, scale=0)
    assert not browser.find_element(By.ID, "failure").is_displayed()


LEGIBLE = (Path(__file__).parent / "legible.js").read_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 400])
def test_legible(browser, pages, width, scheme):
    for name, (address, _) in pages.items():
        opened(browser, address, width, scheme)
        for scale, depth, decades in ((2, 0, 5), (0, 0, 0), (4, 1, 5), (3, 1, 2)):
            choose(browser, scale=scale, depth=depth, decades=decades)
            assert browser.execute_script(LEGIBLE) == [], (name, scale, depth, decades)
            if "EXPLORER_SHOTS" in os.environ:
                name_of_file = f"{name}-{width}-{scheme}-{scale}{depth}{decades}.png"
                shot(browser, Path(os.environ["EXPLORER_SHOTS"]) / name_of_file)
    dark = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (dark != "rgb(255, 255, 255)") == (scheme == "dark")


def shot(browser, file):
    picture = browser.execute_cdp_cmd("Page.captureScreenshot", {"format": "png", "captureBeyondViewport": True})
    file.write_bytes(base64.b64decode(picture["data"]))


@pytest.mark.parametrize(
    "case",
    [
        {"depths": [2], "scales": [1.0], "decades": np.array([10.0])},
        {"depths": [2], "scales": [1.0, 2.0], "decades": np.array([1.5, 1e14, 1e60])},
        {"X": np.array([[1.0], [2.0]]), "y": np.ones(2)},
    ],
    ids=["one point", "far losses", "one feature"],
)
def test_odd_grids_are_drawn(browser, tmp_path, case):
    toy = datasets.load("toy")
    case = {"X": toy.X, "y": toy.y} | case
    shown = explorer.contents(made(**case), case["X"], case["y"])
    file = tmp_path / "odd.html"
    file.write_text(explorer.page(shown, title="Odd", about="A test"), encoding="utf-8")
    opened(browser, file.as_uri(), 400)
    assert browser.execute_script(LEGIBLE) == [] and browser.get_log("browser") == []
    assert browser.execute_script("return document.body.innerHTML.includes('NaN')") is False
    for name in SLIDERS:
        slider = browser.find_element(By.ID, name)
        assert slider.is_enabled() == (shown.sizes[name] > 1)


def test_figures_follow_the_window(browser, pages):
    opened(browser, pages["toy"][0], 1280)
    drawn = "return document.querySelector('#plane figcaption ~ svg').viewBox.baseVal.width"
    wide = browser.execute_script(drawn)
    across = browser.find_element(By.ID, "distances").rect["y"] == browser.find_element(By.ID, "plane").rect["y"]
    sized = {"width": 400, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", sized)
    WebDriverWait(browser, 20).until(lambda b: b.execute_script(drawn) != wide)
    assert across and browser.execute_script(drawn) < 400 < wide
    assert browser.find_element(By.ID, "distances").rect["y"] > browser.find_element(By.ID, "plane").rect["y"]
    assert SCALES.size == int(browser.find_element(By.ID, "scale").get_attribute("max")) + 1
