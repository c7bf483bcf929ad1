"""bsnn.training.loop: the protocol against a loop written out by hand, resumption, divergence, a stored curve."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from bsnn.cell import Cell
from bsnn.data import DATASETS, Dataset, load
from bsnn.engine.interval import Trainable
from bsnn.engine.reference import ReferenceStack, initial_network
from bsnn.errors import UserError
from bsnn.randomness import batch_order
from bsnn.results.metrics import METRICS, Row, gradient_summary, middle
from bsnn.training import checkpoints
from bsnn.training import loop as training
from bsnn.training.checkpoints import Progress, checkpoint_step, load_network
from bsnn.training.loop import (
    Ended,
    Event,
    NewRow,
    Stored,
    Took,
    _evaluation_steps,
    completed,
    make_stack,
    stack_key,
    train,
)

CELL = Cell(
    dataset="mnist",
    activation="tanh",
    activation_module={"_target_": "torch.nn.Tanh"},
    gpn=True,
    gpn_root="paper",
    batch_norm=True,
    seed=3,
    depth=6,
    width=16,
    epochs=2,
    max_steps=None,
    evaluations_per_epoch=2,
    batch_size=64,
    learning_rate=0.01,
    momentum=0.5,
    dtype="float64",
)


def images(n_train: int = 200, n_test: int = 100) -> Dataset:
    """Noise with a learnable class signal, in the shape of MNIST."""
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(n_train + n_test, 784, generator=g), torch.randint(10, (n_train + n_test,), generator=g)
    x[torch.arange(len(y)), y] += 5
    x = x.double()
    return Dataset(DATASETS["mnist"], x[:n_train], y[:n_train], x[n_train:], y[n_train:])


OTHERS = [
    dataclasses.replace(CELL, activation="relu", activation_module={"_target_": "torch.nn.ReLU"}, batch_norm=False),
    dataclasses.replace(CELL, seed=4, gpn=False),
    dataclasses.replace(CELL, activation="selu", activation_module={"_target_": "torch.nn.SELU"}),
]


def train_one(cell: Cell, data: Dataset, path: Path, on_row: Callable[[Row], None] = lambda row: None) -> Progress:
    """`cell` as a stack of one, with a checkpoint after every row."""
    events = train([cell], data, [path], checkpoint_seconds=0, keep_checkpoint=True)

    def seen() -> Iterator[Event]:
        with closing(events):
            for event in events:
                if isinstance(event, NewRow):
                    on_row(event.row)
                yield event

    (progress,) = completed(seen())
    return progress


def stop_after(took: int, events: Iterator[Event]) -> bool:
    """Take so many `Took`s of at least a step and close the iterator; whether it was stopped by that."""
    with closing(events):
        for event in events:
            took -= isinstance(event, Took) and event.steps > 0
            if took == 0:
                return True
    return False


@pytest.fixture
def step_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every `Took` a single step."""
    monkeypatch.setattr(training, "TOOK_SECONDS", 0.0)


def without_seconds(progress: Progress) -> dict:
    content = dataclasses.asdict(progress)
    del content["seconds"], content["segments"]
    for row in content["rows"]:
        del row["seconds"]
    return content


