"""The review page in a real browser: it shows what the records say, its switches act on all, it loads nothing."""

from __future__ import annotations

import csv
import io
import json
import math
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bsnn.errors import UserError
from bsnn.results import grid
from bsnn.results.budgets import Key, headline
from bsnn.results.grid import Results
from bsnn.results.records import Record, how_far
from scripts.page import __main__ as page
from scripts.page import data, runs
from scripts.page.style import PinnedAxis, plain
from tests.factories import (
    CRASHED,
    DIVERGED,
    MISSING,
    PARTLY_DIVERGED,
    TWO_SEEDS,
    cell_of,
    make_record,
    paper_like_record,
    segment,
    unfinished,
    write,
    write_smoke_grid,
)  # fmt: skip

pytestmark = pytest.mark.xdist_group("page")  # one page, one browser
HOSTILE = "<b>x&\"'%{x}"
PARALLEL = "document.querySelector('#parallel .plot')"
ERROR = "</script><script>window.broken = 1</script><!--"
VANISHED = Key("mnist", "relu", False, False)
GOING_ON = Key("mnist", "tanh", True, True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = write_smoke_grid(tmp_path_factory.mktemp("page"))
    cell = cell_of("smoke", TWO_SEEDS)
    crashed = make_record(replace(cell, activation="another", seed=7), "smoke", status="crashed", error=ERROR)
    write(made.parent, crashed | {"segments": [segment(crashed, 0, 100, device=HOSTILE)]})
    # of three seeds two without any gradient: the median ratio is 0/0
    for seed in (1, 2):
        write(made.parent, paper_like_record("smoke", VANISHED, seed=seed, evaluations=2, ratios=[3.0, math.nan]))
    going_on = unfinished(paper_like_record("smoke", GOING_ON, evaluations=2), 1)
    gpu = {"device": "Some GPU", "commit": "f" * 40}
    parts = [segment(going_on, 0, 50), segment(going_on, 50, 60), segment(going_on, 60, 100, **gpu)]
    write(made.parent, going_on | {"segments": parts})
    page.main([str(made)])
    return made


@pytest.fixture(scope="module")
def loaded(folder: Path) -> Results:
    return grid.load(folder)


class Browser:
    """A page in headless Chromium: `run` calls JavaScript in it and returns what it returns."""

    def __init__(self, driver: Any, address: str) -> None:
        self.driver, self.address = driver, address

    def open(self, hash_: str = "") -> None:
        self.driver.get("about:blank")  # the same page with another hash would not load anew
        self.driver.get(self.address + hash_)

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def click(self, selector: str) -> None:
        self.run("document.querySelector(arguments[0]).click()", selector)

    def reset(self) -> None:
        self.run("switches.form.reset(); switches.form.dispatchEvent(new Event('input', {bubbles: true}))")

    def rows(self) -> list[dict[str, str]]:
        """The table as CSV, which is also what is shown."""
        text = self.run("return table.csv()")
        lines = list(csv.DictReader(io.StringIO(text)))
        assert len(lines) == self.run("return document.querySelectorAll('#runs tbody tr').length")
        return lines

    def traces(self, figure: str) -> list[dict[str, Any]]:
        """Lines of all plots of a figure as they are drawn."""
        return self.run(
            """const plots = document.querySelectorAll(`[data-figure="${arguments[0]}"] .plot`);
            plots.forEach(panels.draw);
            return [...plots].flatMap((plot) => plot._fullData.map((trace) => ({
              meta: trace.meta, type: trace.type, filled: trace.fill === "toself", hover: trace.hovertemplate,
              x: [...trace.x].map(String), y: [...trace.y], told: trace.customdata ? [...trace.customdata] : null,
            })))""",
            figure,
        )

    def line(self, figure: str, key: Key, **switches: str) -> dict[str, Any]:
        wanted = {"dataset": key.dataset, "activation": key.activation, **switches}
        wanted |= {"gpn": "yes" if key.gpn else "no", "batch_norm": "yes" if key.batch_norm else "no"}
        lines = [one for one in self.traces(figure) if not one["filled"] and wanted.items() <= one["meta"].items()]
        assert lines, wanted
        return lines[0]


@pytest.fixture(scope="module")
def browser(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    binary = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
    driver_path = shutil.which("chromedriver")
    if binary is None or driver_path is None:
        pytest.skip("needs Chromium and chromedriver")
    webdriver = pytest.importorskip("selenium.webdriver")
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = binary
    profile = tmp_path_factory.mktemp("profile")
    for flag in (
        "headless=new", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking",
        "disable-component-update", "disable-sync", "enable-unsafe-swiftshader", "window-size=1280,900",
        f"user-data-dir={profile}",
    ):  # fmt: skip
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(driver_path))
    try:
        opened = Browser(driver, (folder / "index.html").as_uri())
        opened.open()
        yield opened
    finally:
        driver.quit()


def test_the_table_has_every_record_and_every_cell(browser: Browser, loaded: Results, folder: Path) -> None:
    rows = browser.rows()
    trained = {row["run"]: row for row in rows if row["run"]}
    records = {record["id"]: record for record in (*loaded.records, *loaded.others)}
    assert set(trained) == set(records) == {path.name for path in (folder / "runs").iterdir()}
    for name, row in trained.items():
        record = records[name]
        last = record["rows"][-1]
        assert (row["status"], row["dataset"], row["depth"]) == (
            record["status"],
            record["cell"]["dataset"],
            str(record["cell"]["depth"]),
        )
        assert float(row["test_accuracy"]) == last["test_accuracy"]
        assert row["last_ratio"] == ("0/0" if math.isnan(last["gradient_ratio"]) else row["last_ratio"])
        assert row["in_table"] == ("yes" if record in loaded.records else "no")
    missing = [row for row in rows if not row["run"]]
    assert [(row["status"], row["dataset"], row["activation"]) for row in missing] == [("missing", *MISSING[:2])]
    links = browser.run(
        "return [...document.querySelectorAll('#runs tbody a')].map((link) => decodeURIComponent(link.href))"
    )
    assert {Path(link.removeprefix("file://")) for link in links} == {
        path / "record.json" for path in (folder / "runs").iterdir()
    }


def test_curves_equal_the_records(browser: Browser, loaded: Results) -> None:
    browser.reset()
    mine = [
        record
        for record, row in zip(loaded.records, loaded.runs.itertuples(), strict=True)
        if (row.dataset, row.activation, row.gpn, row.batch_norm) == TWO_SEEDS
    ]
    values = np.array([[row["test_accuracy"] for row in record["rows"]] for record in mine])
    drawn = browser.line("mnist-accuracy", TWO_SEEDS, split="test")
    assert drawn["y"] == values.mean(axis=0).tolist()
    assert list(map(float, drawn["x"])) == [row["epoch"] for row in mine[0]["rows"]]
    assert drawn["told"] == [f" ± {sd:.2f}" for sd in values.std(axis=0, ddof=1)]
    assert "MNIST ELU-GPN" in drawn["hover"]
    assert "2 seeds" in drawn["hover"]
    bar = browser.line("mnist-final", TWO_SEEDS, split="test")
    assert (bar["type"], bar["y"]) == ("bar", [values[:, -1].mean()])
    paper = [one for one in browser.traces("mnist-final") if "the paper" in (one["hover"] or "")]
    assert len(paper) == 24


def test_ratios_within_a_decade_have_an_axis_too() -> None:
    axis = runs._ratios("ratio", [2.5, 1.5])
    assert axis["ticktext"] == [f"{10**place:.3g}" for place in axis["tickvals"]]
    low, high = axis["range"]
    assert low <= math.log10(1.5) < math.log10(2.5) <= high


def test_ratios_without_a_number_are_pinned_above_the_others(browser: Browser) -> None:
    browser.reset()
    drawn = browser.line("mnist-ratio", VANISHED)
    plot = "document.querySelector('[data-figure=\"mnist-ratio\"] .plot')"
    lines = browser.run(f"return {plot}.layout.shapes.map((shape) => shape.y0)")
    # seeds inf, 3, 3 and inf, nan, nan: medians 3 and 0/0, which stands above inf
    assert drawn["told"] == ["3 (3 to inf)", "0/0 (inf to 0/0)"]
    assert drawn["y"][0] == 3.0
    assert drawn["y"][1] == pytest.approx(max(lines), rel=1e-12)
    stable = browser.line("mnist-ratio", TWO_SEEDS)
    assert stable["told"] == ["2 (2 to 2)"] * 2
    norms = browser.line("mnist-norms", VANISHED, update="first")
    assert norms["told"][0].startswith("0 (")


def test_diverged_crashed_and_missing_cells_say_so(browser: Browser) -> None:
    browser.reset()
    told = [one["hover"] for name in ("mnist-final", "cifar10-final") for one in browser.traces(name)]
    for name, status in (
        ("MNIST ReLU-BN", "diverged: 1 diverged"),
        ("CIFAR-10 Tanh-GPN-BN", "crashed: 1 crashed"),
        ("CIFAR-10 GELU-GPN", "missing"),
        ("CIFAR-10 SELU", "partly diverged: 1 diverged, 1 ok"),
    ):
        assert f"<b>{name}</b><br>{status}<extra></extra>" in told
    curves = browser.traces("cifar10-accuracy")
    wanted = {"activation": PARTLY_DIVERGED.activation, "variant": "plain", "split": "test"}
    mine = [one["hover"] for one in curves if not one["filled"] and wanted.items() <= one["meta"].items()]
    ended = [hover.split("<br>")[-1].removesuffix("<extra></extra>") for hover in mine]
    assert ended == ["1 seed", *["seed 1, diverged at step 150"] * 2]  # the last is the cross at its end
    drawn = {(one["meta"].get("activation"), one["meta"].get("variant")) for one in curves}
    assert (CRASHED.activation, "GPN-BN") not in drawn
    assert (MISSING.activation, "GPN") not in drawn
    lost = browser.line("mnist-accuracy", DIVERGED, split="test")
    assert "diverged at step 150" in lost["hover"]


def test_unfinished_networks_say_so(browser: Browser, loaded: Results) -> None:
    browser.reset()
    [record] = [one for one in loaded.records if one["status"] == "unfinished"]
    so_far = f"unfinished: {how_far(record)}"
    [row] = [one for one in browser.rows() if one["run"] == record["id"]]
    assert (row["status"], row["epochs_reached"], row["note"]) == ("unfinished", "0.5", so_far)
    assert float(row["epochs_asked"]) == pytest.approx(2 / 938, rel=1e-5)
    assert row["device"] == "Some CPU, 2 cores, then Some GPU"
    assert row["commit"] == "0123456789, then ffffffffff"
    assert "Some GPU (1)" in browser.run("return document.querySelector('header').textContent")
    assert f"MNIST: 1 run, {how_far(record)}" in browser.run("return document.querySelector('header').textContent")
    curves = [one for one in browser.traces("mnist-accuracy") if so_far in (one["hover"] or "")]
    rows = record["rows"]
    tests = [one for one in curves if one["meta"]["split"] == "test"]
    assert [one["y"] for one in tests] == [[rows[0]["test_accuracy"], rows[1]["test_accuracy"]],
                                           [rows[1]["test_accuracy"]]]  # the last is the mark at its end  # fmt: skip
    mine = [one for one in browser.traces("mnist-final") if so_far in (one["hover"] or "")]
    kinds = {one["type"] for one in mine if one["meta"]["split"] == "test"}
    assert kinds == {"bar", "scatter"}
    [bar] = [one for one in mine if one["type"] == "bar" and one["meta"]["split"] == "test"]
    assert bar["y"] == [rows[1]["test_accuracy"]]
    paper = [one["hover"] for one in mine if "the paper: test" in one["hover"]]
    assert paper[0].endswith(f"at the end of training<br>ours is {so_far}<extra></extra>")
    others = [one["hover"] for one in browser.traces("mnist-final") if "the paper: test" in one["hover"]]
    assert sum("unfinished" in hover for hover in others) == 1
    plot = "document.querySelector('[data-figure=\"mnist-final\"] .plot')"
    assert browser.run(f"return {plot}._fullData.filter((one) => one.mode === 'text').map((one) => one.text[0])") == [
        "@0.5"
    ]
    hatched = browser.run(
        f"return {plot}._fullData.filter((one) => one.marker?.pattern?.shape === '/').map((one) => one.y[0])"
    )
    assert hatched == [rows[1]["test_accuracy"]]
    [dot] = [one for one in browser.traces("mnist-against") if so_far in str(one["told"])]
    assert dot["y"] == [rows[1]["test_accuracy"]]


def test_the_unfinished_seeds_that_are_furthest_stand_for_a_cell() -> None:
    """Until one has ended; equally far ones are one curve, and a diverged one isn't the cell's standing."""
    seeds = [paper_like_record("smoke", GOING_ON, seed=seed, evaluations=4) for seed in range(4)]
    going_on = [unfinished(seeds[0], 1), unfinished(seeds[1], 2), unfinished(seeds[2], 2)]
    lost = paper_like_record("smoke", GOING_ON, seed=3, evaluations=4, status="diverged")

    def furthest(*records: Record) -> data.Curve:
        found = data.furthest(data.accuracy_curves(grid.from_records("smoke", records), GOING_ON.dataset, "test"))
        assert found is not None
        return found

    so_far = furthest(*going_on, lost)
    assert (so_far.seeds, so_far.unfinished) == (2, how_far(going_on[1]))
    assert so_far.middle[-1] == np.mean([record["rows"][2]["test_accuracy"] for record in seeds[1:3]])
    ended = furthest(*going_on[:2], seeds[2], lost)
    assert (ended.seeds, ended.unfinished, len(ended.x)) == (1, "", 5)
    standings = {
        ("ok", "unfinished"): "ok",
        ("ok", "diverged", "unfinished"): "partly diverged",
        ("diverged", "unfinished", "crashed"): "unfinished",
        ("diverged", "crashed"): "diverged",
        ("crashed",): "crashed",
        (): "missing",
    }
    assert {statuses: data.standing(statuses) for statuses in standings} == standings


def test_a_switch_acts_on_panels_parallel_coordinates_and_table(browser: Browser) -> None:
    browser.reset()
    before = len(browser.rows())
    browser.click("input[name=gpn][value=yes]")
    for figure in ("accuracy", "ratio", "norms", "final", "against"):
        drawn = [one["meta"] for one in browser.traces(f"mnist-{figure}") if "gpn" in one["meta"]]
        assert drawn
        assert {meta["gpn"] for meta in drawn} == {"no"}
    rows = browser.rows()
    assert 0 < len(rows) < before
    assert {row["gpn"] for row in rows} == {"no"}
    lines = browser.run(f"panels.draw({PARALLEL}); return {PARALLEL}.data[0].customdata.length")
    assert lines == len([row for row in rows if row["status"] != "missing"])
    browser.click("input[name=dataset][value=mnist]")
    assert browser.run("return document.querySelector('section[data-dataset=mnist]').hidden")
    assert {row["dataset"] for row in browser.rows()} == {"cifar10"}
    browser.click("#switches [type=reset]")
    browser.driver.set_script_timeout(60)  # enough on a busy machine, too
    browser.driver.execute_async_script("setTimeout(arguments[0], 50)")
    assert len(browser.rows()) == before
    assert browser.run("return location.hash") == ""


def test_the_split_puts_each_curve_in_one_plot(browser: Browser) -> None:
    browser.reset()
    count = "return document.querySelectorAll('[data-figure=\"mnist-accuracy\"] .plot').length"
    curves = len([one for one in browser.traces("mnist-accuracy") if "gpn" in one["meta"]])
    assert browser.run(count) == 4
    for by, plots in (("activation", 6), ("none", 1)):
        browser.click(f"input[name=by][value={by}]")
        assert browser.run(count) == plots
        assert len([one for one in browser.traces("mnist-accuracy") if "gpn" in one["meta"]]) == curves


def test_sorting_and_filtering(browser: Browser) -> None:
    browser.reset()
    browser.click("th[data-column=test_accuracy] button")
    known = [float(row["test_accuracy"]) for row in browser.rows() if row["test_accuracy"]]
    assert known == sorted(known)
    browser.click("th[data-column=test_accuracy] button")
    rows = browser.rows()
    assert [float(row["test_accuracy"]) for row in rows[:-1]] == sorted(known, reverse=True)
    assert rows[-1]["status"] == "missing"
    browser.click("th[data-column=last_ratio] button")
    browser.click("th[data-column=last_ratio] button")
    assert [row["last_ratio"] for row in browser.rows()][:3] == ["0/0", "0/0", "inf"]
    high = {row["run"] for row in browser.rows() if row["test_accuracy"] and float(row["test_accuracy"]) >= 50}
    browser.run("switches.set('in.test_accuracy', '>=50')")
    assert {row["run"] for row in browser.rows()} == high
    browser.run("switches.set('in.gpn', 'no')")
    plain_ones = {row["run"] for row in browser.rows()}
    assert plain_ones == {run for run in high if "-gpn" not in run}
    assert 0 < len(plain_ones) < len(high)
    browser.reset()
    browser.run("switches.set('text', 'tanh-gpn CIFAR10')")
    assert {(row["dataset"], row["activation"], row["gpn"]) for row in browser.rows()} == {("cifar10", "tanh", "yes")}


def test_a_range_in_the_parallel_coordinates_chooses_rows(browser: Browser) -> None:
    browser.reset()
    axes = browser.run(f"panels.draw({PARALLEL}); return {PARALLEL}.data[0].dimensions.map((one) => one.label)")
    change = {f"dimensions[{axes.index('test %')}].constraintrange": [[50, 100]]}  # as dragging along the axis does
    browser.run(f"return Plotly.restyle({PARALLEL}, arguments[0]).then(() => 0)", change)
    rows = browser.rows()
    assert rows
    assert all(float(row["test_accuracy"]) >= 50 for row in rows)
    assert "brush=" in browser.run("return location.hash")


def test_the_address_restores_the_view(browser: Browser) -> None:
    browser.reset()
    browser.click("input[name=activation][value=relu]")
    browser.click("input[name=batch_norm][value=yes]")
    browser.click("input[name=split][value=train]")
    browser.click("th[data-column=train_accuracy] button")
    browser.run("switches.set('in.train_accuracy', '>20')")
    rows, address = browser.rows(), browser.run("return location.hash")
    browser.open(address)
    assert browser.rows() == rows
    assert 0 < len(rows) < 48
    assert {one["meta"]["split"] for one in browser.traces("mnist-accuracy")} == {"train"}
    assert browser.run("return location.hash") == address
    # an address that was cut or typed wrongly, in the page that is open
    browser.run("location.hash = '#brush=%7Bcut&split=none&sort=nothing:down'")
    browser.driver.execute_async_script("setTimeout(arguments[0], 50)")
    assert len(browser.rows()) > len(rows)
    assert browser.run("return [...switches.chosen('split')]") == ["test"]


def test_text_of_the_records_is_never_markup(browser: Browser) -> None:
    browser.reset()
    [row] = [row for row in browser.rows() if row["note"] == ERROR]
    assert row["device"] == HOSTILE
    assert not browser.run("return window.broken || document.querySelector('td b, label b') || false")
    drawn = browser.run(
        """const plot = document.body.appendChild(document.createElement("div"));
        Plotly.newPlot(plot, [], {annotations: [{text: arguments[0], x: 0, y: 0}]});
        const text = plot.querySelector(".annotation-text").textContent;
        plot.remove();
        return text;""",
        plain(HOSTILE),
    )
    assert drawn == HOSTILE


def test_it_says_which_budget_and_loads_nothing(browser: Browser) -> None:
    browser.reset()
    browser.run("panels.drawAll()")
    assert headline("smoke") in browser.run("return document.querySelector('header').textContent")
    assert "NOT the paper's" in browser.run("return document.querySelector('header').textContent")
    browser.run("fetch('https://example.org/').catch(() => 0)")  # the page's own policy refuses it
    messages = [json.loads(entry["message"])["message"] for entry in browser.driver.get_log("performance")]
    requests = [one["params"] for one in messages if one["method"] == "Network.requestWillBeSent"]
    asked = [one["request"]["url"] for one in requests if one["documentURL"].startswith("file:")]
    assert asked
    assert {url.split(":")[0] for url in asked} <= {"file", "data", "blob"}
    severe = [entry["message"] for entry in browser.driver.get_log("browser") if entry["level"] == "SEVERE"]
    assert all("https://example.org/" in message for message in severe)
    assert severe


def test_the_same_records_give_the_same_bytes(folder: Path) -> None:
    before = (folder / "index.html").read_bytes()
    page.main([str(folder)])
    assert (folder / "index.html").read_bytes() == before
    assert len(before) < 7_000_000


def test_without_records_it_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected records"):
        page.main([str(tmp_path / "smoke")])
    assert not list(tmp_path.iterdir())


def test_a_setting_is_a_column_where_it_varies(loaded: Results) -> None:
    assert "learning_rate" not in runs.columns(loaded)
    cell = replace(cell_of("smoke", TWO_SEEDS), learning_rate=0.01)
    more = grid.from_records("smoke", [*loaded.records, make_record(cell, "smoke")])
    assert runs.columns(more)["learning_rate"] == "learning rate"
    assert {row["learning_rate"] for row in runs.rows(more) if row["status"] != "missing"} == {0.0001, 0.01}


def test_an_axis_keeps_numbers_and_orders_the_rest() -> None:
    values = np.array([0.0, 1e-3, 1.0, 1e6, math.inf, math.nan])
    placed = PinnedAxis.over([values]).place(values)
    assert placed[1:4].tolist() == [1e-3, 1.0, 1e6]
    assert (np.diff(placed) > 0).all()
    assert np.isfinite(placed).all()


def test_curves_of_one_seed_have_no_spread(loaded: Results) -> None:
    curves = {curve.key: curve for curve in data.accuracy_curves(loaded, "mnist", "train") if not curve.lost}
    one, two = curves[Key("mnist", "elu", False, False)], curves[TWO_SEEDS]
    assert one.sd is None
    assert len(one.x) == 2  # nothing was trained before the first update
    assert two.sd is not None
    assert (two.high - two.middle).tolist() == pytest.approx(two.sd.tolist())
