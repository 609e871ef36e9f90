"""The report of a study: it stands alone, shows what is known, and obeys nothing that texts say."""

import re
import shutil
import subprocess
from html.parser import HTMLParser

import pytest

from nvcim_jax.evaluation import cost_studies, methods, pictures, report, rungs, statistics, studies, study, tables
from nvcim_jax.evaluation.designs import DESIGNS, published
from nvcim_jax.evaluation.studies import Choice
from tests.helpers import fake_table

VOID = {"meta", "br"}
CHOICE = Choice(10, 2, ("LaMP-2", "LaMP-5"), ("NVM-1", "NVM-3"))
CELLS = 2 * 2 * (3 + 8 * 2)
SMALL = {
    "table1": CHOICE, "table3": Choice(3, 1, buffers=(10, 30)), "table4": Choice(3, 1, sigmas=(0.025, 0.15)),
    "fig1": Choice(3, 1), "ablation": Choice(3, 1, tasks=("LaMP-2",), sigmas=(0.1,)),
    "variation": Choice(3, 1, devices=("NVM-1", "NVM-3"), sigmas=(0.1, 0.3)),
}  # fmt: skip


class Balanced(HTMLParser):
    """A page whose elements are closed in turn, and the names of those it has."""

    def __init__(self, page: str):
        super().__init__()
        self.open, self.seen, self.text, self.ids = [], set(), [], []
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.seen.add(tag)
        if tag not in VOID:
            self.open.append(tag)
        given = dict(attrs)
        assert not set(given) & {"src", "onload", "onclick"}
        for name in ("href", "xlink:href"):
            assert given.get(name, "#").startswith("#")  # to a part of a picture
        self.ids += [given["id"]] if "id" in given else []

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module", autouse=True)
def quick():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(studies, "measure", fake_table.measured)
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a complete `table1`, its table.md and its report.html."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, *made(folder)


def made(folder, *, name="table1", choice=None, cells=None):
    """table.md and report.html after so many cells."""
    plan = studies.plan(name, choice or SMALL[name])
    left = [10**9 if cells is None else cells]

    def stop(count, kept):
        left[0] -= 0 if kept else count
        if not left[0]:
            raise KeyboardInterrupt

    try:
        if cells == 0:
            study.begin(plan, folder)
        else:
            study.run(plan, folder, report=stop)
    except KeyboardInterrupt:
        pass
    names = {path.name: path for path in report.write(folder)}
    pictures = set() if cells == 0 else {f"{name}.png", f"{name}.svg"}
    assert set(names) == {"table.md", "table.tex", "report.html", "results.parquet", *pictures}
    for written in ("table.md", "table.tex", "report.html", "results.parquet"):
        assert names[written].stat().st_mode & 0o777 == 0o600
    return names["table.md"].read_text(), names["report.html"].read_text()


@pytest.mark.parametrize("cells", [0, 1, 20, None])
def test_a_report_stands_alone_at_any_time(cells, tmp_path, whole):
    table, page = whole[1:] if cells is None else made(tmp_path, cells=cells)
    told = Balanced(page)
    done = f"{CELLS if cells is None else cells} of {CELLS} cells are done"
    assert f"{done}." in table and done in page
    assert not told.seen & {"script", "link", "img", "iframe"} and "@import" not in page
    assert not re.search(r"url\((?!#)", page) and not re.search(r"https?://(?!www\.w3\.org)", page)
    assert {"h1", "table", "progress", "caption"} <= told.seen and 'name="viewport"' in page
    assert ("svg" in told.seen) == (cells != 0) and len(told.ids) == len(set(told.ids))
    assert "prefers-color-scheme: dark" in page and "@media print" in page
    known = table.count("[")
    assert (known == 0) == (cells == 0) and ("–" in table) == (cells is not None)
    assert ("There are none yet" in page) == (cells in (0, 1))


def test_texts_are_shown_and_never_obeyed(whole):
    *_, page = whole
    told = Balanced(page)
    assert "<script>" not in page and page.count("&lt;script&gt;") >= 5 * 5
    assert any(fake_table.SCRIPT in text for text in told.text)


def own_scores(results, label, task, device):
    return [
        score for cell in results.cells.values() for score in cell["result"]["scores"].values()
        if (cell["at"]["method"], cell["at"]["task"], cell["at"].get("device")) == (label, task, device)
    ]  # fmt: skip


def test_the_table_holds_means_and_intervals_over_all_users_and_the_papers_figure(whole):
    folder, table, page = whole
    own = own_scores(study.read(folder), rungs.PAPER, "LaMP-5", "NVM-3")
    wanted, t = statistics.bootstrap(own), statistics.student(own)
    assert len(own) == 10
    ranges = [f"[{wanted.low:.3f}, {wanted.high:.3f}]", f"t [{t.low:.3f}, {t.high:.3f}]", "paper 0.185"]
    section = table.split("**NVM-3**")[1]
    row = re.search(r"\| paper: scaled search \(the paper's NVCiM-PT\) \|[^|]*\|([^|]*)\|", section)
    assert row[1].strip() == f"{wanted.mean:.3f} " + "; ".join(ranges)
    assert f"{wanted.mean:.3f}" + "".join(f"<small>{each}</small>" for each in ranges) in page
    assert "Paper: what it prints for Phi-2 on LaMP; model and data here are others" in table


