"""bsnn.training: the protocol against a loop written out by hand, resumption, divergence, a stored curve."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from bsnn.cell import Cell
from bsnn.data import DATASETS, Dataset, load
from bsnn.errors import UserError
from bsnn.metrics import METRICS, Row, gradient_summary
from bsnn.randomness import batch_order
from bsnn.training import Progress, _evaluation_steps, make_network, train

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


def without_seconds(progress: Progress) -> dict:
    content = dataclasses.asdict(progress)
    del content["seconds"]
    for row in content["rows"]:
        del row["seconds"]
    return content


def test_rows_are_those_of_the_protocol_written_out(tmp_path: Path) -> None:
    """SGD with momentum by its formula (v <- 0.5 v + g, p <- p - lr v), batches, running means and test figures."""
    data = images()
    rows: list[Row] = []
    train(CELL, data, tmp_path / "c.pt", rows.append)

    net = make_network(CELL, torch.device("cpu"))
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
def test_resumed_training_equals_an_uninterrupted_one_to_the_bit(tmp_path: Path, stop_at_row: int) -> None:
    cell = dataclasses.replace(CELL, dtype="float32")
    data = images()
    data = dataclasses.replace(data, train_x=data.train_x.float(), test_x=data.test_x.float())
    whole = train(cell, data, tmp_path / "whole.pt")

    rows: list[Row] = []

    def interrupt(row: Row) -> None:
        rows.append(row)
        if len(rows) == stop_at_row:
            raise KeyboardInterrupt  # before this row's checkpoint is written

    with pytest.raises(KeyboardInterrupt):
        train(cell, data, tmp_path / "parts.pt", interrupt)
    seen: list[Row] = []
    parts = train(cell, data, tmp_path / "parts.pt", seen.append)
    assert without_seconds(parts) == without_seconds(whole)
    assert [row.step for row in seen] == [0, 2, 4, 6, 8]
    again = train(cell, data, tmp_path / "parts.pt")  # nothing is left to do
    assert dataclasses.asdict(again) == dataclasses.asdict(parts)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_cpus_numbers(tmp_path: Path) -> None:
    data = images()
    tensors = {name: getattr(data, name).cuda() for name in ("train_x", "train_y", "test_x", "test_y")}
    cpu = without_seconds(train(CELL, data, tmp_path / "cpu.pt"))
    gpu = without_seconds(train(CELL, dataclasses.replace(data, **tensors), tmp_path / "gpu.pt"))
    for on_cpu, on_gpu in zip(cpu["rows"], gpu["rows"], strict=True):
        assert on_gpu == pytest.approx(on_cpu, rel=1e-8)


def test_divergence_is_a_result(tmp_path: Path) -> None:
    """A gradient that overflows makes the loss nan: the step is named and training stops at that interval's end."""
    cell = dataclasses.replace(CELL, learning_rate=1e308, batch_norm=False)
    progress = train(cell, images(), tmp_path / "c.pt")
    assert progress.diverged_at_step is not None
    assert 2 <= progress.diverged_at_step <= progress.step < 8
    assert not math.isfinite(progress.rows[-1]["train_loss"])


def test_checkpoint_of_another_cell_or_a_damaged_one_is_refused(tmp_path: Path) -> None:
    path, data = tmp_path / "c.pt", images()
    train(CELL, data, path)
    with pytest.raises(UserError, match="another cell"):
        train(dataclasses.replace(CELL, seed=4), data, path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match="delete it"):
        train(CELL, data, path)


def test_max_steps_cuts_training(tmp_path: Path) -> None:
    progress = train(dataclasses.replace(CELL, max_steps=5), images(), tmp_path / "c.pt")
    assert [row["step"] for row in progress.rows] == [0, 2, 4, 5]
    assert progress.rows[-1]["epoch"] == 5 / 4


def test_evaluation_steps() -> None:
    assert _evaluation_steps(938, 1, 938 * 3) == [938, 1876, 2814]
    assert _evaluation_steps(10, 3, 20) == [4, 7, 10, 14, 17, 20]
    assert _evaluation_steps(2, 10, 4) == [1, 2, 3, 4]
    assert _evaluation_steps(938, 10, 2) == [2]


def test_seed_means_same_weights_for_every_activation_and_another_order_for_every_epoch() -> None:
    relu = dataclasses.replace(CELL, activation="relu", activation_module={"_target_": "torch.nn.ReLU"}, gpn=False)
    weights = [make_network(c, torch.device("cpu")).V for c in (CELL, relu, dataclasses.replace(CELL, seed=4))]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    orders = [batch_order(seed, epoch, 1000) for seed in (0, 1) for epoch in (0, 1)]
    assert len({tuple(order.tolist()) for order in orders}) == 4
    assert all(sorted(order.tolist()) == list(range(1000)) for order in orders)


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
    """A small training in float64 whose numbers are stored: a change of the code that moves them shows.

    To renew it after a deliberate change: delete the file, run this test twice, and raise bsnn.cell.PROTOCOL_VERSION.
    """
    cell = dataclasses.replace(CELL, depth=20, width=32, epochs=1, max_steps=30, evaluations_per_epoch=100)
    progress = without_seconds(train(cell, load("mnist", dtype=torch.float64), tmp_path / "c.pt"))
    path = root / "tests" / "golden" / "mnist-tanh-gpn-bn-s3.json"
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(progress["rows"], indent=1) + "\n")
        pytest.fail(f"{path.name} was missing and has been written: look at it and run again")
    for got, stored in zip(progress["rows"], json.loads(path.read_text()), strict=True):
        assert got.keys() == stored.keys()
        for key, value in stored.items():
            assert got[key] == (value if value is None else pytest.approx(value, rel=1e-6)), key
