"""The report in a real browser: its scripts run, it plays, what is cut off is said, and a phone shows all of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webdriver import WebDriver
from selenium.webdriver.support.wait import WebDriverWait
from support import show_as, steered_browser
from support.study_tables import DOMAINS, STEPS

from nanogpt.report.page import render
from nanogpt.report.plots.vector import Drawing
from nanogpt.report.tables import StudyTables

PHONE = 390
OUTSIDE = f"""return [...document.querySelectorAll("body *")].filter(found => !found.closest(".box, .sheet, .skip")
    && found.getBoundingClientRect().right > {PHONE}).map(found => found.outerHTML)"""
CUTS = """return [...document.querySelectorAll(".cut")].filter(note => note.checkVisibility()).map(note => {
    const box = note.previousElementSibling;
    return [box.scrollHeight > box.clientHeight + 1, box.scrollWidth > box.clientWidth + 1, note.textContent];
})"""


@pytest.fixture(scope="module")
def page(study: StudyTables, tiny_drawing: Drawing, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of the report's file."""
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(render(study, {"zero_shot_matrix": tiny_drawing}), "utf-8")
    return path.as_uri()


@pytest.fixture(scope="module")
def browser() -> Iterator[WebDriver]:
    with steered_browser() as browser:
        yield browser


def steps_shown(browser: WebDriver) -> set[str]:
    return set(browser.execute_script(
        "return [...document.querySelectorAll('#columns h3 span')].map(found => found.textContent)"))


def test_its_scripts_run_without_a_word_on_the_console(browser: WebDriver, page: str, tmp_path: Path) -> None:
    browser.get(page)
    assert browser.find_elements("css selector", "a.run[href='http://127.0.0.1:5000/#/experiments/1/runs/0a1b']")
    assert browser.get_log("browser") == []  # type: ignore[no-untyped-call]
    text = Path(page.removeprefix("file://")).read_text("utf-8")
    (tmp_path / "broken.html").write_text(text.replace("</body>", "<script>undefined.x</script></body>"), "utf-8")
    browser.get((tmp_path / "broken.html").as_uri())
    assert browser.get_log("browser"), "a fault is seen"  # type: ignore[no-untyped-call]


def test_it_plays_through_the_checkpoints_by_keyboard(browser: WebDriver, page: str) -> None:
    browser.get(page)
    assert steps_shown(browser) == {f"step {max(STEPS)}"}
    slider = browser.find_element("css selector", "[name=at]")
    slider.send_keys(Keys.ARROW_LEFT)
    assert steps_shown(browser) == {f"step {sorted(STEPS)[-2]}"}
    play, seen = browser.find_element("css selector", "[name=play]"), set[str]()
    play.send_keys(Keys.SPACE)
    WebDriverWait(browser, 20, poll_frequency=0.05).until(
        lambda _: seen.update(steps_shown(browser)) or play.text == "Play")
    assert seen | steps_shown(browser) == {f"step {step}" for step in STEPS}


def test_the_strip_holds_what_every_checkpoint_wrote_after_the_chosen_prompt(browser: WebDriver, page: str,
                                                                             study: StudyTables) -> None:
    browser.get(page)
    browser.find_element("css selector", "[name=prompt]").send_keys("math")
    rows = browser.execute_script("""return [...document.querySelectorAll("#strip tbody tr")].map(row =>
        [...row.querySelectorAll("pre")].map(found => found.textContent))""")
    table = study.table("generations").query("prompt_domain == 'math'")
    expected = table.pivot(index="step", columns="source", values="text")[list(DOMAINS)]
    assert rows == expected.to_numpy().tolist()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone_nothing_leaves_the_page_and_a_table_that_is_cut_off_says_so(browser: WebDriver, page: str,
                                                                                scheme: str) -> None:
    show_as(browser, PHONE, scheme)
    browser.get(page)
    browser.execute_script("for (const folded of document.querySelectorAll('details')) folded.open = true;")
    WebDriverWait(browser, 5).until(lambda _: any("Cut off" in note for *_, note in browser.execute_script(CUTS)))
    assert browser.execute_script("return [innerWidth, document.documentElement.scrollWidth]") == [PHONE, PHONE]
    assert browser.execute_script(OUTSIDE) == []
    cuts = browser.execute_script(CUTS)
    assert {(False, False), (False, True)} <= {(down, sideways) for down, sideways, _ in cuts}
    for down, sideways, note in cuts:
        assert ("down" in note, "sideways" in note, "Cut off" in note) == (down, sideways, down or sideways), note
