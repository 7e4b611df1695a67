import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from pipeline.evaluation.results import Evaluation
from pipeline.report.glossary import meaning
from pipeline.report.page import Picture, ReportContent, image_caption, render_report
from pipeline.report.render import show
from tests.report.scenes import evaluation_of, write_scene_dataset

VOID = {"meta", "link", "img", "br", "input", "hr"}


class Balance(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.sources += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture
def evaluation(tmp_path: Path) -> Evaluation:
    return evaluation_of(write_scene_dataset(tmp_path)[1])


def page_of(evaluation: Evaluation, **changes: object) -> str:
    pictures = [Picture("best", evaluation.images[0], b"jpeg bytes")]
    content = {"title": "Crowds <b>", "facts": {"Data set": "a & b"}, "evaluation": evaluation, "pictures": pictures}
    return render_report(ReportContent(**(content | changes)))  # type: ignore[arg-type]


def test_the_page_is_whole_and_needs_nothing_beside_it(evaluation: Evaluation) -> None:
    page = page_of(evaluation, curves={"Teacher": {"count/loss": ([1, 2], [1.0, 0.5])}})
    parser = Balance()
    parser.feed(page)
    assert parser.open == []
    assert all(source.startswith(("data:image/jpeg;base64,", "#")) for source in parser.sources)
    assert not re.search(r"@import|url\((?!#)|<script", page)
    assert page.count("<svg") == 4
    assert "prefers-color-scheme: dark" in page


def test_text_of_users_is_escaped(evaluation: Evaluation) -> None:
    page = page_of(evaluation)
    assert "Crowds &lt;b&gt;" in page
    assert "a &amp; b" in page
    assert "<b>" not in page


def test_every_metric_stands_there_with_its_meaning(evaluation: Evaluation) -> None:
    page = page_of(evaluation)
    for name, value in evaluation.metrics().items():
        assert f"<code>{name}</code>" in page
        assert show(value) in page
        assert meaning(name).text.split(".")[0].replace("'", "&#39;") in page


def test_the_same_content_gives_the_same_page(evaluation: Evaluation) -> None:
    assert page_of(evaluation) == page_of(evaluation)


def test_the_lead_says_whether_it_beats_the_guess(evaluation: Evaluation) -> None:
    assert "% of the error of always guessing" in page_of(evaluation)
    hopeless = Evaluation(evaluation.images[:1], "annotator", mean_count=3.5)
    worse = Evaluation(evaluation.images[1:], "annotator", mean_count=0.1)
    assert "it has not learned to count" not in page_of(hopeless, pictures=[])
    assert "it has not learned to count" in page_of(worse, pictures=[])


def test_without_curves_and_pictures_their_sections_are_left_out(evaluation: Evaluation) -> None:
    page = page_of(evaluation, pictures=[])
    assert "<h2>Training</h2>" not in page
    assert "What it sees" not in page


def test_caption(evaluation: Evaluation) -> None:
    assert image_caption(evaluation.images[0]).startswith("3 annotated, 3 predicted (exact) · matched IoU 0.500")
    assert image_caption(evaluation.images[1]).startswith("0 annotated, 1 predicted (+1) · matched IoU –")
