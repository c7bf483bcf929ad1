"""The rules, both ways: on the paper's own numbers, and on numbers made to confirm and to refute each claim."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from bsnn import paper
from bsnn.data import load
from bsnn.results import claims, claims_synthetic
from bsnn.results.budgets import Key
from bsnn.results.claims import CHANCE, paper_runs
from bsnn.results.claims_synthetic import share_near_one
from bsnn.results.grid import RUN_COLUMNS, run_row, runs_of
from bsnn.results.rules import Networks
from bsnn.results.statistics import binomial_se, clustered_error, difference, estimate, holm
from bsnn.results.verdicts import Check, Part, Verdict
from experiments.synthetic import BIN_WIDTH, BINS, FIRST_CENTRE
from tests.factories import paper_like_record, table_keys, trained_claims


@pytest.fixture(scope="module")
def paper_like() -> pd.DataFrame:
    """Runs that end where the paper's did, with gradients as it describes them."""
    return pd.DataFrame([run_row(key, paper_like_record("quick", key)) for key in table_keys()], columns=RUN_COLUMNS)


def changed(runs: pd.DataFrame, where: str, **values: object) -> pd.DataFrame:
    copy = runs.copy()
    rows = copy.query(where).index
    assert len(rows)
    for name, value in values.items():
        copy.loc[rows, name] = value
    return copy


def outcomes(runs: pd.DataFrame, number: int) -> list[str]:
    """Of the claim, then of its parts."""
    verdict = trained_claims(runs)[number - 1]
    assert verdict.number == number
    return [verdict.outcome, *(part.outcome for part in verdict.parts)]


def counts(runs: pd.DataFrame, number: int) -> list[tuple[int, int, int]]:
    return [part.counts for part in trained_claims(runs)[number - 1].parts]


class TestPaper:
    """What the rules say of the paper's printed Table 2."""

    def test_claim_1_confirmed(self) -> None:
        assert outcomes(paper_runs(), 1) == ["confirmed"] * 3
        assert counts(paper_runs(), 1) == [(6, 0, 0), (6, 0, 0)]

    def test_claim_2_confirmed_for_every_function(self) -> None:
        assert outcomes(paper_runs(), 2) == ["confirmed"] * 3
        assert counts(paper_runs(), 2) == [(12, 0, 0), (1, 0, 0)]
        (check,) = trained_claims(paper_runs())[1].parts[1].checks
        assert check.measured == "falls in 3 of 12 pairs: MNIST tanh, CIFAR-10 tanh, CIFAR-10 elu"

    def test_claim_3_hurts_all_but_elu_and_selu(self) -> None:
        # the paper prints no gradients
        assert outcomes(paper_runs(), 3) == ["not tested", "not tested", "confirmed", "confirmed"]
        # plain ReLU, LeakyReLU and GELU don't train either way, on either dataset: 6 of 16 don't apply
        assert counts(paper_runs(), 3) == [(0, 0, 24), (10, 0, 0), (8, 0, 0)]

    def test_claim_4_has_no_numbers(self) -> None:
        assert outcomes(paper_runs(), 4) == ["not tested", "not tested"]


def test_paper_like_runs_confirm_all(paper_like: pd.DataFrame) -> None:
    assert [verdict.outcome for verdict in trained_claims(paper_like)] == ["confirmed"] * 4


def test_shallow_networks_test_nothing(paper_like: pd.DataFrame) -> None:
    for verdict in trained_claims(paper_like, 199):
        assert verdict.outcome == "not tested"
        assert "200 layers, these have 199" in verdict.not_tested_because


