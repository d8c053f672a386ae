"""The comparison page as it looks and behaves in a browser."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from pipelines.browser import Page, browse, find_browser
from pipelines.pages import BLUE, CLOSING, EVIL, GREEN, RED, evil_page, folder, plain, save

from msr.pipelines.compare import compare


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    if find_browser() is None:
        pytest.skip("no Chromium or Chrome is installed")
    with browse(tmp_path_factory.mktemp("browser")) as tab:
        yield tab


def colours(page: Page) -> tuple[list[int], list[int]]:
    """The colours a quarter from the left and from the right edge of the stage."""
    x, y, width, height = page.box("#stage")
    shot = page.screenshot()
    row = round(y + height / 4)
    return tuple(shot[row, round(x + width * part)].astype(int).tolist() for part in (0.25, 0.75))


def near(seen: list[int], wanted: tuple[int, int, int]) -> bool:
    return max(abs(a - b) for a, b in zip(seen, wanted, strict=True)) <= 3


def test_stills_in_a_browser(page: Page, tmp_path: Path) -> None:
    a, b = plain(tmp_path / "a.png", RED), plain(tmp_path / "b.png", BLUE, (128, 96))
    page.open(compare(a, b, tmp_path / "page.html", plain(tmp_path / "r.png", GREEN)).path)
    left, right = colours(page)
    assert near(left, RED)
    assert near(right, BLUE)
    assert page.evaluate("document.getElementById('timebar').hidden")
    # The divider goes where the mouse takes it, and by keys.
    x, y, width, height = page.box("#stage")
    page.drag((x + width / 2, y + height / 2), (x + width * 0.9, y + height / 2))
    assert all(near(colour, RED) for colour in colours(page))
    page.evaluate("document.getElementById('stage').focus()")
    for _ in range(5):
        page.press("ArrowLeft")
    assert page.evaluate("Number(document.getElementById('split').value)") == pytest.approx(85, abs=1)
    page.evaluate("document.getElementById('split').focus()")
    page.press("Home")
    assert all(near(colour, BLUE) for colour in colours(page))
    page.press("x")
    page.wait("document.getElementById('rightname').textContent === 'A: a.png'")
    assert all(near(colour, RED) for colour in colours(page))
    page.evaluate("const choice = document.getElementById('right'); choice.value = 2; "
                  "choice.dispatchEvent(new Event('change'))")  # fmt: skip
    page.wait("document.getElementById('rightname').textContent === 'reference: r.png'")
    assert all(near(colour, GREEN) for colour in colours(page))
    assert page.errors == []


def test_the_smaller_picture_is_enlarged_pixelated_or_smooth(page: Page, tmp_path: Path) -> None:
    checks = (np.indices((8, 8)).sum(0) % 2 * 255).astype(np.uint8)
    a, b = save(tmp_path / "a.png", np.dstack([checks] * 3)), plain(tmp_path / "b.png", BLUE, (64, 64))
    page.open(compare(a, b, tmp_path / "page.html").path)
    rendering = "[...document.querySelectorAll('.layer img')].map((image) => getComputedStyle(image).imageRendering)"
    sizes = page.evaluate("[...document.querySelectorAll('.layer img')].map((i) => i.getBoundingClientRect().width)")
    assert sizes[0] == sizes[1] > 300
    assert page.evaluate(rendering) == ["pixelated", "pixelated"]
    x, y, width, height = map(round, page.box("#stage"))
    part = np.s_[y + height // 16 : y + height - height // 8, x + 4 : x + width // 2 - 30]
    sharp = page.screenshot()[part]
    page.press("s")
    assert page.evaluate(rendering) == ["auto", "auto"]
    smooth = page.screenshot()[part]
    between = [np.mean((shot > 40) & (shot < 215)) for shot in (sharp, smooth)]
    assert between[0] < 0.02
    assert between[1] > 0.3


def test_zoom_in_a_browser(page: Page, tmp_path: Path) -> None:
    pixels = np.zeros((400, 400, 3), np.uint8)
    pixels[:200, :200], pixels[200:, 200:] = RED, BLUE
    path = save(tmp_path / "a.png", pixels)
    page.open(compare(path, path, tmp_path / "page.html").path)
    width = "document.querySelector('#leftlayer img').getBoundingClientRect().width"
    page.click("[data-zoom='4']")
    assert page.evaluate(width) == pytest.approx(1600)
    assert page.evaluate("document.querySelector('[data-zoom=\"4\"]').getAttribute('aria-pressed')") == "true"
    page.evaluate("document.getElementById('stage').focus()")
    for _ in range(40):  # beyond the corner: it stays there
        page.press("ArrowLeft", shift=True)
        page.press("ArrowUp", shift=True)
    assert all(near(colour, RED) for colour in colours(page))
    x, y, *_ = page.box("#stage")
    page.drag((x + 500, y + 500), (x + 20, y + 20))
    page.drag((x + 500, y + 500), (x + 20, y + 20))
    page.drag((x + 500, y + 500), (x + 20, y + 20))
    assert all(near(colour, BLUE) for colour in colours(page))
    page.press("1")
    assert page.evaluate(width) == pytest.approx(400)
    page.press("+")
    assert page.evaluate(width) == pytest.approx(500)
    page.press("0")
    assert page.evaluate(width) == pytest.approx(page.box("#stage")[2])
    assert page.errors == []


def test_clips_in_a_browser(page: Page, tmp_path: Path) -> None:
    first = [(40 * index, 0, 200) for index in range(6)]
    second = [(0, 40 * index, 90) for index in range(6)]
    a, b = folder(tmp_path / "a", first), folder(tmp_path / "b", second)
    page.open(compare(a, b, tmp_path / "page.html", b).path, height=1400)
    cursor = "Number(document.querySelector('.chart .cursor').getAttribute('x1'))"
    start = page.evaluate(cursor)

    def assert_shown(number: int) -> None:
        page.wait(f"document.getElementById('stage').dataset.shown === '{number}'")
        left, right = colours(page)
        assert near(left, first[number])
        assert near(right, second[number])
        assert page.evaluate("document.getElementById('clock').value").startswith(
            f"frame {number + 1}, {number / 25:.3f}"
        )

    assert_shown(0)
    page.evaluate("document.getElementById('frame').focus()")
    page.press("ArrowRight")
    assert_shown(1)
    page.press("End")
    assert_shown(5)
    assert page.evaluate(cursor) > start + 600
    page.press(",")
    page.press(",")
    assert_shown(3)
    x, y, width, height = page.box(".chart")
    page.drag((x + width * 0.36, y + height / 2), (x + width * 0.36, y + height / 2))  # 0.07 of 0.2 s
    assert_shown(2)
    page.click("#play")
    page.wait("document.getElementById('stage').dataset.shown === '4'")
    page.click("#play")
    assert page.evaluate("document.getElementById('play').getAttribute('aria-pressed')") == "false"
    assert page.errors == []


def test_no_script_of_a_name_runs_and_nothing_is_asked_for(page: Page, tmp_path: Path) -> None:
    path = evil_page(tmp_path / "evil.html")
    page.open(path)
    assert page.evaluate("document.querySelectorAll('.layer img').length") == 2
    assert page.evaluate("document.getElementById('leftname').textContent") == EVIL
    assert page.evaluate("document.getElementById('rightname').textContent") == CLOSING
    assert page.evaluate("document.title") == EVIL + CLOSING
    assert page.errors == []
    asked = [url for url in page.requests if not url.startswith("data:image/")]
    assert asked == [path.absolute().as_uri()]
    # The page's policy stops what would get in nevertheless.
    assert page.evaluate("fetch('data:text/plain,x').then(() => 'fetched', () => 'refused')") == "refused"