def test_captions_count_users_questions_and_draws_and_say_what_could_be_seen(tmp_path, whole):
    _, table, _ = whole
    assert "10 of 10 users and 20 questions a figure, 2 draws of each device, sigma 0.1" in table
    assert "LaMP-2: accuracy" in table and re.search(r"A difference of 0\.\d+ \(median; .* chance of 80 %", table)
    study.begin(studies.plan("table1", CHOICE), tmp_path)
    lines = next(whole[0].glob("results-*")).read_text().splitlines(keepends=True)
    (tmp_path / "results-0.jsonl").write_text("".join(lines[:40]))
    table = report.markdown(results := study.read(tmp_path), report.grids(results))
    assert re.search(r"\d+ to 10 of 10 users and \d+ to 20 questions a figure", table)


def test_differences_are_paired_by_user_with_the_papers_beside(whole):
    results = study.read(whole[0])
    _, grid = report.grids(results)
    assert [group.name for group in grid.groups] == [tables.NOTHING_STORED, "NVM-1", "NVM-3"]
    pairs = DESIGNS["table1"].pairs
    assert [len(group.rows) for group in grid.groups] == [1, len(pairs) - 1, len(pairs) - 1]
    one, other = (own_scores(results, label, "LaMP-2", "NVM-1") for label in pairs[0])
    wanted = statistics.bootstrap_difference(one, other)
    figure = grid.groups[1].rows[0].figures[0]
    assert figure.found == wanted and figure.notes[0] == f"[{wanted.low:+.3f}, {wanted.high:+.3f}]"
    assert figure.notes[-1] == f"paper {0.25 - 0.079:+.3f}"  # NVCiM-PT less SWV, Phi-2, LaMP-2, NVM-1


def test_a_rung_that_stores_nothing_stands_beside_every_device_and_sigma(tmp_path):
    study.run(studies.plan("table4", SMALL["table4"]), tmp_path)
    scores, pairs, along = report.grids(study.read(tmp_path))
    assert [row.name for row in scores.groups[0].rows] == ["sigma 0.025", "sigma 0.15"]
    assert scores.columns[:4] == [methods.BASE, rungs.TEXT, methods.OWN, "SWV"]
    low, high = (row.figures for row in scores.groups[0].rows)
    assert low[0] == high[0] and low[1] == high[1] and low[2] != high[2]
    stored = [row for row in pairs.groups[0].rows if row.name.endswith(methods.BASE)]
    assert len(stored) == 1 and None not in stored[0].figures
    ends = [published("toy", {**AT4, "sigma": sigma}) for sigma in (0.15, 0.025)]
    assert along.columns == ["0.15"] and along.title == "Less than at sigma 0.025"
    assert along.groups[0].rows[0].figures[0].notes[-1] == f"paper {ends[0] - ends[1]:+.3f}"


AT4 = {"task": "LaMP-5", "device": "NVM-3", "buffer": 20, "method": rungs.PAPER}


@pytest.mark.parametrize("name", list(SMALL))
def test_every_study_has_tables_without_gaps(name, tmp_path):
    study.run(studies.plan(name, SMALL[name]), tmp_path)
    table = report.markdown(results := study.read(tmp_path), report.grids(results))
    assert "–" not in table and "nan" not in table
    assert len({*re.findall(r"^\| (.*?) \|", table, flags=re.MULTILINE)}) > 5


@pytest.mark.parametrize("name", ["fig1", "variation"])
def test_a_picture_has_a_bar_or_a_point_for_each_figure(name, tmp_path):
    _, page = made(tmp_path, name=name)
    Balanced(page)
    design = DESIGNS[name]
    (grid, *_) = report.grids(study.read(tmp_path))
    if name == "fig1":
        shown = pictures._bars(grid)
        assert {task: len(bars) for task, bars in shown.items()} == dict.fromkeys(design.tasks, len(design.labels))
    else:
        panels = pictures._curves(grid, [0.1, 0.3], "sigma")
        assert len(panels) == 2 and all(set(panel.lines) == set(grid.columns) for panel in panels)
        assert all(len(line.ranges) == 2 for panel in panels for line in panel.lines.values())
    for kind in ("png", "svg"):
        assert (tmp_path / f"{name}.{kind}").stat().st_size > 5000


