"""Findings of the shrinkage section beyond the source's statements."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from bsnn.results.markdown import table as markdown_table
from experiments.shrinkage.report.columns import last
from experiments.shrinkage.report.rules_networks import skimming_error
from experiments.shrinkage.report.rules_steps import by_depth


def constants(maps: pd.DataFrame) -> list[str]:
    deep = last(maps[(maps.phase == "critical") & (maps.function == "relu")]).iloc[0]
    erf = last(maps[(maps.phase == "critical") & (maps.function == "erf")]).iloc[0]
    return [
        "**The constants of the asymptotic rates.** From 1 - P(1 - d) = d - 2 sqrt 2 / (3 pi) d^(3/2) + ... (ReLU) and "
        "d - 2/5 d^2 + ... (critical erf) follow 1 - rho_L ~ 9 pi^2 / (2 L^2) = 44.4 / L^2 and 2.5 / L, whatever the "
        f"inputs. Iterated: {deep.distance * deep.layer**2:.1f} / L^2 at L = {deep.layer} and "
        f"{erf.distance * erf.layer:.2f} / L at L = {erf.layer}."
    ]


def looseness(bounds: pd.DataFrame, depth: pd.DataFrame) -> list[str]:
    rows = []
    for name in ("relu", "erf"):
        pairs = depth[(depth.function == name) & (depth.kind == "pairs")]
        deepest = pairs[pairs.depth == pairs.depth.max()]
        constant = float((deepest.bound * np.sqrt(deepest.depth)).mean())
        informative = math.ceil((constant / 2) ** 2)
        ratio = float(deepest.bound.mean() / deepest.infinite.max())
        rows.append([name, f"{constant:.3f}", informative, f"{deepest.depth.iloc[0]}: {ratio:.3g}"])
    ratio_1, ratio_2 = (float((one.gain / one.bound).min()) for _, one in bounds[bounds.bound > 0].groupby("theorem"))
    return [
        "**How far the bounds are from the truth.** 1 - rho <= 2 always, so inequalities 4.1 and 4.2 say something "
        "from a certain depth on; beyond it the truth leaves them behind. Theorems 1 and 2: the smallest gain / bound "
        f"that we met is {ratio_1:.3g} and {ratio_2:.3g}.",
        markdown_table(
            ["function", "constant of 1 / sqrt L", "informative from L", "bound / infinite width at L"], rows
        ),
    ]


def farthest_pairs(depth: pd.DataFrame) -> list[str]:
    chosen = depth[depth.kind == "farthest"].sort_values(["function", "depth"])
    excess = chosen.groupby("depth")[["distance", "infinite"]].sum()
    deepest = excess.index[excess.distance > excess.infinite].max()
    rows = [
        [
            level,
            *(
                f"{one.distance:.3g} / {one.infinite:.3g} = {one.distance / one.infinite:.2g}"
                for one in (here[here.function == name].iloc[0] for name in ("relu", "erf"))
            ),
        ]
        for level, here in chosen.groupby("depth")
    ]
    return [
        f"**Infinite width speaks of typical pairs.** In networks of the search's finite width, gradient ascent on the "
        "inputs finds pairs that stay several times farther apart than any pair does at infinite width, up to depth "
        f"{deepest}; where depth exceeds the width the whole network has shrunk more than infinite width says, and the "
        "search can't help it. The bounds hold for all of them. 1 - rho found / at infinite width:",
        markdown_table(["depth", "ReLU", "erf"], rows),
    ]


def fluctuations(fig1: pd.DataFrame) -> list[str]:
    above = fig1[fig1.rho > fig1.bound + 1e-9]
    worst = (above.rho - above.bound).max() if len(above) else 0.0
    where = f", {(above.rho_0.abs() <= 0.5).mean():.0%} of them with |rho_0| <= 0.5" if len(above) else ""
    return [
        "**Figure 1's bound at finite width.** Remark 2's curve equals the exact one at rho_0 = 0 and 1, so a network "
        f"of finite width crosses it near 0 whenever it fluctuates upwards: {len(above)} of {len(fig1)} points, by "
        f"{worst:.3f} at most{where}. At infinite width it is never crossed. For rho_0 < 0 the source's argument on "
        "[0, 1] says nothing by itself; |rho_0| bounds it, since the series has no negative coefficient."
    ]


def operator_norm(fig3: pd.DataFrame) -> list[str]:
    chosen = fig3[(fig3.phase == "critical") & (fig3.quantity == "jacobian")]
    mean = chosen.groupby(["layer", "series"]).value.mean().unstack()
    layers = [layer for layer in mean.index if layer & (layer - 1) == 0]
    rows = [
        [
            layer,
            f"{mean.largest[layer]:.2f}",
            f"{mean['root mean square'][layer]:.2f}",
            f"{math.sqrt((layer + 1) * (1 + 1 / layer) ** layer):.2f}",
        ]
        for layer in layers
    ]
    return [
        "**The operator norm is not what criticality keeps at 1.** P'(1) = 1 fixes the mean square of the Jacobian's "
        "singular values. The largest of them is larger and grows, as random matrix theory has it (the source quotes "
        "it in its introduction): for a product of L wide Gaussian matrices like sqrt((L + 1)^(L + 1) / L^L) ~ "
        "sqrt(e L). At finite width N a typical draw falls behind, as its mean square does: both fluctuate, by factors "
        "exp(O(L / N)). Theorem 1 is proved for the mean square, so it holds for the norm all the more. Critical erf, "
        "means over draws:",
        markdown_table(["layer", "largest", "root mean square", "wide Gaussian product, largest"], rows),
    ]


def theorem_2(residual: pd.DataFrame, bounds: pd.DataFrame) -> list[str]:
    chosen = bounds[bounds.theorem == 2]
    return [
        "**Theorem 2's proof.** From property 8 the proof seems to take e(p id + q g) >= q e(g); the property gives "
        "q e(g) / (1 + p e(g)), and without the denominator it is false (a test has a counterexample). The theorem "
        "stands: property 6, applied to the whole power series P_l with its identity term, gives e(P_l~) >= "
        "sigma^2 (1 - rho) |phi - phi~|^2 / (2 (1 + sigma^2 |phi'|^2)) at once. The last step also shows that the norm "
        f"in the denominator is that of phi'. Excess convexity / bound in {len(chosen)} residual networks: "
        f"{(chosen.excess / chosen.excess_bound).min():.3g} at least.",
        "**Residual networks trade the same way.** ReLU blocks keep the gain at 1 and shrink; erf blocks without "
        f"biases have rho = 0 for a fixed point and their gain explodes: at sigma = {residual.sigma.max():g} and block "
        f"{residual.layer.max()} it is {_gain(residual, 'erf', residual.sigma.max()):.3g} (infinite width), "
        f"{_gain(residual, 'erf', residual.sigma.min()):.3g} at sigma = {residual.sigma.min():g}.",
    ]


def _gain(residual: pd.DataFrame, name: str, sigma: float) -> float:
    return float(last(residual[(residual.function == name) & (residual.sigma == sigma)]).gain.iloc[0])


def skimming(fig4: pd.DataFrame) -> list[str]:
    rows = []
    full = fig4[fig4.network == "full"]
    block = int(full[full.quantity == "farthest"]["index"].iloc[0])
    for stage in ("before", "after"):
        here = full[(full["index"] == block) & (full.stage == stage)].groupby("quantity").value.mean()
        rows.append([stage, *(f"{1 - here[name]:.3f}" for name in ("mean distance", "largest distance", "farthest"))])
    error, apart = skimming_error(fig4)
    infinite = float(fig4[(fig4.quantity == "infinite") & (fig4["index"] == block)].value.iloc[0])
    return [
        f"**What enters the block.** At infinite width every pair of inputs has rho >= {1 - infinite:.3f} there. A "
        "network of finite width scatters around this, and a search finds the pairs that do best. rho before and after "
        "our training, which the source calls no significant change in its own:",
        markdown_table(["training", "mean of test pairs", "least of test pairs", "least, by gradient ascent"], rows),
        "**How linear the block is.** Before training full and skimmed network differ after the block by 1 - rho = "
        f"{error:.4f}, mean over test images, where two images differ by {apart:.4f}: a cone of 1 - rho = 0.03 is 14 "
        "degrees wide, and 16 layers bend even that. The linearised block errs, in squared distance, by "
        f"{error / apart:.0%} of what tells two inputs apart there.",
    ]


def linear_starts(steps: pd.DataFrame) -> list[str]:
    chosen = steps[steps.stage == "test"].groupby(["network", "depth"]).rate.first()
    names, depths = list(dict.fromkeys(steps.network)), sorted(steps.depth.unique())
    rows = []
    for name in names:
        middle = by_depth(steps, name).median(skipna=False)
        cells = [f"{middle[depth]:.0f} ({chosen[name, depth]:g})" for depth in depths]
        rows.append([name, *cells])
    return [
        "**Steps by depth, and linear starts.** Median steps to a training loss of 1 nat, MNIST, and the learning "
        "rate, the best of the grid (nan: some draw didn't get there). Where a network that stays linear gets there as "
        "fast, the training shows that a linear start spares steps, not that trainable functions are needed for it.",
        markdown_table(["network", *(f"depth {depth}" for depth in depths)], rows),
    ]
