"""The page as text: what is in it, what cannot get into it, how it reaches the disk."""

from __future__ import annotations

import base64
import html
import io
import os
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import soundfile
from markupsafe import escape
from PIL import Image

from ialcms.report.content import Bar, BarGroup, Chart, Figure, Interval, Report, Table
from ialcms.report.page import write_report

SAMPLE_RATE = 11_025
ATTACK = "<script>alert(1)</script>\" onload='alert(2)'"


class Elements(HTMLParser):
    """Collects (name, attributes) of all start tags."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


def write(path, *, title="run", max_bytes=30_000_000, **content) -> str:
    written = write_report(path, Report(title, SAMPLE_RATE, **content), max_bytes)
    assert written == Path(path)
    return written.read_text(encoding="utf-8")


@pytest.fixture
def page(tmp_path, make):
    example = make.example("violin", "flute", why="best")
    return write(
        tmp_path / "report.html", summary={"SDR": 10.234, "Split": "test"}, tables=[make.table()], examples=[example]
    )


def test_the_page_shows_what_it_was_given(page, make):
    text = html.unescape(re.sub(r"<[^>]*>", " ", page))
    for shown in ("run", "SDR", "10.23", "Split", "Per instrument", "Means in dB.", "Cello", "−1.50", "violin + flute",
                  "Best", "video_00_3", "Reference", "Estimate", "+9.0", "−1.5", "0.21 to 0.88"):  # fmt: skip
        assert shown in text, shown
    assert page.count('class="sound"') == 5  # the mix, and two sounds for each source
    assert page.index("Play mix") < page.index("Play reference of violin") < page.index("Play estimate of violin")


def test_names_from_data_cannot_become_markup(tmp_path, make):
    example = make.example(ATTACK, "flute", title=ATTACK)
    example = replace(example, sources=(replace(example.sources[0], clip=ATTACK, scores={ATTACK: 1.0}),))
    table = Table(ATTACK, (ATTACK, "SDR"), ((ATTACK, 1.0),), ATTACK)
    page = write(tmp_path / "a.html", title=ATTACK, summary={ATTACK: ATTACK}, tables=[table], examples=[example])
    elements = Elements(page).found
    assert [name for name, _ in elements].count("script") == 1  # the page's own
    assert not [attributes for _, attributes in elements if any(name.startswith("on") for name in attributes)]
    assert escape(ATTACK) in page
    assert "alert(1)</script>" not in page


def test_nothing_is_fetched(page):
    assert not re.search(r"https?:", page)
    elements = Elements(page).found
    targets = [value for _, attributes in elements for name, value in attributes.items()
               if name in ("src", "href", "data-sound", "srcset", "poster", "action")]  # fmt: skip
    assert len(targets) > 10
    assert all(target.startswith(("data:", "#")) for target in targets)
    assert "url(" not in page
    assert "@import" not in page
    policy = next(a["content"] for name, a in elements if name == "meta" and "http-equiv" in a)
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    assert not [1 for _, attributes in elements if "style" in attributes]  # the policy would block them


def test_the_embedded_sounds_are_the_given_ones_at_one_common_gain(tmp_path, make):
    example = make.example("violin", "flute")
    page = write(tmp_path / "a.html", examples=[example])
    encoded = re.findall(r'data-sound="data:audio/wav;base64,([^"]+)"', page)
    decoded = [soundfile.read(io.BytesIO(base64.b64decode(sound))) for sound in encoded]
    given = [example.mix]
    for source in example.sources:
        given += [source.reference, *source.estimates.values()]
    peak = max(np.abs(wave).max() for wave in given)
    assert len(decoded) == len(given)
    for (samples, rate), wave in zip(decoded, given):
        assert rate == SAMPLE_RATE
        np.testing.assert_allclose(samples, wave * 0.9 / peak, atol=1e-4)


def test_an_estimate_that_explodes_clips_and_leaves_the_others_audible(tmp_path, make):
    example = make.example("violin", "flute")
    loud = replace(example.sources[0], estimates={"Estimate": 1000 * example.sources[0].reference})
    page = write(tmp_path / "a.html", examples=[replace(example, sources=(loud, example.sources[1]))])
    mix = re.search(r'data-sound="data:audio/wav;base64,([^"]+)"', page).group(1)
    samples, _ = soundfile.read(io.BytesIO(base64.b64decode(mix)))
    assert np.abs(samples).max() > 0.2
    assert re.search(r"clips at \d+ samples", page)


def test_a_silent_source_is_shown_as_such(tmp_path, make):
    example = make.example("violin", "flute")
    silent = make.source(
        "flute", estimates={"Estimate": np.zeros_like(example.mix)}, scores=dict.fromkeys(("SDR", "SIR"), None)
    )
    page = write(tmp_path / "a.html", examples=[replace(example, sources=(example.sources[0], silent))])
    assert page.count("silent: no score") == 2
    assert "None" not in page
    assert page.count('class="sound"') == 5


def test_samples_that_are_no_numbers_are_named_and_not_played(tmp_path, make):
    example = make.example("violin", "flute")
    estimate = example.mix.copy()
    estimate[3:10] = np.nan
    broken = replace(example.sources[0], estimates={"Estimate": estimate}, scores={"SDR": float("nan")})
    page = write(tmp_path / "a.html", examples=[replace(example, sources=(broken, example.sources[1]))])
    assert f"7 of {estimate.size} samples are not finite" in page
    assert page.count('class="sound"') == 4


def test_gaps_in_tables_are_marked(page):
    gap = re.search(r'<td class="number missing kept">(.*?)</td>', page).group(1)
    assert "no value" in gap
    assert 'data-value="-1.5"' in page
    assert [a["aria-sort"] for _, a in Elements(page).found if "aria-sort" in a] == ["none"] * 3


def test_intervals_are_read_as_ranges_and_sorted_by_their_lower_end(tmp_path):
    table = Table("T", ("a", "SDR, 95%"), (("x", Interval(-1.5, 2.0)), ("y", None)), "")
    page = write(tmp_path / "a.html", summary={"SDR (dB)": Figure(3.0, Interval(-0.25, 4.0))}, tables=[table])
    assert '<td class="number" data-value="-1.5">\u22121.50 to 2.00</td>' in page
    assert '<dd>3.00</dd><dd class="note"><span class="unseen">95% interval </span>\u22120.25 to 4.00</dd>' in page


def test_facts_stand_in_the_header(tmp_path):
    facts = {"Checkpoint": "step 240", "Data set": ATTACK}
    page = write(tmp_path / "a.html", facts=facts)
    header = page[page.index("<header") : page.index("</header>")]
    assert "<dt>Checkpoint</dt><dd>step 240</dd>" in header
    assert f"<dt>Data set</dt><dd>{escape(ATTACK)}</dd>" in header


def bars_of(page: str) -> list[dict[str, str]]:
    """Attributes of the bars of the charts, legends aside."""
    found = [attributes for name, attributes in Elements(page).found if name == "rect"]
    return [attributes for attributes in found if attributes["width"] != "100%"]


def test_bars_are_as_long_as_their_values(tmp_path):
    groups = (
        BarGroup("violin", (Bar(6.0, Interval(4.0, 8.0)), Bar(-3.0))),
        BarGroup("flute", (Bar(None), Bar(float("inf"), Interval(1.0, float("inf"))))),
    )
    page = write(tmp_path / "a.html", charts=[Chart("SDR", "dB", ("A", "B"), groups, "")])
    first, second, *others = bars_of(page)  # the scale reaches from -4 to 8
    assert (first["x"], first["width"]) == ("33.33%", "50.00%")
    assert (second["x"], second["width"]) == ("8.33%", "25.00%")
    assert [bar["width"] for bar in others] == ["0.00%", "0.00%"]
    whiskers = [attributes for _, attributes in Elements(page).found if attributes.get("class") == "whisker"]
    assert [(line["x1"], line["x2"]) for line in whiskers] == [("66.67%", "100.00%")]
    text = re.sub(r"<[^>]*>", " ", page)
    assert re.search(r"violin\s+A:\s+6\.0\s+dB\s+B:\s+−3\.0\s+dB", text)
    assert re.search(r"flute\s+A:\s+no value\s+B:\s+∞", text)


def test_a_chart_without_any_value_is_drawn(tmp_path):
    page = write(tmp_path / "a.html", charts=[Chart("SDR", "dB", ("A",), (BarGroup("violin", (Bar(None),)),), "")])
    assert [bar["width"] for bar in bars_of(page)] == ["0.00%"]


def test_groups_need_a_bar_for_each_series(tmp_path):
    chart = Chart("SDR", "dB", ("A", "B"), (BarGroup("violin", (Bar(1.0),)),), "")
    with pytest.raises(ValueError, match="chart 'SDR': violin has 1 bars; give 2, one a series"):
        write(tmp_path / "a.html", charts=[chart])


def test_the_first_example_of_each_kind_is_unfolded(tmp_path, make):
    kinds = ("best", "best", "worst", "worst", "random")
    page = write(tmp_path / "a.html", examples=[make.example("violin", why=why) for why in kinds])
    assert ["open" in a for name, a in Elements(page).found if name == "details"] == [True, False, True, False, True]


def test_an_example_says_what_it_gained(tmp_path, make):
    example = make.example("violin", "flute", seed=0)  # SDRi 9.04 and 8.04
    page = write(tmp_path / "a.html", examples=[replace(example, label="mix 17")])
    assert "Example 1 · mix 17 · SDR improvement +8.5\u00a0dB" in page
    assert '<span class="gain">+8.5 dB</span>' in page


def test_pictures_are_small_and_keep_their_shape(tmp_path, make):
    source = make.source(picture=make.picture(0, 480, 960))
    page = write(tmp_path / "a.html", examples=[replace(make.example(), sources=(source,))])
    jpeg = re.search(r'data:image/jpeg;base64,([^"]+)"', page).group(1)
    assert Image.open(io.BytesIO(base64.b64decode(jpeg))).size == (432, 216)


def test_examples_that_do_not_fit_are_left_out_and_counted(tmp_path, make):
    examples = [make.example("violin", title=f"mix number {n}") for n in range(4)]
    two, four = (len(write(tmp_path / "a.html", examples=examples[:n]).encode()) for n in (2, 4))
    limit = two + 200  # two and the notice
    page = write(tmp_path / "a.html", examples=examples, max_bytes=limit)
    assert two < len(page.encode()) <= limit
    assert "mix number 1" in page
    assert "mix number 2" not in page
    assert "2 more examples are left out" in page
    whole = write(tmp_path / "a.html", examples=examples, max_bytes=four)
    assert "left out" not in whole
    only_tables = write(tmp_path / "a.html", examples=examples, tables=[make.table()], max_bytes=40_000)
    assert "4 more examples are left out" in only_tables
    assert 'class="example"' not in only_tables
    with pytest.raises(ValueError, match="max_bytes is 1000"):
        write(tmp_path / "a.html", max_bytes=1000)


def test_an_old_report_stays_when_the_new_one_cannot_be_written(tmp_path, make, monkeypatch):
    path = tmp_path / "new folder" / "report.html"
    before = write(path, title="first")

    def fail(source, target):
        assert len(Path(source).read_bytes()) > 1000  # the page is whole before it takes the old one's position
        raise OSError("disk went away")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(ValueError, match="disk went away"):
        write(path, title="second")
    assert path.read_text() == before
    assert os.listdir(path.parent) == ["report.html"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"why": "nice"}, "why is 'nice'; choose best, worst, random"),
        ({"sources": ()}, "has no sources"),
        ({"mix": np.zeros((2, 9), np.float32)}, "mix has shape"),
        ({"mix": np.zeros(7, np.float32)}, "violin: the reference has shape"),
    ],
)
def test_examples_that_do_not_fit_together_are_refused(tmp_path, make, change, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        write(tmp_path / "a.html", examples=[replace(make.example(title="one"), **change)])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"picture": np.zeros((9, 9, 3), np.float32)}, "the picture is float32"),
        ({"picture": np.zeros((3, 9, 9), np.uint8)}, "the picture is uint8 (3, 9, 9)"),
        ({"localisations": {"": np.zeros((1, 9, 9))}}, "the localisation has shape"),
        ({"localisations": {}}, "has no localisation"),
        ({"estimate_scores": {"B": {"SDR": 1.0}}}, "scores of 'B', which is none of its estimates"),
    ],
)
def test_pictures_of_another_kind_are_refused(tmp_path, make, change, message):
    example = replace(make.example(), sources=(make.source(**change),))
    with pytest.raises(ValueError, match=re.escape(message)):
        write(tmp_path / "a.html", examples=[example])


def test_tables_with_uneven_rows_are_refused(tmp_path):
    table = Table("Pairs", ("a", "b"), ((1, 2), (1, 2, 3)), "")
    with pytest.raises(ValueError, match="'Pairs': row 2 has 3 cells; give 2"):
        write(tmp_path / "a.html", tables=[table])


def test_a_column_to_keep_must_be_there(tmp_path):
    with pytest.raises(ValueError, match="'Pairs': 'c' is none of its columns"):
        write(tmp_path / "a.html", tables=[Table("Pairs", ("a", "b"), (), "", kept="c")])


def test_a_report_without_examples_says_so(tmp_path):
    assert "has no examples" in write(tmp_path / "a.html")
