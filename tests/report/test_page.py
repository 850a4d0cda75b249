"""The report as a page: complete, escaped, small, and alive in a browser."""

import re
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tests import tiny
from tests.browser import Page, opened_browser
from tests.tiny import Case
from vae_anomaly.detector.card import Blocks
from vae_anomaly.detector.detector import Detector
from vae_anomaly.evaluation.metrics import detection_quality, precision_recall_points, realised_rates, roc_points
from vae_anomaly.evaluation.results import Comparison, Ranking
from vae_anomaly.evaluation.score_summary import ScoreSummary
from vae_anomaly.explain.contributions import Alarm
from vae_anomaly.report.content import Curves, ReasonInContext, Report, overview
from vae_anomaly.report.page import render
from vae_anomaly.schema.inference import Dropped
from vae_anomaly.schema.keys import read_labels

EVIL = "<script>alert(1)</script>"
ATTRIBUTE = '" onmouseover="alert(2)'
CASE = Case(kind="mixed", size="one", method="split", prior="exemplar")


def _evil(detector: Detector) -> Detector:
    """Give a detector names that try to be markup, wherever a user's text can come from."""
    names = {"flow": EVIL, "pressure": f"$x^2$ {ATTRIBUTE}", "mode": "</script><script>alert(3)</script>"}
    quality = tuple(replace(q, name=names.get(q.name, q.name)) for q in detector.quality)
    quality = tuple(replace(q, constant=EVIL) if q.constant else q for q in quality)
    columns = tuple(replace(c, name=names.get(c.name, c.name)) for c in detector.schema.columns)
    dropped = (Dropped(name=EVIL, reason="excluded"), Dropped(name="温度", reason="constant \N{PILE OF POO}"))
    card = replace(detector.card, source=(EVIL,), notes=(f"a note with {EVIL}",), created="2025-03-01T00:00:00+00:00")
    return replace(detector, quality=quality, schema=replace(detector.schema, columns=columns, dropped=dropped), card=card)


