"""GPN as a module: what it leaves alone, dtypes, copies, saved constants, compilation."""

from __future__ import annotations

import copy
import io
import math
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import nn

from bsnn.activations import SigmoidGELU
from bsnn.gpn import GPN, gaussian_poincare_constants

# --- what computing the constants leaves alone ---


def test_the_wrapped_module_and_the_global_state_stay_as_they_are() -> None:
    phi = nn.PReLU()
    phi(torch.ones(1)).backward()
    gradient = phi.weight.grad
    assert gradient is not None
    before = (phi.weight.clone(), gradient.clone(), torch.random.get_rng_state())
    gpn = GPN(phi)
    assert gpn.phi is phi
    assert torch.equal(phi.weight, before[0])
    assert torch.equal(gradient, before[1])
    assert torch.equal(torch.random.get_rng_state(), before[2])
    assert phi.training
    assert phi.weight.requires_grad
    assert phi.weight.dtype == torch.float32
    assert torch.get_default_dtype() == torch.float32
    with pytest.raises(ValueError, match="between calls"):
        GPN(lambda x: x * torch.rand_like(x))
    assert torch.equal(torch.random.get_rng_state(), before[2])


def test_ambient_modes_do_not_matter() -> None:
    expected = gaussian_poincare_constants(nn.PReLU())
    with torch.no_grad():
        assert gaussian_poincare_constants(nn.PReLU()) == expected
    phi = nn.PReLU()
    with torch.inference_mode():
        assert gaussian_poincare_constants(phi) == expected
    with torch.device("meta"):
        assert gaussian_poincare_constants(torch.tanh) == gaussian_poincare_constants(nn.Tanh())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert gaussian_poincare_constants(phi) == expected


def test_prelu_constants_are_those_at_construction() -> None:
    phi = nn.PReLU(init=0.1)
    gpn = GPN(phi)
    assert gpn.a == pytest.approx(math.sqrt(2 / (1 + float(phi.weight.detach()) ** 2)), rel=1e-14)
    with torch.no_grad():
        phi.weight.fill_(1.0)
    assert gpn(torch.tensor([-1.0])).item() == pytest.approx(gpn.b - gpn.a, rel=1e-6)
    assert [name for name, _ in gpn.named_parameters()] == ["phi.weight"]


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_scripted_functions_and_modules_work() -> None:
    expected = gaussian_poincare_constants(torch.tanh)
    assert gaussian_poincare_constants(torch.jit.script(nn.Tanh())) == expected
    assert gaussian_poincare_constants(torch.jit.trace(torch.tanh, torch.ones(3))) == expected


def test_in_place_modules_work() -> None:
    assert gaussian_poincare_constants(nn.ReLU(inplace=True)) == gaussian_poincare_constants(nn.ReLU())


# --- the module ---


def test_forward_is_a_phi_plus_b_in_the_inputs_dtype() -> None:
    gpn = GPN(nn.Tanh())
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        x = torch.linspace(-3, 3, 7, dtype=dtype)
        for module in (gpn, copy.deepcopy(gpn).to(dtype), copy.deepcopy(gpn).half()):
            assert torch.equal(module(x), gpn.a * torch.tanh(x) + gpn.b)
            assert module(x).dtype == dtype
    assert isinstance(gpn.a, float)
    assert isinstance(gpn.b, float)


def test_gradcheck() -> None:
    x = torch.linspace(-2, 2, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(GPN(SigmoidGELU()), (x,))


@pytest.mark.parametrize("make_copy", [copy.deepcopy, lambda gpn: pickle.loads(pickle.dumps(gpn))])
def test_copies(make_copy: Callable[[GPN], GPN]) -> None:
    gpn = GPN(SigmoidGELU(), root="+")
    twin = make_copy(gpn)
    assert (twin.a, twin.b) == (gpn.a, gpn.b)
    assert torch.equal(twin(torch.ones(3)), gpn(torch.ones(3)))
    assert copy.deepcopy(GPN(torch.sin)).a == GPN(torch.sin).a


def test_saved_constants_come_back_whatever_the_root() -> None:
    saved, loaded = nn.Sequential(GPN(SigmoidGELU(), root="-")), nn.Sequential(GPN(SigmoidGELU(), root="+"))
    file = io.BytesIO()
    torch.save(saved.state_dict(), file)
    file.seek(0)
    assert loaded[0].b != saved[0].b
    loaded.load_state_dict(torch.load(file, weights_only=True))
    assert (loaded[0].a, loaded[0].b) == (saved[0].a, saved[0].b)
    x = torch.randn(5, dtype=torch.float64)
    assert torch.equal(loaded(x), saved(x))


def test_a_state_that_is_not_gpns() -> None:
    with pytest.raises(ValueError, match=r"expected GPN's saved constants, a tensor \[a, b\], found tensor"):
        GPN(nn.Tanh()).set_extra_state(torch.zeros(3))


def test_repr_shows_the_constants() -> None:
    assert "a=1.46741, b=0.388542" in repr(GPN(nn.Tanh()))
    assert "Tanh()" in repr(GPN(nn.Tanh()))
    assert repr(GPN(torch.tanh)) == "GPN(phi=tanh, a=1.46741, b=0.388542)"


def test_compiles_without_graph_breaks() -> None:
    """Several constants through one code object: the second GPN must not run with the first one's."""
    x = torch.linspace(-3, 3, 9, dtype=torch.float64, requires_grad=True)
    for phi in (nn.Tanh(), SigmoidGELU(), nn.ELU()):
        gpn = GPN(phi)
        expected, found = gpn(x), torch.compile(gpn, backend="aot_eager", fullgraph=True)(x)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-15)
        torch.testing.assert_close(*(torch.autograd.grad(y.sum(), x)[0] for y in (found, expected)), rtol=0, atol=1e-15)