class TestClaim1:
    def test_refuted_when_plain_relu_trains(self, paper_like: pd.DataFrame) -> None:
        runs = changed(paper_like, "not gpn and activation in ['relu', 'leaky_relu']", test_accuracy=60.0)
        assert outcomes(runs, 1) == ["refuted", "refuted", "confirmed"]

    def test_mixed_when_one_gpn_does_not_train(self, paper_like: pd.DataFrame) -> None:
        runs = changed(paper_like, "gpn and not batch_norm and activation == 'gelu'", test_accuracy=11.0)
        assert outcomes(runs, 1) == ["mixed", "confirmed", "mixed"]

    def test_an_untrained_accuracy_above_chance_is_no_training(self, paper_like: pd.DataFrame) -> None:
        where = "gpn and not batch_norm and dataset == 'mnist' and activation == 'relu'"
        assert counts(changed(paper_like, where, start_accuracy=27.0), 1)[1] == (5, 1, 0)

    @pytest.mark.parametrize(("above", "trains"), [(4.9, False), (5.1, True)])
    def test_bar(self, paper_like: pd.DataFrame, above: float, trains: bool) -> None:
        # at chance the two standard errors are nearly equal: sqrt(2) x 0.3 %
        accuracy = 10 + above * math.sqrt(2) * 0.3 * 1.03
        runs = changed(paper_like, "dataset == 'cifar10' and activation == 'relu'", test_accuracy=accuracy)
        assert claims.trains(runs_of(runs, "cifar10", "relu", True, False), "cifar10")[0] is trains

    def test_each_seed_is_tested_by_itself(self, paper_like: pd.DataFrame) -> None:
        # two of three networks train: by the mean's error over seeds, 29 with sd 16, this was called untrained
        where = "gpn and not batch_norm and dataset == 'cifar10' and activation == 'relu'"
        seeds = [paper_like.query(where).assign(seed=seed, test_accuracy=x) for seed, x in enumerate((39, 38, 10))]
        does, told = claims.trains(pd.concat(seeds), "cifar10")
        assert does
        assert told.endswith("2 of 3 seeds train")
        assert claims.trains(pd.concat([*seeds[1:], seeds[2]]), "cifar10")[0] is False

    def test_diverged_counts_as_chance(self, paper_like: pd.DataFrame) -> None:
        runs = changed(paper_like, "gpn and activation in ['relu', 'leaky_relu', 'gelu']", status="diverged")
        assert outcomes(runs, 1) == ["refuted", "confirmed", "refuted"]

    def test_crashed_counts_as_no_data(self, paper_like: pd.DataFrame) -> None:
        runs = changed(paper_like, "gpn and activation == 'relu' and dataset == 'mnist'", status="crashed")
        assert outcomes(runs, 1) == ["not tested", "confirmed", "not tested"]
        assert counts(runs, 1)[1] == (5, 0, 1)


class TestClaim2:
    def test_refuted_when_training_accuracy_falls(self, paper_like: pd.DataFrame) -> None:
        runs = changed(paper_like, "gpn and not batch_norm", train_accuracy=11.0)
        assert outcomes(runs, 2) == ["refuted", "refuted", "confirmed"]

    def test_refuted_when_test_accuracy_always_rises(self, paper_like: pd.DataFrame) -> None:
        runs = changed(paper_like, "gpn and not batch_norm", test_accuracy=99.0)
        assert outcomes(runs, 2) == ["refuted", "confirmed", "refuted"]

    def test_one_function_less_is_mixed(self, paper_like: pd.DataFrame) -> None:
        runs = changed(paper_like, "gpn and activation == 'tanh'", train_accuracy=50.0)
        assert outcomes(runs, 2)[:2] == ["mixed", "mixed"]

    def test_spread_between_seeds_counts(self, paper_like: pd.DataFrame) -> None:
        where = "dataset == 'mnist' and activation == 'selu' and not batch_norm and gpn"
        runs = paper_like
        for shift in (-1.0, 1.0):  # 99.92 on average, as before, but with sd 1.41
            extra = paper_like.query(where).assign(train_accuracy=99.92 + shift, seed=shift)
            runs = pd.concat([runs, extra])
        assert counts(paper_like, 2)[0] == (12, 0, 0)
        assert counts(runs, 2)[0] == (11, 1, 0)

    def test_one_fall_among_twelve_may_be_luck(self, paper_like: pd.DataFrame) -> None:
        runs = changed(paper_like, "not batch_norm", test_accuracy=50.0)
        where = "gpn and not batch_norm and dataset == 'mnist' and activation == 'elu'"
        # 2.5 standard errors: significant alone, p = 0.012, but not the smallest of twelve, which 0.05 / 12 asks for
        assert outcomes(changed(runs, where, test_accuracy=50 - 2.5 * math.sqrt(0.5)), 2)[2] == "refuted"
        assert outcomes(changed(runs, where, test_accuracy=50 - 3.0 * math.sqrt(0.5)), 2)[2] == "confirmed"


