"""experiments.synthetic and the drawings of Figs 1-3, through the commands that a user types."""

import json
import math
import platform
import shutil
import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from hydra import compose, initialize_config_dir
from PIL import Image

from bsnn import plotting
from bsnn.config import CONF, SyntheticConfig, checked
from bsnn.errors import UserError
from experiments import synthetic
from experiments.units import identity_hash
from scripts import fig1, fig2, fig3

FIGURES = {"fig1": fig1, "fig2": fig2, "fig3": fig3}


def command(monkeypatch: pytest.MonkeyPatch, folder: Path, figure: str, *overrides: str) -> None:
    """python -m experiments.synthetic +experiment=<figure> budget=smoke, without Hydra's logging of this process."""
    quiet = ["hydra/job_logging=none", "hydra/hydra_logging=none", f"hydra.run.dir={folder}/hydra"]
    arguments = [f"+experiment={figure}", "budget=smoke", f"results_dir={folder}", *quiet, *overrides]
    monkeypatch.setattr(sys, "argv", ["synthetic", *arguments])
    synthetic.main()


def settings(*overrides: str) -> SyntheticConfig:
    with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
        return checked(compose("synthetic", ["budget=smoke", *overrides]), SyntheticConfig)


@pytest.mark.parametrize("figure", FIGURES)
def test_published_configs_run_once_and_are_drawn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, figure: str) -> None:
    command(monkeypatch, tmp_path, figure)
    budget_dir = tmp_path / "smoke"
    table, record = budget_dir / f"{figure}.csv", budget_dir / f"{figure}.json"
    facts = json.loads(record.read_text())
    assert facts["complete"]
    assert facts["rows"] == len(pd.read_csv(table))
    assert facts["config"]["figure"] == figure

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a finished figure was computed again")

    before = table.stat().st_mtime_ns, record.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(synthetic, "draw", refuse)
        command(patch, tmp_path, figure)
    assert (table.stat().st_mtime_ns, record.read_bytes()) == before

    pictures = [budget_dir / f"{figure}.{suffix}" for suffix in ("png", "pdf")]
    FIGURES[figure].main([str(budget_dir)])
    first = [picture.read_bytes() for picture in pictures]
    FIGURES[figure].main([str(budget_dir)])
    assert [picture.read_bytes() for picture in pictures] == first