def test_rows_are_those_of_the_protocol_written_out(tmp_path: Path) -> None:
    """SGD with momentum by its formula (v <- 0.5 v + g, p <- p - lr v), batches, running means and test figures."""
    data = images()
    rows: list[Row] = []
    train_one(CELL, data, tmp_path / "c.pt", rows.append)

    net = initial_network(CELL, torch.device("cpu"))
    parameters = list(net.parameters())
    velocity = [torch.zeros_like(p) for p in parameters]
    expected = []
    step = 0
    for epoch in range(2):
        order, loss_sum, correct, seen, ratios = batch_order(3, epoch, 200), 0.0, 0, 0, []
        for batch in [order[:64], order[64:128], order[128:192], order[192:]]:  # the short one is kept
            net.train()
            logits = net(data.train_x[batch])
            loss = -torch.log_softmax(logits, 1)[torch.arange(len(batch)), data.train_y[batch]].mean()
            gradients = torch.autograd.grad(loss, parameters)
            norms = [g.square().sum().sqrt().item() for g in gradients[[p is net.V for p in parameters].index(True)]]
            ratios.append(max(norms) / min(norms))
            loss_sum, seen = loss_sum + loss.item() * len(batch), seen + len(batch)
            correct += (logits.argmax(1) == data.train_y[batch]).sum().item()
            with torch.no_grad():
                for p, v, g in zip(parameters, velocity, gradients, strict=True):
                    v.mul_(0.5).add_(g)
                    p.sub_(0.01 * v)
            step += 1
            if step % 2 == 0:  # two evaluations in an epoch of four steps
                net.eval()
                with torch.no_grad():
                    logits = net(data.test_x)
                test = 100 * (logits.argmax(1) == data.test_y).double().mean().item()
                test_loss = F.cross_entropy(logits, data.test_y).item()
                expected.append((step / 4, step, 100 * correct / seen, loss_sum / seen, test, test_loss, max(ratios)))
                ratios = []
    got = [
        (r.epoch, r.step, r.train_accuracy, r.train_loss, r.test_accuracy, r.test_loss, r.gradient_ratio_max)
        for r in rows[1:]
    ]
    np.testing.assert_allclose(got, expected, rtol=1e-9)
    assert rows[0].step == 0
    assert rows[0].train_accuracy is None
    assert rows[0].gradient_ratio is None
    assert rows[-1].train_loss < rows[1].train_loss  # and it learns


@pytest.mark.parametrize("stop_at_row", [1, 2, 4])
def test_an_exception_while_rows_come_keeps_what_was_trained(tmp_path: Path, stop_at_row: int) -> None:
    cell = dataclasses.replace(CELL, dtype="float32")
    data = images()
    data = dataclasses.replace(data, train_x=data.train_x.float(), test_x=data.test_x.float())
    whole = train_one(cell, data, tmp_path / "whole.pt")

    rows: list[Row] = []

    def interrupt(row: Row) -> None:
        rows.append(row)
        if len(rows) == stop_at_row:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_one(cell, data, tmp_path / "parts.pt", interrupt)
    assert checkpoint_step(tmp_path / "parts.pt", cell) == rows[-1].step
    seen: list[Row] = []
    parts = train_one(cell, data, tmp_path / "parts.pt", seen.append)
    assert without_seconds(parts) == without_seconds(whole)
    assert [row.step for row in seen] == [0, 2, 4, 6, 8]
    again = train_one(cell, data, tmp_path / "parts.pt")  # nothing is left to do
    assert dataclasses.asdict(again) == dataclasses.asdict(parts)


def test_a_stack_trains_its_cells_as_they_train_alone(tmp_path: Path) -> None:
    """Rows, sums and gradient norms, given in any order; a rounding apart, since a BLAS may treat a batch of matrices
    differently from one."""
    cells, data = [CELL, *OTHERS], images()
    events = list(train(cells, data, [tmp_path / f"{k}.pt" for k in range(4)]))
    rows = {k: [event.row for event in events if isinstance(event, NewRow) and event.index == k] for k in range(4)}
    assert sorted(event.index for event in events if isinstance(event, Ended)) == [0, 1, 2, 3]
    assert sum(event.networks * event.steps for event in events if isinstance(event, Took)) == 4 * 8
    assert not any(isinstance(event, Stored) for event in events)  # nothing was due
    assert not list(tmp_path.iterdir())
    together = completed(event for event in events)
    for k, cell in enumerate(cells):
        alone = train_one(cell, data, tmp_path / "alone.pt")
        (tmp_path / "alone.pt").unlink()
        assert [row.as_dict() for row in rows[k]] == together[k].rows
        found, expected = without_seconds(together[k]), without_seconds(alone)
        for got, wanted in zip(found.pop("rows"), expected.pop("rows"), strict=True):
            assert {key for key in got if got[key] is None} == {key for key in wanted if wanted[key] is None}
            for key, value in wanted.items():
                assert value is None or got[key] == pytest.approx(value, rel=1e-9), key
        for name, value in expected.items():
            assert found[name] == (value if value is None else pytest.approx(value, rel=1e-9)), name


