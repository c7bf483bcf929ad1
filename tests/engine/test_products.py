"""bsnn.engine.products and tensor_cores against torch in float64."""

from __future__ import annotations

import pytest
import torch

from bsnn.engine import products, tensor_cores
from scripts.gpu import precision


@pytest.mark.parametrize("by_number", [False, True])
def test_products_of_pairs(by_number: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways, with C a matrix and a column, in place of C, and with a transposed factor."""
    monkeypatch.setattr(products, "_by_number", lambda A: by_number)
    g = torch.Generator().manual_seed(0)
    A, B, C = (torch.randn(shape, generator=g).double() for shape in ((3, 4, 5), (3, 6, 5), (3, 4, 6)))
    column, out = C[..., :1].clone(), torch.empty_like(C)
    torch.testing.assert_close(products.bmm(A, B.mT, out=out), A @ B.mT)
    torch.testing.assert_close(products.baddbmm(column, A, B.mT, out=out), column + A @ B.mT)
    expected = 0.5 * C + A @ B.mT
    assert products.baddbmm(C, A, B.mT, out=C, beta=0.5) is C
    torch.testing.assert_close(C, expected)


def test_split() -> None:
    """Halfway cases go away from zero, as the hardware's conversion has it; both parts have 11 bits."""
    x = torch.tensor([1.0, 1 + 2**-11, -1 - 2**-11, 1 + 2**-12, 3.0e38, float("inf"), float("nan")])
    big, small = tensor_cores.split(x)
    assert big[:4].tolist() == [1.0, 1 + 2**-10, -1 - 2**-10, 1.0]
    assert small[:4].tolist() == [0.0, -(2**-11), 2**-11, 2**-12]
    assert big[5] == float("inf")
    assert big[6].isnan()
    x = torch.randn(10000, generator=torch.Generator().manual_seed(0))
    big, small = tensor_cores.split(x)
    assert torch.equal(tensor_cores.cut(big), big)
    assert torch.equal(tensor_cores.cut(small), small)
    assert ((big.double() + small.double() - x).abs() <= 2.0**-22 * x.abs()).all()


def test_sums_cut_what_is_below_the_largest() -> None:
    """1 + eight times 2^-24: rounded after each sum 1, exactly 1 + 2^-21, and here 1, as each product is cut to 0."""
    A = torch.full((1, 1, 8), 2.0**-12)
    one = torch.ones(1, 1, 1)
    assert tensor_cores._accumulate(A, A.mT, one).item() == 1
    assert tensor_cores._accumulate(A, A.mT * 2, one).item() == 1 + 2.0**-20
    assert tensor_cores._accumulate(-A, A.mT * 3, one).item() == 1 - 2.0**-20  # -8 times 1.5 units, each cut to 1


def test_products_on_tensor_cores_are_as_good_as_float32() -> None:
    """Of 500 terms, as at the paper's width: errors against float64 no larger than those of a chain in float32."""
    g = torch.Generator().manual_seed(0)
    A, B = torch.randn(1, 16, 500, generator=g), torch.randn(1, 500, 16, generator=g)
    exact = A.double() @ B.double()
    found, chain = tensor_cores.multiply(A, B, 32), tensor_cores.chain(A, B)
    error, usual = ((part - exact).norm() / exact.norm() for part in (found, chain))
    assert error < usual < 1e-6
    one_product = tensor_cores.split(A)[0] @ tensor_cores.split(B)[0]
    assert (one_product - exact).norm() / exact.norm() > 100 * usual  # tf32 alone isn't


def test_the_precision_report() -> None:
    """At a size where it takes no time: errors of both ways at float32's rounding, for all twelve functions."""
    found = precision.errors(precision.cells(3, 16, 16), 2)
    assert len(found) == 24
    assert (found[["loss", "norm_median", "norm_largest"]] < 2e-5).all(axis=None)
    assert (found.loc[found.way == "tf32x3", "norm_median"] > 0).all()
    text = precision.report(found, precision.cells(3, 16, 16), 2)
    assert "| mnist-tanh-gpn-s0 |" in text
    assert "(12 cells)" in text