def test_functions_share_the_draw(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """ReLU is homogeneous, ReLU-GPN is sqrt(2) relu: on the same draw, layer l has 2^((l-1)/2) times the norm."""
    command(monkeypatch, tmp_path, "fig1")
    table = pd.read_csv(tmp_path / "smoke" / "fig1.csv")
    assert sorted(table.draw.unique()) == [0, 1]
    relu = table.query("function == 'relu' and draw == 1").pivot(index="layer", columns="gpn")
    growth = relu.signal_mean[True] / relu.signal_mean[False]
    np.testing.assert_allclose(growth, 2 ** ((growth.index.to_numpy() - 1) / 2), rtol=1e-9)
    depth = len(relu)
    np.testing.assert_allclose(relu.gradient_mean[True] / relu.gradient_mean[False], 2 ** (depth / 2), rtol=1e-9)


def test_fig2_counts_every_value(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    command(monkeypatch, tmp_path, "fig2")
    table = pd.read_csv(tmp_path / "smoke" / "fig2.csv")
    for (_, _), histogram in table.groupby(["function", "gpn"]):
        assert histogram["count"].sum() == 8 * 16 * 32
        assert histogram.share.sum() == pytest.approx(1)
        assert histogram.bin_left.iloc[0] == -math.inf
        assert histogram.bin_right.iloc[-1] == math.inf
        assert (histogram.bin_left.to_numpy()[1:] == histogram.bin_right.to_numpy()[:-1]).all()
    relu = table.query("function == 'relu' and gpn and count > 0")
    assert len(relu) == 2
    assert (relu.bin_left.to_numpy() < [0, math.sqrt(2)]).all()
    assert (relu.bin_right.to_numpy() > [0, math.sqrt(2)]).all()


def test_an_interrupted_figure_goes_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    real, made = synthetic.draw, []

    def counting(depth: int, width: int, *arguments: object) -> object:
        if len(made) == 4:
            raise SystemExit("killed")
        made.append(width)
        return real(depth, width, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(synthetic, "draw", counting)
        with pytest.raises(SystemExit, match="killed"):
            command(patch, tmp_path, "fig3")
    budget_dir = tmp_path / "smoke"
    assert made == [8, 16, 32, 8]
    assert not (budget_dir / "fig3.csv").exists()
    with pytest.raises(UserError, match=r"not finished yet; continue with: python -m experiments\.synthetic"):
        fig3.main([str(budget_dir)])

    made.clear()
    with monkeypatch.context() as patch:
        patch.setattr(synthetic, "draw", counting)
        command(patch, tmp_path, "fig3")
    assert made == [16, 32]
    command(monkeypatch, tmp_path / "at once", "fig3")
    assert (budget_dir / "fig3.csv").read_bytes() == (tmp_path / "at once" / "smoke" / "fig3.csv").read_bytes()


def test_a_sweep_keeps_every_result(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each is drawn; the figure, and what the report reads, is that of the budget's own settings."""
    budget_dir = tmp_path / "smoke"
    command(monkeypatch, tmp_path, "fig3")
    before = [(budget_dir / f"fig3.{suffix}").read_bytes() for suffix in ("csv", "json")]
    with monkeypatch.context() as patch:
        patch.setattr(synthetic, "draw", lambda *_: 1 / 0)
        with pytest.raises(SystemExit):
            command(patch, tmp_path, "fig3", "seed=1")
    command(monkeypatch, tmp_path, "fig3", "seed=1")
    command(monkeypatch, tmp_path, "fig3", "seed=2", "draws=1", "activations.elu.module.alpha=2")
    assert [(budget_dir / f"fig3.{suffix}").read_bytes() for suffix in ("csv", "json")] == before
    fig3.main([str(budget_dir)])
    for suffix in ("csv", "json", "png", "pdf"):
        others = sorted(path.name.rsplit("-", 1)[0] for path in (budget_dir / "other_settings").glob(f"*.{suffix}"))
        assert others == ["fig3-alpha=2-seed=2-draws=1", "fig3-seed=1"]
    assert (budget_dir / "fig3.png").exists()


def test_the_hash_changes_with_what_changes_the_numbers() -> None:
    def identity(*overrides: str) -> str:
        return identity_hash(synthetic.Experiment(settings(*overrides)).identity)

    fig1_hash = identity("+experiment=fig1")
    same = ["device=cpu", "threads=1", "results_dir=elsewhere", "widths=[5]", "activations.tanh.label=Th"]
    for override in same:
        assert identity("+experiment=fig1", override) == fig1_hash, override
    other = [
        "seed=1",
        "depth=3",
        "width=9",
        "samples=5",
        "draws=7",
        "activations.elu.module.alpha=2",
        "activations.tanh.gpn_root=-",
    ]
    hashes = {identity("+experiment=fig1", override) for override in other} | {identity("+experiment=fig2"), fig1_hash}
    assert len(hashes) == len(other) + 2
    assert identity("+experiment=fig2") == identity("+experiment=fig2", "draws=7")
    assert identity("+experiment=fig3") == identity("+experiment=fig3", "width=9")
    assert len({identity("+experiment=fig3", *extra) for extra in ([], ["draws=7"], ["widths=[5]"])}) == 3


def test_a_function_that_cannot_be_normalised_is_named() -> None:
    config = settings("+experiment=fig3")
    config.activations["elu"].module = {"_target_": "torch.nn.Threshold", "threshold": math.inf, "value": 1.0}
    with pytest.raises(UserError, match=r"activations\.elu"):
        synthetic.Experiment(config).functions()


@pytest.mark.parametrize("figure", FIGURES)
def test_missing_results_name_the_command(tmp_path: Path, figure: str) -> None:
    with pytest.raises(UserError, match=rf"python -m experiments\.synthetic \+experiment={figure} budget=quick"):
        FIGURES[figure].main([str(tmp_path / "quick")])


def test_published_numbers_give_the_published_figure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """To the pixel, with the same matplotlib on the same kind of machine, whatever the user's matplotlibrc says."""
    published = CONF.parent / "results" / "quick"
    for suffix in ("csv", "json"):
        shutil.copy(published / f"fig3.{suffix}", tmp_path)
    monkeypatch.setitem(plotting.STYLE, "savefig.dpi", plotting.DPI)
    with mpl.rc_context({"text.usetex": True, "axes.facecolor": "black", "savefig.bbox": "tight"}):
        fig3.main([str(tmp_path)])
    made = json.loads((published / "fig3.json").read_text())["provenance"]
    if (made["versions"]["matplotlib"], made["platform"]) == (mpl.__version__, f"Linux {platform.machine()}"):
        with Image.open(tmp_path / "fig3.png") as ours, Image.open(published / "fig3.png") as theirs:
            np.testing.assert_array_equal(np.asarray(ours), np.asarray(theirs))


def test_a_damaged_table_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    command(monkeypatch, tmp_path, "fig3")
    table = tmp_path / "smoke" / "fig3.csv"
    table.write_text("\n".join(table.read_text().splitlines()[:-1]) + "\n")
    with pytest.raises(UserError, match="expected 36 rows, found 35"):
        fig3.main([str(tmp_path / "smoke")])