@pytest.mark.parametrize("name", list(cost_studies.TITLES))
def test_the_figures_of_the_cost_model(name, tmp_path):
    plan = cost_studies.plan(name, ("NVM-3",))
    study.run(plan, tmp_path)
    names = {path.name for path in report.write(tmp_path)}
    assert {f"{name}.png", f"{name}.svg", "table.md", "table.tex", "results.parquet", "report.html"} == names
    page = (tmp_path / "report.html").read_text()
    Balanced(page)
    assert "Example answers" not in page and "Orin" in page
    known = report.grids(study.read(tmp_path))
    assert len(known) == (2 if name == "fig5" else 1)
    if name == "fig5":
        figures = {row.name: row.figures for row in known[1].groups[0].rows}
        assert figures["NVM-3, array, DRAM"][0].notes == ("paper: up to 120",)
        assert figures["NVM-3, array, DRAM"][4].value == "never"


def test_rows_open_as_a_table_with_the_place_of_their_cell(tmp_path, whole):
    parquet = pytest.importorskip("pyarrow.parquet")
    found = parquet.read_table(whole[0] / "results.parquet").to_pylist()
    results = study.read(whole[0])
    assert len(found) == sum(1 for _ in study.questions(whole[0], results)) == 2 * 10 * 2 * (3 + 8 * 2 * 2)
    means = {}
    for row in found:
        means.setdefault((row["method"], row["task"], row["device"]), []).append(row["score"])
    at = (rungs.PAPER, "LaMP-5", "NVM-3")
    assert len(means[at]) == 10 * 2 * 2 and {row["metric"] for row in found} == {"accuracy"}
    assert found[0].keys() >= {
        "sigma",
        "buffer",
        "draws",
        "seed",
        "user",
        "question",
        "draw",
        "answer",
        "gold",
        "found",
    }
    made(tmp_path / "none", cells=0)
    assert parquet.read_table(tmp_path / "none" / "results.parquet").num_rows == 0


def test_without_pyarrow_the_rest_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "find_spec", lambda name: None)
    study.begin(studies.plan("fig1", SMALL["fig1"]), tmp_path)
    assert "results.parquet" not in {path.name for path in report.write(tmp_path)}


def test_latex_means_no_more_than_it_shows():
    figure = tables.Figure("0.5 *", ("[0.4, 0.6]", "paper 50 %"))
    grid = tables.Grid("A & B", "100 % of 3_000 #users $ ~ ^ \\x {y}", "m", ["c"], [tables.Group("g", [tables.Row("− r", [figure, None])])])  # fmt: skip
    text = report.latex([grid])
    assert r"A \& B" in text and r"100 \% of 3\_000 \#users \$ \textasciitilde{} \textasciicircum{}" in text
    assert r"\textbackslash{}x \{y\}" in text
    assert r"$-$ r & \shortstack{0.5 * \\ {\scriptsize [0.4, 0.6]} \\ {\scriptsize paper 50 \%}} & -- \\" in text
    assert text.count(r"\begin{") == text.count(r"\end{") == 2


def test_latex_compiles(tmp_path, whole):
    if not shutil.which("pdflatex"):
        pytest.skip("there is no LaTeX here")
    shutil.copy(whole[0] / "table.tex", tmp_path)
    page = r"\documentclass{article}\usepackage{booktabs}\begin{document}\input{table.tex}\end{document}"
    (tmp_path / "page.tex").write_text(page)
    subprocess.run(["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "page.tex"], cwd=tmp_path, check=True)


def test_examples_come_from_several_tasks_and_show_both_answers(whole):
    results = study.read(whole[0])
    shown = report.examples(study.questions(whole[0], results), results)
    assert len(shown) == report.EXAMPLES and {each["task"] for each in shown} == {"LaMP-2", "LaMP-5"}
    assert all(each["answer"] != each["without"] for each in shown)
    rows = [row for row in study.questions(whole[0], results) if row["question"] == shown[0]["question"]]
    alone = [row["answer"] for row in rows if results.cells[row["cell"]]["at"]["method"] == methods.BASE]
    assert shown[0]["without"] in alone


def test_a_report_says_settings_environment_how_long_it_took_and_how_much_memory(whole):
    *_, page = whole
    text = " ".join(" ".join(Balanced(page).text).split())
    assert "Settings" in text and "NVM-1, NVM-3" in text and "fingerprint" in text
    assert "Environment" in text and "jax" in text
    assert re.search(r"took \d+ s altogether, in 1 run; the most memory that a process held was \d\.\d\d GB", text)


BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_shows_the_page_without_a_word_of_complaint_or_a_scroll_to_the_side(width, scheme, whole):
    sync_api = pytest.importorskip("playwright.sync_api")
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        pytest.skip("there is no Chromium here")
    with (
        sync_api.sync_playwright() as play,
        play.chromium.launch(executable_path=browser, args=["--no-sandbox"]) as own,
    ):
        page = own.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        said, asked = [], []
        page.on("console", lambda message: said.append(message.text))
        page.on("request", lambda request: asked.append(request.url))
        page.goto((whole[0] / "report.html").as_uri())
        assert not said and len(asked) == 1  # nothing else is loaded
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches") == (scheme == "dark")
        assert page.locator("svg").first.bounding_box()["width"] > 300
        assert page.pdf().startswith(b"%PDF")
