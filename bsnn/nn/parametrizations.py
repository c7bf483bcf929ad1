"""Weights with rows of norm one, or exactly orthogonal ones, in any network (section 3.2 of the paper).

A row of a weight is what computes one output: row i of a linear layer's matrix, or filter i of a convolution, all of
its in_channels / groups x kernel entries. Inputs of mean square one then give pre-activations of mean square one, on
average over the rows, which is what a GPN activation expects.

`unit_rows` and `orthogonal` are used like the functions of torch.nn.utils.parametrizations. The optimiser still moves
the free weight V = module.parametrizations.weight.original, the same Parameter as before; module.weight is W, computed
from V whenever it is read.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.nn.utils import parametrize

from bsnn.nn.pickling import make_picklable

CONSTRAINED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def normalised_rows(V: Tensor, start_dim: int = 1) -> Tensor:
    """Divide every row of V by its Euclidean norm; a row is all axes from `start_dim` on. Same shape and dtype."""
    W: Tensor = F.normalize(V.flatten(start_dim), dim=-1).view_as(V).to(V.dtype)
    return W


class UnitRows(nn.Module):
    r"""The parametrization :math:`w_i = v_i / \lVert v_i \rVert_2`, "a relaxation of orthogonality" (section 3.2).

    Shape: V (out, ...) -> W of the same shape and dtype; row i is all of W[i].

    `unit_rows` registers it on a layer. By hand, for a layer of your own whose weight's first axis counts its outputs:

    >>> import torch
    >>> from torch.nn.utils import parametrize
    >>> layer = torch.nn.Bilinear(3, 4, 5)
    >>> _ = parametrize.register_parametrization(layer, "weight", UnitRows())
    >>> layer.weight.flatten(1).norm(dim=1).allclose(torch.ones(5))
    True
    """

    def forward(self, V: Tensor) -> Tensor:
        return normalised_rows(V)

    def right_inverse(self, W: Tensor) -> Tensor:
        """Return V for a weight W that is assigned: W itself, so that nothing of it is lost."""
        return W


class OrthogonalRows(nn.Module):
    r"""The parametrization by orthonormal rows or, where there are more rows than columns, orthonormal columns.

    With V as a matrix (out, in x kernel), W is `gain` times the factor Q of V^T = Q R transposed, R's diagonal
    positive: Gram-Schmidt on the rows of V (on its columns where out > in x kernel). A W that is orthogonal already
    stays as it is, and a Gaussian V gives a Haar-uniform W. Computed in float32 at least, whatever autocast says, and
    rounded to V's dtype.

    Shape: V (out, ...) -> W of the same shape and dtype.
    """

    def __init__(self, gain: float = 1.0) -> None:
        super().__init__()
        self.gain = gain

    def forward(self, V: Tensor) -> Tensor:
        with torch.autocast(V.device.type, enabled=False):
            rows = V.flatten(1).to(torch.promote_types(V.dtype, torch.float32))
            wide = rows.shape[0] <= rows.shape[1]
            Q, R = torch.linalg.qr(rows.mT if wide else rows)
            diagonal = R.diagonal(dim1=-2, dim2=-1)
            Q = Q * torch.where(diagonal < 0, -1.0, 1.0).to(Q.dtype)  # not sign(): 0 would wipe out a column
            W: Tensor = self.gain * (Q.mT if wide else Q)
        W = W.reshape(V.shape).to(V.dtype)
        return W

    def right_inverse(self, W: Tensor) -> Tensor:
        """Return V for a weight W that is assigned: W itself, whose gain drops out."""
        return W

    def extra_repr(self) -> str:
        return f"gain={self.gain:g}"


def unit_rows(module: nn.Module, name: str = "weight") -> nn.Module:
    r"""Constrain the rows of a Linear or Conv1d/2d/3d layer's weight to norm one. Returns the layer itself.

    .. math:: w_i = v_i / \lVert v_i \rVert_2

    v_i is row i, or filter i: in_channels / groups x kernel entries. The directions of the present rows are kept, and
    V starts with rows of norm one, as in the paper; a larger V would turn more slowly at the same learning rate. The
    bias stays free.

    The layer then works as before with optimisers, whatever they do to V the rows of W have norm one; with state_dict
    (the key is "parametrizations.weight.original"), copy.deepcopy, pickle, torch.compile, torch.export, autocast,
    half precision and torch.func. ``torch.nn.utils.parametrize.remove_parametrizations(module, "weight")`` leaves W as
    a plain weight; ``with torch.nn.utils.parametrize.cached():`` computes W once in a block that reads it often.

    Args:
        module: an nn.Linear or nn.Conv1d/2d/3d, or of a class derived from them.
        name: of the weight, shape (out, in) or (out, in / groups, *kernel).

    Raises:
        TypeError: for any other module. A transposed convolution is refused: an output sees only every stride-th entry
            of the kernel, another part of it at every phase, so norm one of the whole filter doesn't make
            pre-activations of mean square one. Use nn.Upsample and a convolution.
        ValueError: if the weight is parametrized or not yet initialised, or has a row of zeros, without direction.

    >>> import torch
    >>> layer = unit_rows(torch.nn.Conv2d(3, 8, kernel_size=3))
    >>> layer.weight.flatten(1).norm(dim=1).allclose(torch.ones(8))
    True
    """
    weight = constrainable_weight(module, name)
    with torch.no_grad():
        weight.copy_(normalised_rows(weight))
    parametrize.register_parametrization(module, name, UnitRows())
    make_picklable(module)
    return module


def orthogonal(module: nn.Module, name: str = "weight", *, gain: float = 1.0) -> nn.Module:
    r"""Constrain the weight of a Linear or Conv1d/2d/3d layer to be exactly orthogonal. Returns the layer itself.

    The weight as a matrix, (out, in / groups x kernel), has orthonormal rows if out <= in / groups x kernel. This is
    the constraint that `unit_rows` relaxes. Otherwise its columns are orthonormal and its rows have norm
    sqrt(in / groups x kernel / out) on average; gain = sqrt(out / (in / groups x kernel)) makes that one.

    For a convolution this is orthogonality of the map from one patch of the input to the outputs there, not of the
    whole convolution: patches overlap, so that the convolution as a linear map stretches some inputs more than others.
    `delta_orthogonal_` draws initial weights for which the convolution as a whole is an isometry.

    torch.nn.utils.parametrizations.orthogonal treats a convolution's weight as a batch of matrices (height x width),
    which is another constraint, and needs float32; for a Linear layer both parametrize the same matrices.

    The present weight is replaced by the factor Q of itself (see `OrthogonalRows`), hence kept if it is orthogonal.
    Each reading of the weight costs a QR factorisation. What works with `unit_rows` works here.

    Args:
        module, name: as for `unit_rows`.
        gain: a positive number that the orthogonal matrix is multiplied by.

    Raises:
        TypeError, ValueError: as `unit_rows`; ValueError for a gain that isn't a positive number.

    >>> import torch
    >>> layer = orthogonal(torch.nn.Linear(6, 4).double())
    >>> (layer.weight @ layer.weight.T).allclose(torch.eye(4).double())
    True
    """
    if not 0 < gain < float("inf"):
        raise ValueError(f"gain: expected a positive number, found {gain}; 1 keeps the matrix orthogonal")
    weight = constrainable_weight(module, name)
    constraint = OrthogonalRows(gain)
    with torch.no_grad():
        weight.copy_(OrthogonalRows()(weight))
    parametrize.register_parametrization(module, name, constraint)
    make_picklable(module)
    return module


def constrainable_weight(module: nn.Module, name: str = "weight") -> nn.Parameter:
    """Return the weight that `unit_rows` would constrain; changes nothing. Raises its TypeError and ValueError."""
    kind = plain_name(module)
    if isinstance(module, TRANSPOSED):
        raise TypeError(
            f"expected a Linear or Conv1d/2d/3d layer, found {kind}: its outputs see only every stride-th entry of a "
            "filter, so the filter's norm doesn't set their size; use nn.Upsample and a convolution instead"
        )
    if not isinstance(module, CONSTRAINED):
        raise TypeError(
            f"expected a Linear or Conv1d/2d/3d layer, found {kind}; for another layer whose weight's first axis "
            "counts its outputs, register bsnn.nn.UnitRows() with torch.nn.utils.parametrize yourself"
        )
    if parametrize.is_parametrized(module, name):
        raise ValueError(
            f"{kind}.{name}: expected a plain parameter, found one that is parametrized already; remove that first "
            "with torch.nn.utils.parametrize.remove_parametrizations"
        )
    weight = dict(module.named_parameters(recurse=False)).get(name)
    if weight is None:
        raise ValueError(f"{kind}.{name}: expected a parameter, found none of this name; its weight is 'weight'")
    if isinstance(weight, nn.parameter.UninitializedParameter):
        raise ValueError(f"{kind}.{name}: expected initialised weights, found none yet; run one forward pass first")
    if weight.dim() < 2:
        raise ValueError(f"{kind}.{name}: expected at least two axes, (out, in, ...), found {tuple(weight.shape)}")
    if not weight.is_meta and bool((weight.detach().flatten(1).abs().amax(1) == 0).any()):
        raise ValueError(
            f"{kind}.{name}: expected rows with a direction, found a row of zeros; initialise it, say with "
            "bsnn.haar_orthogonal_"
        )
    return weight


def plain_name(module: nn.Module) -> str:
    """Return the name of the module's class; for a parametrized module, of the class it had before."""
    parametrized = parametrize.is_parametrized(module)
    return (type(module).__mro__[1] if parametrized else type(module)).__name__
