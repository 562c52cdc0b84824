"""The report in a real browser: Debian's Chromium, headless, driven by Playwright."""

from __future__ import annotations

import math

import pytest

from ialcms.report.content import Bar, BarGroup, Chart, Interval, Report, Table
from ialcms.report.page import write_report
from tests.support.browser import CONTRASTS, chromium

SAMPLE_RATE = 11_025
SECONDS = 10.0
ATTACK = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def report(tmp_path_factory, make):
    columns = ("Instrument", "A column with a long title", *(f"Another long column {n}" for n in range(6)))
    endless = Table(
        "Endless",
        ("Clip", "SDR"),
        (("a", 3.0), ("b", math.inf), ("c", -math.inf), ("d", None), ("e", 12.0), ("f", math.inf), ("g", -2.0)),
        "",
    )
    wide = Table("Wide", columns, (("violin", *range(6), None),), "Scrolls in its own box.")
    scores = Table(
        "Long",
        ("instruments", "SDRi", "SDR", "SDR, 95% interval", "SIR", "SAR", "SIRi", "mixes"),
        (("acoustic guitar + saxophone", 7.77, 1.0, Interval(0.0, 2.0), 3.0, 4.0, 5.0, 12),),
        "",
        kept="SDRi",
    )
    names = ("violin", "a long name of an instrument", "flute")
    groups = [BarGroup(name, (Bar(4.0 - n, Interval(2.0 - n, 5.0 - n)), Bar(2.0 - n))) for n, name in enumerate(names)]
    report = Report(
        title="demo_run_" + "with_a_long_name_" * 4,
        sample_rate=SAMPLE_RATE,
        facts={"Evaluated": "1 May 2026", "Checkpoint": "step 100,000"},
        summary={"SDR (dB)": 10.2, "Mixes": 550},
        baselines=Table("Beside others", ("figures of", "SDR"), (("this run", 10.2), ("unprocessed mix", 0.1)), ""),
        charts=[Chart("SDR of each instrument", "dB", ("run A", "run B"), tuple(groups), "Means.")],
        tables=[make.table(), wide, endless, scores],
        examples=[
            make.example("violin", "flute", why="best", seconds=SECONDS),
            make.example(ATTACK, "clarinet", "an_instrument_with_a_long_name", why="worst", seconds=SECONDS, seed=3),
            make.example("flute", "clarinet", why="worst", seconds=1.0, seed=5),
        ],
    )
    return write_report(tmp_path_factory.mktemp("report") / "report.html", report)


