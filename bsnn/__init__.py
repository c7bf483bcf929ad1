"""bsnn: bidirectionally self-normalizing neural networks (Lu, Gould, Ajanthan, Neural Networks 2023), reproducibly.

from bsnn import GPN, BSNN, gaussian_poincare_constants, haar_orthogonal

a, b = gaussian_poincare_constants(torch.tanh)
phi = GPN(torch.nn.Tanh())
net = BSNN(in_features=784, out_features=10, width=500, depth=200, activation=phi)
"""

from bsnn.activations import SigmoidGELU
from bsnn.gpn import GPN, gaussian_poincare_constants
from bsnn.haar import haar_orthogonal
from bsnn.network import BSNN, Signals
from bsnn.nn import (
    Diagnosis,
    Normalization,
    delta_orthogonal_,
    diagnose,
    haar_orthogonal_,
    normalize,
    orthogonal,
    spherical_,
    unit_rows,
)

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
    "normalize",
    "orthogonal",
    "spherical_",
    "unit_rows",
]
