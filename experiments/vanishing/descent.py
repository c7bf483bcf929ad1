"""Parts of experiments.vanishing on descent: on the talk's quadratic, along normalised gradients, by the tricks."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from dataclasses import astuple, fields
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F  # noqa: N812

from bsnn.cell import Cell
from bsnn.data import Dataset, load
from bsnn.engine.reference import initial_network
from bsnn.network import BSNN
from bsnn.propagation import each
from bsnn.results import provenance
from bsnn.vanishing import quadratic
from bsnn.vanishing.equal_steps import METHODS, Point, adam, end_loss, train
from bsnn.vanishing.tricks import FreeBSNN, decayed, normalised_sgd
from experiments.units import Row, Work
from experiments.vanishing.config import VanishingConfig, workers

Unit = tuple[Any, ...]

ANGLE = 0.6  # radians by which the quadratic's coordinates are rotated
BATCH, MOMENTUM = 64, 0.5  # of the paper's training


def steps_against_eta(config: VanishingConfig) -> Work:
    sizes = config.sizes.quadratic

    def rows(unit: Unit) -> list[Row]:
        s, condition = unit
        eigenvalues = (1 / condition, 1.0)
        limit, best = quadratic.threshold(eigenvalues, s), quadratic.best_step(eigenvalues, s)
        grid = limit * np.geomspace(1e-3, 1.1, sizes.points)
        etas = [(eta, "") for eta in grid] + [(best, "best"), (1.001 * limit, "above the threshold")]
        Q, start = quadratic.turned(eigenvalues, ANGLE), quadratic.turn(ANGLE) @ np.ones(2)
        steps = quadratic.steps_until(sizes.tolerance, start, Q, [eta for eta, _ in etas], s, sizes.most)
        rhos = quadratic.contraction([eta for eta, _ in etas], eigenvalues, s)
        bounds = [quadratic.steps_to(sizes.tolerance, rho) for rho in rhos]
        return [
            [float(eta), special, float(rho), bound, float(found)]
            for (eta, special), rho, bound, found in zip(etas, rhos, bounds, steps, strict=True)
        ]

    units = [(s, condition) for s in (quadratic.EXACT, quadratic.TALK) for condition in sizes.conditions]
    columns = ("eta", "special", "rho", "steps_bound", "steps")
    return Work(("s", "condition"), columns, units, rows, {"version": 1})


def paths(config: VanishingConfig) -> Work:
    """Follow paths from theta = (1, 1) on the talk's Q; decay as in bsnn.vanishing.tricks.decayed."""
    sizes = config.sizes.paths
    Q = np.diag(quadratic.TALK_EIGENVALUES)

    def rows(unit: Unit) -> list[Row]:
        rule, eta, decades = unit
        etas = [decayed(eta, decades, step, sizes.steps) for step in range(sizes.steps)]
        path = quadratic.descend(np.ones(2), Q, etas, normalised=rule == "normalised")
        kept = [step for step in range(len(path)) if step < 50 or step % 10 == 0]
        return [[step, *path[step].tolist()] for step in kept]

    limit = quadratic.threshold(quadratic.TALK_EIGENVALUES)
    units = [("gradient", share * limit, 0.0) for share in sizes.gradient]
    units += [("normalised", eta, decades) for decades in sizes.decades for eta in sizes.normalised]
    return Work(("rule", "eta", "decades"), ("step", "theta_1", "theta_2"), units, rows, {"version": 1})