def short_epochs(run: str, folder: Path) -> tuple[list[Cell], Dataset, list[Path]]:
    """Two epochs of 16 steps with rows after 8 and 16, the last mini-batch short."""
    cells = [dataclasses.replace(cell, evaluations_per_epoch=2) for cell in (CELL, *OTHERS)]
    return cells, images(n_train=64 * 15 + 30), [folder / f"{run}-{k}.pt" for k in range(4)]


@pytest.mark.usefixtures("step_by_step")
def test_stopped_anywhere_and_resumed_to_the_bit(tmp_path: Path) -> None:
    cells, data, paths = short_epochs("parts", tmp_path)
    whole = completed(train(*short_epochs("whole", tmp_path)))
    assert [row["step"] for row in whole[0].rows] == [0, 8, 16, 24, 32]
    stops: list[int] = []
    while stop_after(1 + len(stops) % 4, train(cells, data, paths, checkpoint_seconds=1e9)):
        [step] = {checkpoint_step(path, cell) for path, cell in zip(paths, cells, strict=True)}
        stops.append(step)
        rows = checkpoints.load(paths[0], cells[0])[1].rows
        assert [row | {"seconds": 0} for row in rows] == [row | {"seconds": 0} for row in whole[0].rows[: len(rows)]]
        assert len(stops) < 40
    assert stops == sorted(set(stops))  # no step twice
    assert sum(step % 8 != 0 for step in stops) > 3  # between rows, too
    events = list(train(cells, data, paths))
    told = [(event.index, event.row.step) for event in events if isinstance(event, NewRow)]
    assert sorted(told) == [(k, step) for k in range(4) for step in (0, 8, 16, 24, 32)]  # those of before, too
    assert [without_seconds(p) for p in completed(train(cells, data, paths))] == [without_seconds(p) for p in whole]
    # one member further than the others is refused: they can't share a stack
    paths[0].unlink()
    with pytest.raises(ValueError, match="equally far, found steps"):
        next(train(cells, data, paths))


@pytest.mark.usefixtures("step_by_step")
def test_stopped_within_an_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The row that was due comes first when the training goes on."""
    monkeypatch.setitem(training.EVALUATION_BATCH, "cpu", 40)  # three parts
    cells, data, paths = short_epochs("parts", tmp_path)
    whole = completed(train(*short_epochs("whole", tmp_path)))
    trained = False
    with closing(train(cells, data, paths)) as events:
        for event in events:
            if event == Took(4, 0) and trained:
                break
            trained = trained or event == Took(4, 1)
    assert checkpoint_step(paths[0], cells[0]) == 8
    assert [row["step"] for row in checkpoints.load(paths[0], cells[0])[1].rows] == [0]
    assert [without_seconds(p) for p in completed(train(cells, data, paths))] == [without_seconds(p) for p in whole]


@pytest.mark.usefixtures("step_by_step")
def test_a_row_that_a_stop_left_out_at_the_goal_is_stored(tmp_path: Path) -> None:
    """Stopped after the goal's last step and before its evaluation; the same goal then stores the row."""
    cells, data, paths = short_epochs("parts", tmp_path)
    assert stop_after(16, train(cells, data, paths, goal=16))
    assert [row["step"] for row in checkpoints.load(paths[0], cells[0])[1].rows] == [0, 8]
    events = list(train(cells, data, paths, goal=16))
    assert sorted(event.index for event in events if isinstance(event, Stored)) == [0, 1, 2, 3]
    assert [row["step"] for row in checkpoints.load(paths[0], cells[0])[1].rows] == [0, 8, 16]


