"""Parts of bidirectionally self-normalizing networks, for networks of any architecture.

parametrizations: weights with rows of norm one, or orthogonal ones; init: orthogonal initial weights; normalize: GPN
activations and constrained weights for a network that exists; diagnose: its signals and gradients by layer.
"""

from bsnn.nn.diagnose import Diagnosis, diagnose
from bsnn.nn.init import delta_orthogonal_, haar_orthogonal_, spherical_
from bsnn.nn.normalize import Normalization, normalize
from bsnn.nn.parametrizations import OrthogonalRows, UnitRows, orthogonal, unit_rows

__all__ = [
    "Diagnosis",
    "Normalization",
    "OrthogonalRows",
    "UnitRows",
    "delta_orthogonal_",
    "diagnose",
    "haar_orthogonal_",
    "normalize",
    "orthogonal",
    "spherical_",
    "unit_rows",
]
