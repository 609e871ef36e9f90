"""The report of a study: it stands alone, shows what is known, and obeys nothing that texts say."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from nvcim_jax.evaluation import methods, report, statistics, studies, study
from tests.helpers import fake_table

VOID = {"meta", "br"}


class Balanced(HTMLParser):
    """A page whose elements are closed in turn, and the names of those it has."""

    def __init__(self, page: str):
        super().__init__()
        self.open, self.seen, self.text = [], set(), []
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.seen.add(tag)
        if tag not in VOID:
            self.open.append(tag)
        assert not {name for name, _ in attrs} & {"src", "href", "onload", "onclick", "style"}

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def plan(**changes):
    given = {"users": 10, "draws": 2, "tasks": ["LaMP-2", "LaMP-5"], "devices": ["NVM-1", "NVM-3"], **changes}
    return replace(studies.table1(**given), measure=fake_table.measured)


def made(folder, *, cells=None):
    """table.md and report.html after so many cells."""
    left = [10**9 if cells is None else cells]

    def stop(count, kept):
        left[0] -= 0 if kept else count
        if not left[0]:
            raise KeyboardInterrupt

    try:
        if cells == 0:
            study._open(plan(), folder)
        else:
            study.run(plan(), folder, report=stop)
    except KeyboardInterrupt:
        pass
    table, page = report.write(folder)
    assert (table.name, page.name) == ("table.md", "report.html")
    assert page.stat().st_mode & 0o777 == 0o600
    return table.read_text(), page.read_text()


@pytest.mark.parametrize("cells", [0, 1, 20, None])
def test_a_report_stands_alone_at_any_time(cells, tmp_path):
    table, page = made(tmp_path, cells=cells)
    told = Balanced(page)
    total = 2 * 2 * (2 + 8 * 2)
    assert (
        f"{total if cells is None else cells} of {total} cells are done." in table
        and f"of {total} cells are done" in page
    )
    assert not told.seen & {"script", "link", "img", "iframe"} and "url(" not in page and "@import" not in page
    assert {"h1", "table", "progress", "caption"} <= told.seen and 'name="viewport"' in page
    assert "prefers-color-scheme: dark" in page and "@media print" in page
    known = table.count("[")
    assert (known == 0) == (cells == 0) and ("–" in table) == (cells is not None)
    assert ("There are none yet" in page) == (cells in (0, 1))


def test_texts_are_shown_and_never_obeyed(tmp_path):
    _, page = made(tmp_path)
    told = Balanced(page)
    assert "<script>" not in page and page.count("&lt;script&gt;") >= 5 * 5
    assert any(fake_table.SCRIPT in text for text in told.text)


def test_the_table_holds_means_and_intervals_over_all_users_of_all_blocks(tmp_path):
    table, page = made(tmp_path)
    results = study.read(tmp_path)
    label = methods.whole("paper")
    own = [
        score for cell in results.cells.values() for score in cell["result"]["scores"].values()
        if (cell["at"]["method"], cell["at"]["task"], cell["at"].get("device")) == (label, "LaMP-5", "NVM-3")
    ]  # fmt: skip
    wanted = statistics.interval(own)
    assert len(own) == 10
    figure = f"{wanted.mean:.2f} [{wanted.low:.2f}, {wanted.high:.2f}]"
    section = table.split("**NVM-3**")[1]
    row = re.search(r"\| paper: scaled search \(the paper's NVCiM-PT\) \|[^|]*\|([^|]*)\|", section)
    assert row[1].strip() == figure
    assert f"{wanted.mean:.2f}<small>[{wanted.low:.2f}, {wanted.high:.2f}]</small>" in page


def test_captions_count_users_questions_and_draws(tmp_path):
    table, _ = made(tmp_path / "whole")
    assert "10 of 10 users and 20 questions a figure, 2 draws of each device, sigma 0.1" in table
    assert "LaMP-2: accuracy" in table
    table, _ = made(tmp_path / "part", cells=40)
    assert "2 to 10 of 10 users and 4 to 20 questions a figure" in table or "8 to 10 of 10 users" in table


def test_differences_are_paired_by_user_and_the_base_model_stands_beside_every_device(tmp_path):
    made(tmp_path)
    results = study.read(tmp_path)
    _, grid = report.grids(results)
    assert [group.name for group in grid.groups] == [report.NO_DEVICE, "NVM-1", "NVM-3"]
    assert [len(group.rows) for group in grid.groups] == [1, 7, 7]
    found = report.scored(results)
    a, b = studies.PAIRS[0]
    one, other = (found["NVM-1", name, "LaMP-2"] for name in (a, b))
    wanted = statistics.difference([one[user] for user in one], [other[user] for user in one])
    assert grid.groups[1].rows[0].figures[0].range == f"[{wanted.low:+.2f}, {wanted.high:+.2f}]"


def test_examples_come_from_several_tasks_and_show_both_answers(tmp_path):
    study.run(plan(), tmp_path)
    results = study.read(tmp_path)
    shown = report.examples(study.questions(tmp_path, results), results)
    assert len(shown) == report.EXAMPLES and {each["task"] for each in shown} == {"LaMP-2", "LaMP-5"}
    assert all(each["answer"] != each["without"] for each in shown)
    rows = [row for row in study.questions(tmp_path, results) if row["question"] == shown[0]["question"]]
    alone = [row["answer"] for row in rows if results.cells[row["cell"]]["at"]["method"] == methods.BASE]
    assert shown[0]["without"] in alone


def test_a_report_says_settings_environment_and_how_long_it_took(tmp_path):
    _, page = made(tmp_path)
    text = " ".join(" ".join(Balanced(page).text).split())
    assert "Settings" in text and "NVM-1, NVM-3" in text and "fingerprint" in text
    assert "Environment" in text and "jax" in text and re.search(r"took \d+ s altogether, in 1 run\.", text)