@pytest.fixture
def open_page(browser, report):
    """Opens the report; afterwards nothing may have failed, been blocked or been asked of a network."""
    contexts, problems, requests = [], [], []

    def open_(**options):
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: problems.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: problems.append(f"error: {error}"))
        page.on("dialog", lambda dialog: (problems.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(report.as_uri())
        return page

    yield open_
    for context in contexts:
        context.close()
    assert not problems
    assert requests.pop(0) == report.as_uri()
    assert all(url.startswith(("data:", report.as_uri())) for url in requests)


def state(page) -> dict:
    return page.evaluate(
        """() => ({time: player.currentTime, duration: player.duration, paused: player.paused,
                   playing: [...document.querySelectorAll(".playing .play")].map((b) => b.dataset.what),
                   labels: [...document.querySelectorAll(".play")].map((b) => b.getAttribute("aria-label"))})"""
    )


def wait_until_heard(page, seconds: float) -> None:
    page.wait_for_function("(s) => !player.paused && player.currentTime > s", arg=seconds)


def test_everything_is_drawn_and_named(open_page):
    page = open_page()
    page.evaluate("scrollTo(0, document.body.scrollHeight)")
    missing = page.evaluate(
        """async () => {
            const images = [...document.images];
            await Promise.all(images.map((image) => image.decode()));
            const named = [...document.querySelectorAll("button, input")].map(
                (e) => e.getAttribute("aria-label") || e.textContent.trim());
            const ids = [...document.querySelectorAll("[id]")].map((e) => e.id);
            const refs = [...document.querySelectorAll("[aria-labelledby], [aria-controls]")].map(
                (e) => e.getAttribute("aria-labelledby") ?? e.getAttribute("aria-controls"));
            return {images: images.length, blank: images.filter((i) => !i.naturalWidth || !i.alt).length,
                    unnamed: named.filter((n) => !n).length, twice: ids.length - new Set(ids).size,
                    names: named.filter((n) => /^(Play|Position)/.test(n)),
                    dangling: refs.filter((id) => !document.getElementById(id)),
                    anchors: [...document.links].filter((a) => !document.querySelector(a.hash)).length};
        }"""
    )
    names = missing.pop("names")
    assert missing == {"images": 31, "blank": 0, "unnamed": 0, "twice": 0, "dangling": [], "anchors": 0}
    assert len(set(names)) == len(names) == 34  # a button and a slider for each of 17 sounds, with names of their own
    assert page.get_by_role("heading", level=1).inner_text().startswith("demo_run")
    assert page.get_by_role("main").count() == page.get_by_role("banner").count() == 1
    assert page.get_by_role("heading", name=ATTACK).first.is_visible()
    mix, *_, last = page.locator("#example-1 .surface").all()
    assert mix.bounding_box()["x"] == last.bounding_box()["x"]  # one time axis: the spectrograms are aligned
    axis = page.locator("#example-1 .axis-y").first.bounding_box()
    assert axis["height"] == pytest.approx(mix.bounding_box()["height"], abs=1)


def test_a_sound_plays_and_its_playhead_moves(open_page):
    page = open_page()
    button = page.get_by_role("button", name="Play estimate of flute, example 1")
    button.click()
    wait_until_heard(page, 0.3)
    now = state(page)
    assert now["duration"] == pytest.approx(SECONDS, abs=0.01)
    assert now["playing"] == ["estimate of flute, example 1"]
    page.wait_for_function(
        """() => { const figure = document.querySelector(".playing");
                   const [head, box] = [".playhead", ".surface"].map(
                       (s) => figure.querySelector(s).getBoundingClientRect());
                   return Math.abs((head.x - box.x) / box.width - player.currentTime / player.duration) < 0.03
                          && head.x > box.x + 10; }"""
    )
    page.get_by_role("button", name="Pause estimate of flute, example 1").click()
    assert state(page)["paused"]
    assert page.locator(".playing").count() == 0
    assert button.is_visible()


def test_only_one_sound_plays_and_switching_keeps_the_position(open_page):
    page = open_page()
    page.get_by_role("button", name="Play reference of violin, example 1").click()
    wait_until_heard(page, 0.5)
    before = state(page)["time"]
    page.get_by_role("button", name="Play estimate of violin, example 1").click()
    page.wait_for_function("() => player.readyState > 2 && !player.paused")
    now = state(page)
    assert now["playing"] == ["estimate of violin, example 1"]
    assert now["time"] >= before
    assert page.locator("audio").count() == 1
    page.get_by_role("slider", name="Position in mix, example 1").fill("5")  # aligned: moves the estimate too
    wait_until_heard(page, 5.0)
    page.get_by_role("button", name="Play mix, example 2").click()
    page.wait_for_function("() => player.readyState > 2 && !player.paused")
    assert state(page)["time"] < 4.0  # every example has its own position
    assert state(page)["playing"] == ["mix, example 2"]


def test_every_position_of_a_sound_can_be_reached(open_page):
    """Switching and jumping depend on it; Chromium fails at some positions of FLAC files."""
    page = open_page()
    page.get_by_role("button", name="Play mix, example 1").click()
    slider = page.get_by_role("slider", name="Position in mix, example 1")
    for seconds in (9.6, 0.4, 3.0, 8.1, 1.7, 9.0, 0.0, 6.3):
        slider.fill(str(seconds))
        page.wait_for_function("(s) => player.error || (!player.seeking && player.currentTime >= s)", arg=seconds)
        assert page.evaluate("player.error && player.error.message") is None


def test_a_sound_that_ends_starts_over(open_page):
    page = open_page()
    page.get_by_role("slider", name="Position in mix, example 1").fill("9.8")
    page.get_by_role("button", name="Play mix, example 1").click()
    page.wait_for_function("() => player.ended")
    page.wait_for_function("() => document.querySelector('#example-1 .time').textContent === '0.0 / 10.0 s'")
    assert state(page)["playing"] == []
    page.get_by_role("button", name="Play mix, example 1").click()
    page.wait_for_function("() => !player.paused && player.currentTime > 0.1 && player.currentTime < 8")


def test_players_work_with_the_keyboard_alone(open_page):
    page = open_page()
    page.get_by_role("button", name="Play mix, example 1").focus()
    page.keyboard.press("Space")
    wait_until_heard(page, 0.1)
    page.keyboard.press("Enter")
    assert state(page)["paused"]
    page.keyboard.press("Tab")
    slider = page.get_by_role("slider", name="Position in mix, example 1")
    assert slider.evaluate("(e) => e === document.activeElement")
    page.keyboard.press("End")
    page.keyboard.press("PageDown")  # a tenth of the length
    assert slider.get_attribute("aria-valuetext") == "9.0 of 10.0 seconds"
    assert state(page)["time"] == pytest.approx(9.0, abs=0.01)
    for keys, now in (
        (["Home", "ArrowRight", "ArrowRight", "ArrowUp"], 1.5),
        (["ArrowLeft"], 1.0),
        (["ArrowDown"] * 3, 0.0),
    ):
        for key in keys:
            page.keyboard.press(key)
        assert slider.get_attribute("aria-valuetext") == f"{now} of 10.0 seconds"
        assert state(page)["time"] == pytest.approx(now, abs=0.01)


def table_of(page):
    return page.get_by_role("table", name="Per instrument")


def rows_of(page) -> list[str]:
    return table_of(page).locator("tbody th").all_inner_texts()


def sorts_of(page) -> list[str]:
    return table_of(page).locator("thead th").evaluate_all("(a) => a.map((e) => e.ariaSort)")


def test_tables_sort_by_click(open_page):
    page = open_page()
    table = page.get_by_role("table", name="Per instrument")
    table.get_by_role("button", name="SDR").click()
    assert rows_of(page) == ["Cello", "violin", "flute", "erhu"]
    assert sorts_of(page) == ["none", "none", "descending"]
    assert page.get_by_role("status").inner_text() == "Sorted by SDR, descending"
    table.get_by_role("button", name="SDR").click()
    assert rows_of(page) == ["flute", "violin", "Cello", "erhu"]  # the gap stays at the end
    assert sorts_of(page) == ["none", "none", "ascending"]
    table.get_by_role("button", name="Mixes").click()
    assert rows_of(page) == ["erhu", "violin", "flute", "Cello"]  # 110 before 50: by number, not by text


def test_infinite_numbers_are_sorted(open_page):
    page = open_page()
    table = page.get_by_role("table", name="Endless")
    for expected in ("bfeagcd", "cgaebfd"):
        table.get_by_role("button", name="SDR").click()
        assert "".join(table.locator("tbody th").all_inner_texts()) == expected


def test_tables_sort_by_keyboard(open_page):
    page = open_page()
    page.get_by_role("table", name="Per instrument").get_by_role("button", name="Instrument").focus()
    page.keyboard.press("Enter")
    assert rows_of(page) == ["Cello", "erhu", "flute", "violin"]
    assert sorts_of(page) == ["ascending", "none", "none"]
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    assert rows_of(page) == ["erhu", "violin", "flute", "Cello"]
    assert sorts_of(page) == ["none", "descending", "none"]


def test_a_link_unfolds_its_example(open_page):
    page = open_page()
    folded = page.locator("#example-3")
    play = page.get_by_role("button", name="Play mix, example 3")
    assert not play.is_visible()
    assert folded.bounding_box()["height"] < 200
    page.locator(".links a").nth(2).click()
    assert play.is_visible()
    folded.locator("summary").click()
    assert not play.is_visible()


def test_the_heat_map_can_be_hidden(open_page):
    page = open_page()
    toggle = page.get_by_role("button", name="Heat map of violin")
    heat = page.get_by_role("img", name="Heat map of where the separator hears violin")
    picture = page.get_by_role("img", name="Picture of violin")
    assert heat.bounding_box() == picture.bounding_box()
    toggle.click()
    assert not heat.is_visible()
    assert picture.is_visible()
    assert toggle.get_attribute("aria-pressed") == "false"
    toggle.click()
    assert heat.is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_have_contrast(open_page, scheme):
    page = open_page(color_scheme=scheme)
    contrasts = page.evaluate(CONTRASTS)
    assert len(contrasts) > 100
    assert [found for found in contrasts if found[0] < 4.5] == []  # WCAG AA
    red = int(page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0]"))
    assert red > 200 if scheme == "light" else red < 50


def test_a_phone_scrolls_wide_tables_only_in_their_box(open_page):
    page = open_page(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    assert page.evaluate("visualViewport.width") == 360
    box = page.get_by_role("region", name="Wide")
    assert box.evaluate("(e) => e.scrollWidth > e.clientWidth")
    box.focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_function("(e) => e.scrollLeft > 0", arg=box.element_handle())
    scroll = page.get_by_role("region", name="Long", exact=True)
    kept = scroll.get_by_role("cell", name="7.77", exact=True)
    for column in ("SDRi", "SAR"):  # by whichever column the table is sorted
        scroll.get_by_role("button", name=column).click()
        scroll.evaluate("(e) => { e.scrollIntoView({behavior: 'instant', block: 'center'}); e.scrollLeft = 1000; }")
        assert scroll.evaluate("(e) => e.scrollLeft > 20")
        assert kept.evaluate("""(e) => { const box = e.getBoundingClientRect();
            return document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2) === e; }""")
        assert kept.bounding_box()["x"] + kept.bounding_box()["width"] < 300
    outside = page.evaluate(
        """() => [...document.querySelectorAll("button, input, img, h1, h3, dd")].filter(
            (e) => !e.closest(".scroll") && e.getBoundingClientRect().right > 360).length"""
    )
    assert outside == 0
    button = page.get_by_role("button", name="Play mix, example 1")
    assert min(button.bounding_box()["width"], button.bounding_box()["height"]) >= 44
    button.tap()
    wait_until_heard(page, 0.1)
