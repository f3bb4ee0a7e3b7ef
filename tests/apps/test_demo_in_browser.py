"""The demo in a real browser: by keyboard alone, at the width of a phone, by its links, and asked for too much."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import mlflow
import pytest
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webdriver import WebDriver
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait
from support import make_model_store, show_as, steered_browser

from nanogpt.apps import demo
from nanogpt.apps.demo import LISTED, create_server
from nanogpt.config import Config
from nanogpt.model.checkpoint import Checkpoint
from nanogpt.model.generate import generate
from nanogpt.text.corpus import Corpus
from nanogpt.tracking import registry
from nanogpt.training.loop import train

DOMAINS = ("shakespeare", "math")
CONTROLS = 10        # prompt, three numbers, three examples, slider, play, link
PHONE = 390
LEAST_TO_TAP = 24      # pixels, WCAG 2.2 AA


@pytest.fixture(scope="module")
def trainings(checkpoints: list[Checkpoint], corpora: dict[str, Corpus], tiny_config: Config) -> list[list[Checkpoint]]:
    """First, middle and last checkpoint of each domain's training."""
    math = [record.checkpoint for record in train(corpora["math"], tiny_config) if record.checkpoint]
    return [[each[0], each[len(each) // 2], each[-1]] for each in (checkpoints, math)]


@pytest.fixture(scope="module")
def address(trainings: list[list[Checkpoint]], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of a demo of the two trainings."""
    mlflow.set_tracking_uri(make_model_store(tmp_path_factory.mktemp("demo"), *trainings))
    demo.opened.cache_clear()       # by names that another test's store has too
    server = create_server(registry.catalogue(), 0)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.port}/"
    server.shutdown()
    thread.join()
    demo.opened.cache_clear()
    mlflow.set_tracking_uri(None)


@pytest.fixture(scope="module")
def browser() -> Iterator[WebDriver]:
    with steered_browser() as browser:
        yield browser


class Demo:
    """What a person sees of the page, and the keys that are pressed."""

    def __init__(self, browser: WebDriver, address: str) -> None:
        self.browser = browser
        browser.get("about:blank")      # an address that differs behind # alone would not be loaded anew
        browser.get(address)
        self.wait_for(self.is_whole)

    def wait_for(self, condition: Callable[[], object]) -> None:
        WebDriverWait(self.browser, 20, poll_frequency=0.05).until(lambda _: condition())

    def script(self, code: str) -> Any:
        return self.browser.execute_script(f"return {code}")

    def is_whole(self) -> bool:
        return bool(self.script("document.querySelector('.columns').ariaBusy === 'false'"))

    def press(self, *keys: str) -> None:
        for key in keys:
            self.browser.switch_to.active_element.send_keys(key)

    def in_sight(self, selector: str) -> list[WebElement]:
        return [found for found in self.browser.find_elements("css selector", selector) if found.is_displayed()]

    def texts(self, selector: str) -> list[str]:
        return list(self.script(f"[...document.querySelectorAll('{selector}')].map(found => found.textContent)"))

    def focused_column(self) -> str | None:
        found = self.script("document.activeElement.closest('article')?.dataset.domain ?? null")
        return str(found) if found else None


def test_a_column_is_one_tab_stop_and_arrow_keys_move_inside_it(browser: WebDriver, address: str) -> None:
    page = Demo(browser, address)
    stops = []
    for _ in range(CONTROLS + len(DOMAINS)):
        page.press(Keys.TAB)
        stops.append(page.focused_column())
    assert stops == [None] * CONTROLS + list(DOMAINS)
    place = "[...document.activeElement.parentElement.children].indexOf(document.activeElement)"
    length = len(page.texts("article .text")[-1])
    bars = page.texts(".bars")
    shaded = "[...document.querySelectorAll('article:last-child .text span')].filter(found => found.style.background)"
    assert page.script("document.querySelectorAll('.bar').length") == LISTED * len(DOMAINS)
    assert 0 < page.script(shaded + ".length") < length
    assert page.script(place) == length - 1
    page.press(Keys.ARROW_LEFT, Keys.ARROW_LEFT)
    assert page.script(place) == length - 3 and page.texts(".bars")[-1] != bars[-1]
    assert page.texts(".bars")[:-1] == bars[:-1], "the other column stays"
    page.press(Keys.HOME, Keys.ARROW_LEFT)
    first = page.script(place)
    page.press(Keys.ARROW_RIGHT)
    assert page.script(place) == first + 1
    page.press(Keys.END, Keys.ARROW_RIGHT)
    assert page.script(place) == length - 1
    assert len(page.browser.find_elements("css selector", "article [tabindex='0']")) == len(DOMAINS)
    assert page.browser.get_log("browser") == []  # type: ignore[no-untyped-call]


def test_examples_slider_and_play_work_by_keyboard(browser: WebDriver, address: str,
                                                   trainings: list[list[Checkpoint]]) -> None:
    page = Demo(browser, address + "#characters=8")
    assert page.script("document.querySelector('textarea').value") == "ROMEO:"
    page.press(*[Keys.TAB] * 6, Keys.ENTER)
    page.wait_for(lambda: all(text.startswith("Let x be") for text in page.texts("article .text")))
    steps = [checkpoint.step for checkpoint in trainings[0]]
    page.wait_for(page.is_whole)
    page.press(Keys.TAB, Keys.TAB, Keys.ARROW_LEFT)
    page.wait_for(lambda: page.texts("h2 span") == [f"step {steps[-2]}"] * 2)
    page.press(Keys.HOME)
    page.wait_for(lambda: page.texts("h2 span") == [f"step {steps[0]}"] * 2)
    page.press(Keys.TAB, Keys.SPACE)
    seen = set()
    page.wait_for(lambda: seen.update(page.texts("h2 span")) or (
        page.texts("h2 span") == [f"step {steps[-1]}"] * 2 and page.texts("[name=play]") == ["Play training"]))
    assert seen | set(page.texts("h2 span")) == {f"step {step}" for step in steps}
    (written,) = generate(trainings[1][-1].build(), trainings[1][-1].vocabulary, ["Let x be"], 8)
    assert page.texts("article .text")[1] == "Let x be" + written


def test_a_link_holds_what_was_asked(browser: WebDriver, address: str, trainings: list[list[Checkpoint]]) -> None:
    checkpoint = trainings[0][1]
    page = Demo(browser, f"{address}#prompt=To%20be%0A&step={checkpoint.step}&seed=7&characters=12")
    (written,) = generate(checkpoint.build(), checkpoint.vocabulary, ["To be\n"], 12, seeds=7)
    assert page.texts("article .text")[0] == "To be\n" + written
    asked = parse_qs(urlsplit(page.script("document.getElementById('link').href")).fragment)
    assert asked == {"prompt": ["To be\n"], "step": [str(checkpoint.step)], "seed": ["7"], "characters": ["12"],
                     "temperature": ["0.8"]}
    page.browser.execute_script("location.hash = 'prompt=O'")
    page.wait_for(lambda: all(text.startswith("O") for text in page.texts("article .text")))


def test_the_prompt_reads_like_the_domain_whose_model_pays_least(browser: WebDriver, address: str) -> None:
    for prompt in ("ROMEO:", "the polynomial equation"):
        page = Demo(browser, f"{address}#characters=0&prompt={prompt}")
        bits = dict(zip(DOMAINS, (float(text.split()[1]) for text in page.texts(".bits")), strict=True))
        (told,) = page.texts("#likeness")
        best = min(bits, key=lambda name: bits[name])
        assert f"reads most like {best}: {bits[best]:.2f} bits per byte" in told
    page = Demo(browser, f"{address}#prompt=")
    assert page.texts("#likeness") == [""] and page.texts(".bits") == ["", ""]


def test_an_error_stands_in_one_place_and_goes_when_it_is_mended(browser: WebDriver, address: str) -> None:
    page = Demo(browser, address)
    before = page.texts("article .text")
    assert not page.in_sight("#error")
    page.browser.execute_script("location.hash = 'characters=501'")
    page.wait_for(lambda: page.in_sight("#error"))
    assert page.texts("#error") == ["characters must be in [0, 500], got 501"]
    assert "must be" not in page.script("document.querySelector('.columns').textContent")
    assert page.texts("article .text") == before
    page.browser.execute_script("location.hash = 'characters=5'")
    page.wait_for(lambda: not page.in_sight("#error"))


def test_on_a_phone_nothing_is_cut_off_and_controls_can_be_tapped(browser: WebDriver, address: str) -> None:
    for scheme, color in (("light", "rgb(255, 255, 255)"), ("dark", "rgb(21, 24, 28)")):
        show_as(browser, PHONE, scheme)
        page = Demo(browser, address + "#characters=8&prompt=" + "w" * 200)
        assert page.script("[innerWidth, document.documentElement.scrollWidth]") == [PHONE, PHONE]
        wide = page.script("[...document.body.querySelectorAll('*')].filter(found => "
                           f"found.getBoundingClientRect().right > {PHONE}).map(found => found.outerHTML)")
        assert wide == []
        small = [control.get_attribute("outerHTML") for control in page.in_sight("button, input, textarea")
                 if control.size["height"] < LEAST_TO_TAP]
        assert small == []
        assert page.script("getComputedStyle(document.body).backgroundColor") == color
    page.in_sight("[data-prompt='ROMEO:']")[0].click()
    page.wait_for(lambda: page.texts("article .text")[1].startswith("ROMEO:"))