@pytest.mark.usefixtures("step_by_step")
@pytest.mark.parametrize("with_row", [[0], [1], [0, 2, 3]])
def test_members_of_which_some_lack_a_row(tmp_path: Path, with_row: list[int]) -> None:
    """Checkpoints of one step, those of one stack with its row, those of another, stopped before it, without."""
    cells, data, paths = short_epochs("parts", tmp_path)
    whole = completed(train(*short_epochs("whole", tmp_path)))
    without = [k for k in range(4) if k not in with_row]
    list(train([cells[k] for k in with_row], data, [paths[k] for k in with_row], goal=8))
    assert stop_after(8, train([cells[k] for k in without], data, [paths[k] for k in without]))
    assert [len(checkpoints.load(paths[k], cells[k])[1].rows) for k in (with_row[0], without[0])] == [2, 1]
    together = completed(train(cells, data, paths))
    assert [[row["step"] for row in progress.rows] for progress in together] == [[0, 8, 16, 24, 32]] * 4
    for progress, expected in zip(together, whole, strict=True):
        for row, wanted in zip(progress.rows, expected.rows, strict=True):
            assert row["train_loss"] == (wanted["train_loss"] and pytest.approx(wanted["train_loss"], rel=1e-9))
            assert row["train_accuracy"] == wanted["train_accuracy"]


def test_up_to_a_goal_and_on(tmp_path: Path) -> None:
    cells, data, paths = short_epochs("parts", tmp_path)
    whole = completed(train(*short_epochs("whole", tmp_path)))
    events = list(train(cells, data, paths, goal=16))
    assert sorted(event.index for event in events[-4:] if isinstance(event, Stored)) == [0, 1, 2, 3]
    assert not any(isinstance(event, Ended) for event in events)
    assert [row["step"] for row in checkpoints.load(paths[0], cells[0])[1].rows] == [0, 8, 16]
    assert not any(isinstance(event, Took) for event in train(cells, data, paths, goal=16))
    rest = completed(train(cells, data, paths, goal=99))
    assert [without_seconds(p) for p in rest] == [without_seconds(p) for p in whole]


@pytest.mark.usefixtures("step_by_step")
def test_segments_name_the_processes_that_trained(tmp_path: Path) -> None:
    """Those of one kind that follow each other are one; one that took no step is none."""
    for took, origin in ((2, "a"), (3, "a"), (4, "b"), (0, "c"), (99, "a")):
        events = train([CELL], images(), [tmp_path / "c.pt"], origins=[{"commit": origin}], keep_checkpoint=True)
        if took:
            stop_after(took, events)
        else:
            next(events)
            events.close()
    segments = checkpoints.load(tmp_path / "c.pt", CELL)[1].segments
    parts = [(part["first_step"], part["last_step"], part["provenance"]["commit"]) for part in segments]
    assert parts == [(0, 5, "a"), (5, 8, "b")]
    assert all(s["started"] <= s["finished"] for s in segments)