class TestClaim3:
    def test_equal_gradients_refute(self, paper_like: pd.DataFrame) -> None:
        assert outcomes(changed(paper_like, "batch_norm", initial_ratio=50.0), 3)[:2] == ["refuted", "refuted"]

    def test_vanishing_is_not_exploding(self, paper_like: pd.DataFrame) -> None:
        assert outcomes(changed(paper_like, "batch_norm", initial_trend=1.0), 3)[:2] == ["refuted", "refuted"]

    def test_not_hurting_refutes(self, paper_like: pd.DataFrame) -> None:
        runs = changed(paper_like, "batch_norm and activation in ['tanh', 'gelu', 'relu']", test_accuracy=97.0)
        assert outcomes(runs, 3) == ["refuted", "confirmed", "refuted", "confirmed"]

    def test_bringing_the_dead_to_life_is_not_hurting(self, paper_like: pd.DataFrame) -> None:
        runs = changed(paper_like, "batch_norm and not gpn and activation == 'relu'", test_accuracy=90.0)
        assert counts(runs, 3)[1] == (10, 2, 0)

    def test_hurting_elu_refutes(self, paper_like: pd.DataFrame) -> None:
        runs = changed(paper_like, "batch_norm and activation in ['elu', 'selu']", test_accuracy=20.0)
        assert outcomes(runs, 3) == ["refuted", "confirmed", "confirmed", "refuted"]

    def test_three_seeds_that_scatter_hurt_nothing(self, paper_like: pd.DataFrame) -> None:
        where = "batch_norm and gpn and dataset == 'cifar10' and activation == 'tanh'"
        mean = float(paper_like.query("not batch_norm and gpn and dataset == 'cifar10' and activation == 'tanh'")[
            "test_accuracy"].iloc[0])  # fmt: skip
        extra = [
            paper_like.query(where).assign(seed=seed, test_accuracy=mean - cost) for seed, cost in ((1, 2), (2, 9))
        ]
        scattered = pd.concat([changed(paper_like, where, test_accuracy=mean - 13), *extra])
        (check,) = (check for check in trained_claims(scattered)[2].parts[1].checks
                    if check.subject == "CIFAR-10 tanh-GPN")  # fmt: skip
        assert check.holds is False


class TestClaim4:
    @pytest.mark.parametrize(
        "values",
        [
            {"ratio_worst": 1e4},
            {"ratio_worst": math.nan},  # 0/0: all gradients vanished
            {"ratio_last": 50.0},
            {"ratio_last": 0.1},
            {"status": "diverged"},
        ],
    )
    def test_refuted(self, paper_like: pd.DataFrame, values: dict[str, object]) -> None:
        assert outcomes(changed(paper_like, "gpn and not batch_norm", **values), 4) == ["refuted", "refuted"]

    def test_the_worst_seed_counts(self, paper_like: pd.DataFrame) -> None:
        bad = paper_like.query("gpn and not batch_norm and activation == 'elu'").assign(seed=1, ratio_worst=1e3)
        assert counts(pd.concat([paper_like, bad]), 4) == [(10, 2, 0)]

    def test_without_rows_no_data(self, paper_like: pd.DataFrame) -> None:
        assert counts(changed(paper_like, "gpn", ratio_rows=0), 4) == [(0, 0, 12)]


def fig1(tanh_signal: float = 0.05, gpn_signal: float = 1.0, tanh_bottom_gradient: float = 2.0) -> pd.DataFrame:
    rows = []
    for name, gpn in (("tanh", False), *((name, True) for name in paper.ACTIVATIONS)):
        last = gpn_signal if gpn else tanh_signal
        first_gradient = 1.0 if gpn else tanh_bottom_gradient
        for draw in range(2):
            rows += [(draw, name, gpn, 1, 1.0, first_gradient), (draw, name, gpn, 200, last, 1.0)]
    frame = pd.DataFrame(rows, columns=["draw", "function", "gpn", "layer", "signal_mean", "gradient_mean"])
    return frame.assign(signal_std=0.1, gradient_std=0.2, batch_gradient=0.1)


def fig2(tanh_share: float = 0.95, gpn_share: float = 0.3) -> pd.DataFrame:
    """Bins as experiments.synthetic makes them; the share given lies half at 0.9, half at 1.1, the rest at 0.5."""
    edges = [round(FIRST_CENTRE + (k - 0.5) * BIN_WIDTH, 6) for k in range(BINS + 1)]
    rows = []
    for name, gpn in (("tanh", False), *((name, True) for name in paper.ACTIVATIONS)):
        share = gpn_share if gpn else tanh_share
        for left, right in zip([-math.inf, *edges], [*edges, math.inf], strict=True):
            count = sum(
                n for value, n in ((0.9, share / 2), (1.1, share / 2), (0.5, 1 - share)) if left <= value < right
            )
            rows.append((name, gpn, left, right, round(1000 * count)))
    return pd.DataFrame(rows, columns=["function", "gpn", "bin_left", "bin_right", "count"])


