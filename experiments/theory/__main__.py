"""The mathematics of the BSNN paper, checked by numbers: propositions, theorems, lemmas, and the talk's demonstrations.

    python -m experiments.theory                          all parts; then:
    python -m experiments.theory.report results/quick
    python -m experiments.theory part=shell                one part

Claim     In a wide layer of random orthogonal weights a GPN function keeps the norms of signal and error, with a
          probability that goes to 1 (Theorems 2 and 3), and with it the norms of all gradients (Proposition 1).
Cost      budget=quick: 115 s of one core of an AMD EPYC (shell 39 s, constants 29 s, gradient 17 s, depth 12 s, the
          rest 18 s)
Output    results/<budget>/theory/<part>.csv, the numbers, and <part>.json, their provenance

Columns   by part; all numbers without unit
gradient   draw, function, gpn, root (of b); signal, error, gradient: ||x||, ||y|| and, by autograd, ||dE/dW||_F of one
           sample, each _min and _max over the layers, _first and _last; difference: the largest between the gradient's
           norm and the product of the others, relative
hermite    function, gpn, degree, coefficient: a_k of equation (26)
constants  family, function; mean, second, derivative_second: E phi, E phi^2, E phi'^2; discriminant: 1 - Var phi /
           E phi'^2; nonlinearity: least E (phi - line)^2; a, b_plus, b_minus: Proposition 3; gain_plus, gain_minus:
           E z psi psi' for psi = a phi + b; residual: the largest error in (10) and (11) of both roots
shell      route (sphere, or haar: with matrices), width, function, gpn, case (experiments.theory.norms.CASES), draws;
           mean, std of 1/d sum y_i^2 g(h_i), g = phi^2 or phi'^2; limit_mean, limit_std: of the limit law
           (bsnn.theory.concentration); out_<eps>: draws at eps or more from 1; limit_<eps>: the limit law's probability
depth      width, function, root (of b), layer, draws; mean, median, std of ||x||^2 / d; limit_std: by v <- gain^2 v +
           variance / d; gain; out_<eps>
lemma1     function, of (phi or slope), kind (Lipschitz or bounded), proxy: K^2; rate: t; log_mgf: ln E exp(t (f - Ef));
           bound: K^2 t^2 / 2
lemma3     delta, width; below, above: the exact tails; bound: the lemma's; first_exceeded: the least d, up to the
           largest width, at which the tails exceed it
lemma4     source, dimension, test, samples, p
lemma5     width, function, of (phi: f = phi^2, slope: f = phi'^2, f), draws; mean, median of the difference / d;
           limit_mean: to first order; outside: draws with eps or more
lemma6     route (haar, exact), width, input (law of x), draws; distance, p: Kolmogorov-Smirnov, one coordinate of W x
           against sqrt(d) theta_1; normal_distance: against N(0, 1), exact under `exact`; radius_rms: root mean square
           of ||x|| / sqrt(d) - 1
talk       block, draw, z_norm, f_norm
histogram  source (of W), index, value: (W x)_i
spectra    width, draw, law (gaussian, rows, haar); smallest, largest: singular values; condition: their ratio
peaks      width, function (GPN), layer; peak, peak_std: max_i |y_i| / (||y|| / sqrt(d)), mean and standard deviation
           over the samples
"""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from bsnn.config import CONF
from bsnn.launch import entry
from experiments import study
from experiments.theory.config import TheoryConfig
from experiments.theory.functions import constants, gradient, hermite, lemma1
from experiments.theory.matrices import peaks, spectra
from experiments.theory.norms import depth, lemma3, lemma5, shell
from experiments.theory.sphere import histogram, lemma4, lemma6, talk

PARTS = {
    # Proposition 1: signal, error and gradient norms of every layer, the gradient by autograd.
    "gradient": gradient,
    # Proposition 2: Hermite coefficients of the six functions, plain and GPN.
    "hermite": hermite,
    # Theorem 1, Propositions 2 and 3: moments and both roots (a, b) of the six functions and of random ones.
    "constants": constants,
    # Lemma 1: moment generating functions of phi(z) and phi'(z).
    "lemma1": lemma1,
    # Lemma 3: the exact probability that a Gaussian vector leaves the shell, beside the bound.
    "lemma3": lemma3,
    # Lemma 4: tests of uniformity on the sphere.
    "lemma4": lemma4,
    # Lemma 5: sums over a Gaussian vector and over its projection on the sphere, against the width.
    "lemma5": lemma5,
    # Lemma 6: W x against a uniform vector on the sphere, and against a normal one.
    "lemma6": lemma6,
    # Theorems 2 and 3, Definition 4, Lemma 2: the probability of leaving the shell against the width.
    "shell": shell,
    # Theorem 2 applied repeatedly: the norm of the signal along 200 layers.
    "depth": depth,
    # The talk's first demonstration: the norm of f(z) against that of z.
    "talk": talk,
    # The talk's second demonstration: the histogram of W x.
    "histogram": histogram,
    # Section 4: singular values of Gaussian, row-normalised and orthogonal matrices.
    "spectra": spectra,
    # Theorem 3's condition: the largest entry of the error, layer by layer.
    "peaks": peaks,
}
study.register("theory", TheoryConfig)


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="theory")
@entry.reports_user_errors
def main(config: DictConfig) -> None:
    study.run("theory", config, TheoryConfig, PARTS)


if __name__ == "__main__":
    entry.run(main)