@pytest.mark.usefixtures("step_by_step")
def test_checkpoints_come_when_they_are_due_and_take_a_tenth_of_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, written = 1000.0, []

    def save(*_: object) -> None:
        nonlocal now
        now += 2
        written.append(now)

    monkeypatch.setattr(training, "time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr(checkpoints, "save", save)
    cell = dataclasses.replace(CELL, evaluations_per_epoch=1, epochs=1)
    for event in train([cell], images(n_train=64 * 50), [tmp_path / "c.pt"], checkpoint_seconds=3):
        now += isinstance(event, Took) and event.steps
    assert written[0] == 1000 + 3 + 2
    gaps = {later - earlier for earlier, later in itertools.pairwise(written)}
    assert gaps == {20 + 2}  # of which 2 were spent writing


@pytest.mark.usefixtures("step_by_step")
def test_a_diverged_member_ends_at_once_and_the_others_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its weights become nan after three steps; the others' numbers are as if it hadn't."""
    cells, data, paths = [CELL, *OTHERS], images(), [tmp_path / f"{k}.pt" for k in range(4)]
    undisturbed = completed(train(cells, data, paths))
    stacks: list[Trainable] = []
    monkeypatch.setattr(training, "make_stack", lambda *args: stacks.append(make_stack(*args)) or stacks[0])
    steps, ends = 0, {}
    for event in train(cells, data, paths):
        if isinstance(event, Took) and event.steps:
            steps += event.steps
            if steps == 3:
                k = [cell.name for cell in stacks[0].cells].index(OTHERS[1].name)
                stacks[0].load_member(k, {name: value * math.nan for name, value in stacks[0].member(k).items()})
        elif isinstance(event, Ended):
            ends[event.index] = event.progress
    assert [ends[k].diverged_at_step for k in range(4)] == [None, None, 4, None]
    assert next(iter(ends)) == 2
    assert [ends[k].step for k in range(4)] == [8, 8, 4, 8]
    assert [row["step"] for row in ends[2].rows] == [0, 2, 4]
    for k in (0, 1, 3):
        assert without_seconds(ends[k]) == without_seconds(undisturbed[k])


def test_a_function_with_parameters_is_trained_by_the_definition(tmp_path: Path) -> None:
    """PReLU's slope is a parameter: autograd and torch's optimiser train it, and its checkpoint holds it."""
    cell = dataclasses.replace(CELL, activation="prelu", activation_module={"_target_": "torch.nn.PReLU"}, gpn=False)
    assert stack_key(cell) != stack_key(CELL)
    assert isinstance(make_stack([cell], torch.device("cpu")), ReferenceStack)
    whole = train_one(cell, images(), tmp_path / "whole.pt")
    slope = load_network(tmp_path / "whole.pt", cell).activation.weight
    assert slope.dtype == torch.float64
    assert slope.item() != 0.25
    part = train_one(dataclasses.replace(cell, max_steps=4), images(), tmp_path / "part.pt")
    assert part.rows[-1]["train_loss"] == whole.rows[2]["train_loss"]


def test_the_network_in_a_checkpoint(tmp_path: Path) -> None:
    """What evaluates as the last row did."""
    data = images()
    progress = train_one(CELL, data, tmp_path / "c.pt")
    network = load_network(tmp_path / "c.pt", CELL)
    assert not network.training
    with torch.no_grad():
        logits = network(data.test_x)
    assert 100 * (logits.argmax(1) == data.test_y).double().mean().item() == progress.rows[-1]["test_accuracy"]
    assert F.cross_entropy(logits, data.test_y).item() == pytest.approx(progress.rows[-1]["test_loss"], rel=1e-12)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_cpus_numbers(tmp_path: Path) -> None:
    data = images()
    tensors = {name: getattr(data, name).cuda() for name in ("train_x", "train_y", "test_x", "test_y")}
    cpu = without_seconds(train_one(CELL, data, tmp_path / "cpu.pt"))
    gpu = without_seconds(train_one(CELL, dataclasses.replace(data, **tensors), tmp_path / "gpu.pt"))
    for on_cpu, on_gpu in zip(cpu["rows"], gpu["rows"], strict=True):
        assert on_gpu == pytest.approx(on_cpu, rel=1e-8)


def test_divergence_is_a_result(tmp_path: Path) -> None:
    """A gradient that overflows makes the loss nan: the step is named and training stops at that interval's end."""
    cell = dataclasses.replace(CELL, learning_rate=1e308, batch_norm=False)
    progress = train_one(cell, images(), tmp_path / "c.pt")
    assert progress.diverged_at_step is not None
    assert 2 <= progress.diverged_at_step <= progress.step < 8
    assert not math.isfinite(progress.rows[-1]["train_loss"])


def test_checkpoint_of_another_cell_or_a_damaged_one_is_refused(tmp_path: Path) -> None:
    path, data = tmp_path / "c.pt", images()
    train_one(CELL, data, path)
    with pytest.raises(UserError, match="another cell"):
        train_one(dataclasses.replace(CELL, seed=4), data, path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match="delete it"):
        train_one(CELL, data, path)


def test_max_steps_cuts_training(tmp_path: Path) -> None:
    progress = train_one(dataclasses.replace(CELL, max_steps=5), images(), tmp_path / "c.pt")
    assert [row["step"] for row in progress.rows] == [0, 2, 4, 5]
    assert progress.rows[-1]["epoch"] == 5 / 4


def test_evaluation_steps() -> None:
    assert _evaluation_steps(938, 1, 938 * 3) == [938, 1876, 2814]
    assert _evaluation_steps(10, 3, 20) == [4, 7, 10, 14, 17, 20]
    assert _evaluation_steps(2, 10, 4) == [1, 2, 3, 4]
    assert _evaluation_steps(938, 10, 2) == [2]


def test_seed_means_same_weights_for_every_activation_and_another_order_for_every_epoch() -> None:
    relu = dataclasses.replace(CELL, activation="relu", activation_module={"_target_": "torch.nn.ReLU"}, gpn=False)
    weights = [initial_network(c, torch.device("cpu")).V for c in (CELL, relu, dataclasses.replace(CELL, seed=4))]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    orders = [batch_order(seed, epoch, 1000) for seed in (0, 1) for epoch in (0, 1)]
    assert len({tuple(order.tolist()) for order in orders}) == 4
    assert all(sorted(order.tolist()) == list(range(1000)) for order in orders)


def test_the_middle_of_values_with_inf_and_nan() -> None:
    def of(*values: float) -> float:
        return float(middle(np.array(values)))

    assert of(3.0, 1.0, 2.0) == 2.0
    assert of(4.0, 1.0, 3.0, 2.0) == 2.0
    assert of(1.0, np.inf, np.nan) == np.inf
    assert of(1.0, np.nan) == 1.0
    assert np.isnan(of(1.0, np.nan, np.nan))


def test_gradient_summary_keeps_zero_and_overflow_as_results() -> None:
    norms = np.array([[1.0, 4.0], [2.0, 6.0], [1.0, 10.0]])
    assert gradient_summary(norms) == {
        "gradient_ratio": 4.0,
        "gradient_ratio_max": 10.0,
        "gradient_norm_max": 10.0,
        "gradient_norm_min": 1.0,
    }
    one_layer_dead = gradient_summary(np.array([[0.0, 1.0]] * 3))
    assert one_layer_dead["gradient_ratio"] == math.inf
    all_dead = gradient_summary(np.zeros((3, 2)))
    assert math.isnan(all_dead["gradient_ratio"])
    assert all_dead["gradient_norm_max"] == 0
    mostly_alive = gradient_summary(np.array([[1.0, 2.0], [1.0, 2.0], [0.0, 0.0]]))
    assert mostly_alive["gradient_ratio"] == 2.0
    assert math.isnan(mostly_alive["gradient_ratio_max"])


def test_every_metric_is_documented() -> None:
    assert set(METRICS) == {f.name for f in dataclasses.fields(Row)}
    assert all(m["definition"] and m["unit"] for m in METRICS.values())


def test_golden_curve_on_real_mnist(tmp_path: Path, root: Path) -> None:
    """A small training in float64 whose numbers are stored: a change of the code that moves them shows. At a rate that
    doesn't amplify rounding: at 1e-2 another CPU's last bits change the loss by 1e-4 within 30 steps.

    To renew it after a deliberate change: delete the file, run this test twice, and raise bsnn.cell.PROTOCOL_VERSION.
    """
    cell = dataclasses.replace(
        CELL, depth=20, width=32, epochs=1, max_steps=30, evaluations_per_epoch=100, learning_rate=1e-3
    )
    progress = without_seconds(train_one(cell, load("mnist", dtype=torch.float64), tmp_path / "c.pt"))
    path = root / "tests" / "golden" / "mnist-tanh-gpn-bn-s3.json"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(progress["rows"], indent=1) + "\n")
        pytest.fail(f"{path.name} was missing and has been written: look at it and run again")
    for got, stored in zip(progress["rows"], json.loads(path.read_text()), strict=True):
        assert got.keys() == stored.keys()
        for key, value in stored.items():
            assert got[key] == (value if value is None else pytest.approx(value, rel=1e-6)), key