def fig3(exponent: float = -0.5) -> pd.DataFrame:
    rows = [
        (draw, width, name, 1 + 20 * width**exponent * (1 + 0.01 * draw))
        for name in paper.ACTIVATIONS
        for width in (100, 200, 300, 500, 700, 1000, 1500)
        for draw in range(3)
    ]
    return pd.DataFrame(rows, columns=["draw", "width", "function", "ratio"])


def tanh_goes_linear(fig1: pd.DataFrame | None, fig2: pd.DataFrame | None, depth: int = 200) -> Verdict:
    """Claim 5. Shallower networks of either figure are enough to leave it untested."""
    networks = {"fig1": Networks(fig1), "fig2": Networks(fig2, depth), "fig3": Networks(None)}
    return claims_synthetic.claims.judged(networks)[0]


def wider_is_more_equal(fig3: pd.DataFrame | None, depth: int = 200) -> Verdict:
    """Claim 6."""
    networks = {"fig1": Networks(None), "fig2": Networks(None), "fig3": Networks(fig3, depth)}
    return claims_synthetic.claims.judged(networks)[1]


class TestClaim5:
    def test_confirmed(self) -> None:
        verdict = tanh_goes_linear(fig1(), fig2())
        assert verdict.outcome == "confirmed"
        assert [part.counts for part in verdict.parts] == [(1, 0, 0), (2, 0, 0), (12, 0, 0)]

    def test_the_band_ends_on_edges_of_the_histogram(self) -> None:
        assert share_near_one(fig2(tanh_share=0.9), "tanh", False) == pytest.approx(0.9)
        edges = FIRST_CENTRE + (np.arange(BINS + 1) - 0.5) * BIN_WIDTH
        for end in (1 - claims_synthetic.NEAR_ONE, 1 + claims_synthetic.NEAR_ONE):
            assert np.abs(edges - end).min() < 1e-9

    def test_unstable_tanh_refutes(self) -> None:
        assert tanh_goes_linear(fig1(tanh_bottom_gradient=1e5), fig2()).outcome == "refuted"
        assert tanh_goes_linear(fig1(tanh_bottom_gradient=0.0), fig2()).outcome == "refuted"

    def test_one_draw_in_which_tanh_is_unstable_refutes(self) -> None:
        steady, unstable = fig1(), fig1(tanh_bottom_gradient=1e5)
        mixed = pd.concat([steady[steady.draw == 0], unstable[unstable.draw == 1]])
        assert tanh_goes_linear(mixed, fig2()).outcome == "refuted"

    def test_nonlinear_tanh_refutes(self) -> None:
        parts = tanh_goes_linear(fig1(tanh_signal=0.8), fig2(tanh_share=0.4)).parts
        assert [part.outcome for part in parts] == ["confirmed", "refuted", "confirmed"]

    def test_linear_gpn_refutes(self) -> None:
        parts = tanh_goes_linear(fig1(gpn_signal=0.01), fig2(gpn_share=0.99)).parts
        assert [part.outcome for part in parts] == ["confirmed", "confirmed", "refuted"]

    def test_not_tested(self) -> None:
        assert tanh_goes_linear(None, fig2()).outcome == "not tested"
        assert tanh_goes_linear(fig1(), None).outcome == "not tested"
        assert tanh_goes_linear(fig1(), fig2(), depth=8).outcome == "not tested"


class TestClaim6:
    def test_confirmed(self) -> None:
        assert wider_is_more_equal(fig3()).outcome == "confirmed"

    def test_refuted(self) -> None:
        assert wider_is_more_equal(fig3(exponent=0.1)).outcome == "refuted"

    def test_a_fall_between_the_ends_alone_is_not_enough(self) -> None:
        table = fig3(exponent=0.1)
        table.loc[table["width"] == 1500, "ratio"] = 1.0
        assert wider_is_more_equal(table).outcome == "refuted"

    def test_not_tested(self) -> None:
        assert wider_is_more_equal(None).outcome == "not tested"
        assert wider_is_more_equal(fig3().query("width < 300")).outcome == "not tested"
        assert wider_is_more_equal(fig3(), depth=8).outcome == "not tested"


def part(held: int, failed: int = 0, lacking: int = 0) -> Part:
    answers: list[bool | None] = [True] * held + [False] * failed + [None] * lacking
    return Part("", [Check("", "", "", holds) for holds in answers])