@cache
def _report(rows: int = 400, *, labelled: bool = True) -> Report:
    """Return a report with everything in it."""
    detector = replace(_evil(tiny.detector(CASE)), blocks=Blocks(rates=(0.0, 0.125), p_value=0.25))
    random = np.random.default_rng(0)
    threshold = detector.threshold
    normal = random.choice(threshold.calibration, rows)
    anomalous = threshold.calibration[-1] * random.uniform(0.5, 5.0, max(rows // 10, 20))
    gathering = ScoreSummary(threshold=threshold, worst_rows=10, source=f"{EVIL}.csv", time_column=EVIL)
    times = 1_740_787_200 + 60 * np.arange(rows)
    for kind, scores in (("normal", normal), ("anomalous", anomalous)) if labelled else (("rows", normal),):
        gathering.add(scores, threshold.flags(scores), kind=kind, times=times[: len(scores)])
    shown = (
        ReasonInContext(column=EVIL, value="99", expected="30", contribution=50.0, z=12.5, low=20.0, high=40.0),
        ReasonInContext(column=f"$x^2$ {ATTRIBUTE}", value="1e5", expected="1e5", contribution=5.0, low=9e4, high=1.1e5),
        ReasonInContext(column="</script><script>alert(3)</script>", value=EVIL, expected=f"{EVIL} (90%)", contribution=4.0),
    )
    alarm = Alarm(row=7, ids={EVIL: EVIL, "none": None, "label": EVIL}, score=77.0, p_value=0.01, reasons=shown)
    if not labelled:
        return _with_alarm(overview(detector, gathering, title=EVIL), alarm, shown)
    labels = read_labels(pa.array([EVIL, "leak"] * (len(anomalous) // 2)), ("normal",))
    rankings = (Ranking(name="PCA", auroc=0.9, average_precision=0.5), Ranking(name="vae-anomaly", auroc=0.8, average_precision=0.4))
    peers = Comparison(rankings=rankings, peer_rows=5, test_rows=9, words="PCA ranks better here: AUROC 0.9000, vae-anomaly 0.8000")
    curves = Curves(
        roc=roc_points(normal, anomalous),
        precision_recall=precision_recall_points(normal, anomalous),
        realised=realised_rates(normal, threshold),
        columns=tuple(q.name for q in detector.quality),
        by_label={EVIL: tuple(range(9)), "normal": (1.0,) * 9},
        rows=100,
    )
    quality = replace(detection_quality(normal, anomalous, threshold, labels, seed=0), comparison=peers)
    return _with_alarm(overview(detector, gathering, title=EVIL, quality=quality, curves=curves), alarm, shown)


def _with_alarm(report: Report, alarm: Alarm, reasons: tuple[ReasonInContext, ...]) -> Report:
    assert report.scored is not None
    return replace(report, scored=replace(report.scored, worst=((alarm, reasons),)))


@cache
def _page() -> str:
    return render(_report())


class _Outline(HTMLParser):
    """Collects tags with their attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


@cache
def _tags() -> list[tuple[str, dict[str, str | None]]]:
    outline = _Outline()
    outline.feed(_page())
    return outline.tags


def test_no_text_of_a_user_becomes_markup() -> None:
    assert [attributes.get("type") for tag, attributes in _tags() if tag == "script"] == ["application/json", None]
    assert EVIL not in _page()
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in _page()
    assert not [attributes for _, attributes in _tags() if any(name.startswith("on") for name in attributes)]


def test_nothing_is_asked_of_elsewhere() -> None:
    sources = [v for _, a in _tags() for name, v in a.items() if name in {"src", "href", "xlink:href", "action", "srcset"} and v]
    assert [v for v in sources if not v.startswith(("#", "data:"))] == []
    assert not re.search(r"@import|url\((?!#)", _page())
    assert "default-src 'none'" in _page()


def test_ids_are_unique_and_every_reference_has_one() -> None:
    ids = [a["id"] for _, a in _tags() if a.get("id")]
    assert len(ids) == len(set(ids))
    wanted = {r for _, a in _tags() for name in ("aria-labelledby", "aria-describedby", "for") for r in (a.get(name) or "").split()}
    wanted |= {(v or "")[1:] for _, a in _tags() for name, v in a.items() if name.endswith("href") and (v or "").startswith("#")}
    wanted |= set(re.findall(r"url\(#([^)]*)\)", _page()))
    assert wanted <= set(ids)


def test_headings_go_down_one_level_at_a_time_and_tables_have_heads() -> None:
    levels = [int(tag[1]) for tag, _ in _tags() if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    names = [tag for tag, _ in _tags()]
    assert names.count("table") == names.count("caption") == names.count("thead")
    assert {a.get("scope") for tag, a in _tags() if tag == "th"} == {"col", "row"}
    assert all(a.get("aria-label") and a.get("role") == "img" for tag, a in _tags() if tag == "svg")
    assert all(a.get("tabindex") == "0" for _, a in _tags() if a.get("class") == "scroll")


def test_the_page_says_what_there_is_to_say() -> None:
    text = re.sub(r"<[^>]+>", " ", _page())
    for words in (
        "at most 10 %".capitalize(),
        "In 2 consecutive segments of the calibration rows 0 % to 12.5 %",
        "PCA ranks better here: AUROC 0.9000, vae-anomaly 0.8000.",
        "few rows".capitalize(),
        "Highest score and number of alarms per 5 minutes",
        "温度",
    ):
        assert words in text, words


def test_the_same_report_is_the_same_page() -> None:
    assert render(_report()) == _page()


def test_the_page_stays_small_whatever_there_is() -> None:
    many = _report()
    long = "x" * 100_000
    columns = tuple(replace(q, name=f"{q.name}{long}") for q in many.columns) * 20
    dropped = (Dropped(name=long, reason=long),) * 200
    many = replace(many, columns=columns, left_out=dropped, cautions=(long,) * 5, title=long, facts=((long, long),) * 12)
    assert many.scored is not None
    alarm, reasons = many.scored.worst[0]
    rows = tuple((replace(alarm, row=i, ids={long: long, "label": long}), reasons) for i in range(10))
    many = replace(many, scored=replace(many.scored, worst=rows, source=long))
    assert len(render(many).encode()) < 2_000_000
    assert len(_page().encode()) < 700_000


@pytest.mark.parametrize("kind", ["model", "scored", "no alarm", "cross", "constant", "labels at fit"])
def test_less_to_show_makes_a_page_too(kind: str) -> None:
    report = _report(labelled=False)
    if kind == "model":
        report = overview(tiny.detector(CASE), ScoreSummary(threshold=tiny.detector(CASE).threshold, worst_rows=1), title="pump")
    elif kind == "no alarm":
        assert report.scored is not None
        report = replace(report, scored=replace(report.scored, worst=(), alarms=0, time_line=None, unscored=3))
    elif kind == "cross":
        detector = tiny.detector(Case(kind="numeric", size="one", method="cross", prior="standard"))
        report = overview(detector, ScoreSummary(threshold=detector.threshold, worst_rows=1), title="pump")
    elif kind == "constant":
        report = replace(report, columns=tuple(replace(q, r2=None) for q in report.columns), left_out=(), cautions=())
    elif kind == "labels at fit":
        quality = _report().quality
        assert quality is not None
        report = replace(_report(), scored=None, curves=None, quality=replace(quality, false_alarms=None, precision=None, comparison=None))
    page = render(report)
    assert ("Evaluation on labelled rows" in page) == (kind == "labels at fit")
    assert page.endswith("</html>")
    assert ("No row is flagged. 3 rows have no score" in page) == (kind == "no alarm")
    assert ("approximate" in page) == (kind == "cross")
    assert ("No column was left out." in page) == (kind in {"model", "cross", "constant"})


# In a browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Page]:
    with opened_browser() as page:
        yield page


@pytest.fixture
def shown(browser: Page, tmp_path: Path) -> Page:
    """Return the page in the browser, with nothing heard yet."""
    (tmp_path / "report.html").write_text(_page(), encoding="utf-8")
    browser.complaints.clear()
    browser.requests.clear()
    browser.open(tmp_path / "report.html")
    return browser


def test_a_browser_has_nothing_to_complain_of_and_asks_for_nothing(shown: Page) -> None:
    shown.ask("document.title")
    assert shown.complaints == []
    assert [url for url in shown.requests if not url.startswith(("file:", "data:"))] == []
    assert len([url for url in shown.requests if url.startswith("file:")]) == 1


def test_a_column_named_like_a_script_is_text(shown: Page) -> None:
    assert shown.ask("document.querySelector('h1').textContent") == EVIL
    assert EVIL in shown.ask("document.querySelector('#columns').parentElement.textContent")
    assert EVIL in shown.ask("[...document.querySelectorAll('svg text')].map(t => t.textContent).join('|')")
    assert shown.ask("document.scripts.length") == 2


def test_the_slider_changes_the_alarms_shown_by_mouse_and_by_key(shown: Page) -> None:
    steps = shown.ask("JSON.parse(document.getElementById('steps').textContent)")
    start = int(shown.ask("document.getElementById('alpha').value"))
    assert steps[start]["words"][0].startswith("alpha 10 %: rows above")

    def now() -> tuple[list[str], str, str]:
        words = shown.ask("[...document.querySelectorAll('#shown > b, #shown > span')].map(e => e.textContent)")
        return words, shown.ask("document.getElementById('alpha').getAttribute('aria-valuetext')"), shown.ask("marker.style.left")

    words, spoken, place = now()
    assert (words, spoken) == (steps[start]["words"], "; ".join(steps[start]["words"]))
    shown.ask("(function () { alpha.value = 0; alpha.dispatchEvent(new Event('input')); })()")
    strictest, _, right = now()
    assert strictest == steps[0]["words"] != words
    assert float(right.rstrip("%")) > float(place.rstrip("%"))  # a finer rate has a higher threshold
    shown.ask("alpha.focus()")
    shown.press("ArrowRight", 39)
    assert now()[0] == steps[1]["words"]
    assert shown.complaints == []


def test_the_marker_stands_where_the_axis_says(shown: Page) -> None:
    """Between the spines of the picture, and as high as they are."""
    box = shown.ask("(r => [r.left, r.right, r.top, r.bottom])(document.getElementById('marker').getBoundingClientRect())")
    axes = shown.ask("(r => [r.left, r.right, r.top, r.bottom])(document.getElementById('distribution-patch_2').getBoundingClientRect())")
    assert axes[0] <= box[0] <= box[1] + 1 <= axes[1] + 2
    assert box[2:] == pytest.approx(axes[2:], abs=2.5)  # matplotlib 3.10 draws half a pixel off 3.11


@pytest.mark.parametrize(("width", "dark"), [(390, False), (1280, True), (320, True)])
def test_no_width_scrolls_sideways_and_colours_can_be_told_apart(browser: Page, tmp_path: Path, width: int, dark: bool) -> None:  # noqa: FBT001
    (tmp_path / "report.html").write_text(_page(), encoding="utf-8")
    browser.complaints.clear()
    browser.open(tmp_path / "report.html", width=width, dark=dark)
    assert browser.ask("document.documentElement.scrollWidth") <= width
    for element in ("body", ".muted", ".cautions", ".slider", "a", "summary", "svg text"):
        ink, paper = browser.ask(_COLOURS.replace("ELEMENT", element))
        assert _contrast(ink, paper) >= 4.5, (element, ink, paper)
    assert browser.complaints == []


_COLOURS = """(function () {
  var element = document.querySelector("ELEMENT"), style = getComputedStyle(element), around = element;
  while (around.parentElement && /, 0\\)|transparent/.test(getComputedStyle(around).backgroundColor)) around = around.parentElement;
  return ["ELEMENT" === "svg text" ? style.fill : style.color, getComputedStyle(around).backgroundColor];
})()"""


def _contrast(ink: str, paper: str) -> float:
    """Contrast of two colours (WCAG 2.2, 1.4.3)."""

    def luminance(colour: str) -> float:
        parts = [int(x) / 255 for x in re.findall(r"\d+", colour)[:3]]
        linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(ink), luminance(paper)), reverse=True)
    return (light + 0.05) / (dark + 0.05)