def deep(config: VanishingConfig) -> Work:
    """Train on all images at every step: if a run doesn't converge, its step is the reason, and not noise.

    E = mean ||f - t||^2 / 2, t one-hot: a cross-entropy has no minimum that could be reached.
    """
    sizes = config.sizes.deep
    kinds = {"normalised": FreeBSNN, "gradient": FreeBSNN, "constrained": BSNN}

    def rows(unit: Unit) -> list[Row]:
        rule, decades = unit
        data = _mnist(config.device)
        x_BD, y_B = data.train_x[: sizes.images], data.train_y[: sizes.images]
        target_BC = F.one_hot(y_B, data.spec.classes).float()

        def run(eta: float) -> list[Row]:
            torch.set_flush_denormal(True)
            cell = _cell(config, "tanh", sizes.depth, sizes.width, config.seed)
            network = initial_network(cell, x_BD.device, kinds[rule])
            plain = rule == "gradient"
            optimiser = torch.optim.SGD(network.parameters(), lr=eta) if plain else normalised_sgd(network, eta)
            result: list[Row] = []
            for step in range(sizes.steps):
                for group in optimiser.param_groups:
                    group["lr"] = decayed(eta, decades, step, sizes.steps)
                optimiser.zero_grad()
                loss = F.mse_loss(network(x_BD), target_BC, reduction="sum") / (2 * len(x_BD))
                loss.backward()
                kept = step % sizes.every == 0 or step == sizes.steps - 1
                before = network.V.detach().clone() if kept else network.V.detach()
                optimiser.step()
                if kept:
                    moved = float((network.V.detach() - before).norm()) / math.sqrt(sizes.depth)
                    result.append([eta, step, float(loss.detach()), moved])
                if not loss.isfinite():
                    break
            return result

        etas = sizes.rates if rule == "gradient" else sizes.etas
        return [row for found in each(run, etas, workers(config)) for row in found]

    units = [("normalised", decades) for decades in sizes.decades] + [("constrained", 0.0), ("gradient", 0.0)]
    return Work(("rule", "decades"), ("eta", "step", "loss", "moved"), units, rows, _identity(config, ["tanh"]))


def tricks(config: VanishingConfig) -> Work:
    """Choose each method's rate on one seed, by the training loss at the end, and train other seeds at that rate."""
    sizes = config.sizes.tricks

    def rows(unit: Unit) -> list[Row]:
        name, function = unit

        def run(chosen: tuple[float, int]) -> list[Point]:
            rate, seed = chosen
            cell = _cell(config, function, sizes.depth, sizes.width, seed, rate)
            return train(METHODS[name], cell, _mnist(config.device), sizes.steps, sizes.every, sizes.evaluated)

        search = [(rate, config.seed) for rate in sizes.rates[name]]
        tried = each(run, search, workers(config))
        best, _ = search[int(np.argmin([end_loss(points, sizes.steps) for points in tried]))]
        others = [(best, config.seed + number) for number in range(1, 1 + sizes.seeds)]
        trained = zip([*search, *others], [*tried, *each(run, others, workers(config))], strict=True)
        return [[rate, seed, seed == config.seed, *astuple(point)] for (rate, seed), run in trained for point in run]

    units = [(name, function) for name in METHODS for function in config.activations]
    columns = ("rate", "seed", "search", *(one.name for one in fields(Point)))
    identity = _identity(config, config.activations)
    return Work(("method", "function"), columns, units, rows, {**identity, "version": 2})


def epsilon(config: VanishingConfig) -> Work:
    """Train plain ReLU with Adam and several eps, as part tricks trains it."""
    sizes = config.sizes.epsilon

    def rows(unit: Unit) -> list[Row]:
        eps = float(str(unit[0]))

        def run(rate: float) -> list[Row]:
            cell = _cell(config, "relu", sizes.depth, sizes.width, config.seed, rate)
            points = train(adam(eps), cell, _mnist(config.device), sizes.steps, sizes.every, sizes.evaluated)
            return [[rate, *astuple(point)] for point in points]

        return [row for found in each(run, sizes.rates, workers(config)) for row in found]

    columns = ("rate", *(one.name for one in fields(Point)))
    return Work(("eps",), columns, [(eps,) for eps in sizes.epsilons], rows, _identity(config, ["relu"]))


def _identity(config: VanishingConfig, names: Iterable[str]) -> dict[str, Any]:
    """Return the code's version and the functions of these names."""
    chosen = {name: config.activations[name] for name in names}
    return {
        "version": 1,
        "activations": {
            name: {"module": activation.module, "gpn_root": activation.gpn_root} for name, activation in chosen.items()
        },
    }


def _cell(config: VanishingConfig, function: str, depth: int, width: int, seed: int, rate: float = 1.0) -> Cell:
    """Make a plain cell of the paper's training; its epochs and evaluations don't matter here."""
    activation = config.activations[function]
    return Cell(
        dataset="mnist",
        activation=function,
        activation_module=activation.module,
        gpn=False,
        gpn_root=activation.gpn_root,
        batch_norm=False,
        seed=seed,
        depth=depth,
        width=width,
        epochs=1,
        max_steps=None,
        evaluations_per_epoch=1,
        batch_size=BATCH,
        learning_rate=rate,
        momentum=MOMENTUM,
        dtype="float32",
    )


@functools.cache
def _mnist(device: str) -> Dataset:
    return load("mnist", provenance.choose_device(device))