@pytest.mark.parametrize(
    ("counts_of_part", "outcome"),
    [
        ((3, 0, 0), "confirmed"),
        ((2, 1, 0), "mixed"),
        ((1, 1, 0), "mixed"),
        ((1, 2, 0), "refuted"),
        ((0, 0, 3), "not tested"),
        ((3, 0, 1), "not tested"),  # confirmed or mixed
        ((2, 1, 1), "mixed"),  # whatever the last one says
        ((0, 3, 1), "refuted"),
        ((0, 0, 0), "not tested"),
    ],
)
def test_outcome_of_a_part(counts_of_part: tuple[int, int, int], outcome: str) -> None:
    assert part(*counts_of_part).counts == counts_of_part
    assert part(*counts_of_part).outcome == outcome


def test_a_claim_is_as_good_as_its_worst_part() -> None:
    good, middling, bad, unknown = part(1), part(1, 1), part(0, 1), part(0, 0, 1)
    assert Verdict(1, "", "", [good, middling]).outcome == "mixed"
    assert Verdict(1, "", "", [good, unknown, middling]).outcome == "not tested"
    assert Verdict(1, "", "", [good, unknown, bad]).outcome == "refuted"


def test_checks_that_do_not_apply_do_not_count() -> None:
    assert Part("", [Check("", "", "", True), Check("", "", "", None, applies=False)]).outcome == "confirmed"


def test_standard_errors() -> None:
    # by simulation: the share of heads in 10 000 throws of a coin of 0.3
    heads = np.random.default_rng(0).binomial(10_000, 0.3, size=20_000) / 100
    assert binomial_se(30.0, 10_000) == pytest.approx(heads.std(), rel=4 / math.sqrt(2 * 20_000))
    assert binomial_se(100.0, 10_000) == pytest.approx(binomial_se(99.99, 10_000)) == pytest.approx(0.01, rel=1e-3)
    assert estimate([50.0], 10_000).se == 0.5
    assert estimate([48.0, 52.0], 10_000).se == pytest.approx(2.0)  # sd 2.83 / sqrt(2) > 0.5
    assert estimate([50.0, 50.0, 50.0], 10_000).se == 0.5  # the same images: no gain from more seeds


def test_a_difference_of_means_over_seeds_has_welchs_law() -> None:
    # so many images that only the seeds err
    one, other = [50.0, 53.0, 51.0], [57.0, 52.0, 61.0, 55.0]
    found = difference(estimate(one, 10**9), estimate(other, 10**9))
    oracle = stats.ttest_ind(other, one, equal_var=False)
    assert found.in_se == pytest.approx(oracle.statistic, rel=1e-6)
    assert found.p == pytest.approx(oracle.pvalue, rel=1e-6)


def test_a_difference_of_single_networks_has_a_normal_law() -> None:
    found = difference(estimate([50.0], 10_000), estimate([51.0], 10_000))
    assert found.in_se == pytest.approx(1 / math.hypot(0.5, 0.49990), rel=1e-4)
    assert found.p == pytest.approx(math.erfc(found.in_se / math.sqrt(2)), rel=1e-6)


def test_values_of_one_cluster_count_as_one() -> None:
    # eight copies of each of fifty values know no more than the fifty do
    values = np.random.default_rng(0).normal(size=50)
    copies, clusters = pd.Series(np.repeat(values, 8)), pd.Series(np.repeat(np.arange(50), 8))
    assert clustered_error(copies, clusters) == pytest.approx(values.std(ddof=1) / math.sqrt(50))
    assert clustered_error(copies, pd.Series(np.arange(400))) < 0.4 * clustered_error(copies, clusters)


def test_holm_keeps_the_chance_of_a_false_rejection() -> None:
    assert holm([0.04, 0.01, 0.03], 0.05) == [False, True, False]  # 0.01 <= 0.05 / 3, then 0.03 > 0.05 / 2
    assert holm([0.02, 0.01, 0.04], 0.05) == [True, True, True]
    assert holm([], 0.05) == []
    # of 12 true hypotheses, none is rejected in 95 % of all cases: simulated; each tested by itself, in 0.95^12 = 54 %
    p = np.random.default_rng(0).uniform(size=(4000, 12))
    share = np.mean([any(holm(list(row), 0.05)) for row in p])
    assert abs(share - 0.05) < 4 * math.sqrt(0.05 * 0.95 / 4000)


def test_chance_is_where_the_papers_dead_networks_are() -> None:
    dead = paper.table2().query("activation == 'relu' and not gpn and not batch_norm").set_index("dataset")
    for (dataset, split), percent in CHANCE.items():
        assert f"{percent:.2f}" == f"{dead.loc[dataset, f'{split}_accuracy']:.2f}"
        assert percent == pytest.approx(100 * load(dataset).majority_share(split))
    assert Key("mnist", "relu", False, False) in table_keys()
