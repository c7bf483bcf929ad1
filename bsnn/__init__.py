"""bsnn: bidirectionally self-normalizing neural networks (Lu, Gould, Ajanthan, Neural Networks 2023), reproducibly.

    from bsnn import GPN, BSNN, gaussian_poincare_constants, haar_orthogonal

    a, b = gaussian_poincare_constants(torch.tanh)
    phi = GPN(torch.nn.Tanh())
    net = BSNN(in_features=784, out_features=10, width=500, depth=200, activation=phi)

Activation functions   GPN, gaussian_poincare_constants: normalise any function; SigmoidGELU: the paper's GELU
Weights                haar_orthogonal: uniform orthogonal matrices; haar_orthogonal_, delta_orthogonal_, spherical_:
                       initial weights, as in torch.nn.init; unit_rows, orthogonal: constraints that training keeps
Networks               BSNN: the paper's network, its Signals layer by layer; load_trained: one that was trained here
Your own network       normalize: GPN and rows of norm one where it is sound; diagnose: signals and gradients by layer
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from bsnn.extras import needs

__version__ = "0.2.0"

if TYPE_CHECKING:
    from bsnn.activations import SigmoidGELU
    from bsnn.gpn import GPN, gaussian_poincare_constants
    from bsnn.haar import haar_orthogonal
    from bsnn.network import BSNN, Signals
    from bsnn.nn.diagnose import Diagnosis, diagnose
    from bsnn.nn.init import delta_orthogonal_, haar_orthogonal_, spherical_
    from bsnn.nn.normalize import Normalization, normalize
    from bsnn.nn.parametrizations import orthogonal, unit_rows
    from bsnn.training.runner import load_trained

__all__ = [
    "BSNN",
    "GPN",
    "Diagnosis",
    "Normalization",
    "SigmoidGELU",
    "Signals",
    "delta_orthogonal_",
    "diagnose",
    "gaussian_poincare_constants",
    "haar_orthogonal",
    "haar_orthogonal_",
    "load_trained",
    "normalize",
    "orthogonal",
    "spherical_",
    "unit_rows",
]


_MODULES = {
    "BSNN": "network",
    "GPN": "gpn",
    "SigmoidGELU": "activations",
    "Signals": "network",
    "gaussian_poincare_constants": "gpn",
    "haar_orthogonal": "haar",
    "load_trained": "training.runner",
}
"""Modules of the names in __all__ that aren't in bsnn.nn."""


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for: torch takes seconds, and load_trained needs Hydra."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with needs("experiments", f"bsnn.{name}"):
        value = getattr(import_module(f"bsnn.{_MODULES.get(name, 'nn')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
