"""Against PyTorch, an independent peer: every variant, and LRN. Without the `peers` extra these are skipped."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alexnet_jax.model.architecture import VARIANTS
from alexnet_jax.model.lrn import lrn
from experiments import parity

torch = pytest.importorskip("torch", reason="needs PyTorch: the extra `peers`")


@pytest.mark.accelerator
@pytest.mark.parametrize(
    ("variant", "form"), [*((variant, "direct") for variant in VARIANTS), ("one_tower", "winograd"), ("paper", "winograd")]
)
def test_narrow_networks_agree(variant, form):
    width = {"small": 0.5}.get(variant, 0.125)
    result = parity.compare(variant, width=width, classes=12, conv_form=form)
    assert result.logits < 1e-4, result
    assert result.gradients[result.worst] < parity.gradient_tolerance(), result
    assert len(result.gradients) == 16


@pytest.mark.slow
@pytest.mark.parametrize("form", ["direct", "winograd"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_whole_networks_agree(variant, form):
    result = parity.compare(variant, conv_form=form)
    assert result.agrees, result


def test_another_network_does_not_agree(monkeypatch):
    """CaffeNet against bvlc_alexnet, which has its parameters and another order of LRN and pooling: the comparison notices."""
    from experiments.peers import torch_alexnet

    monkeypatch.setitem(torch_alexnet.VARIANTS, "caffenet", torch_alexnet.VARIANTS["caffe"])
    monkeypatch.setattr(parity, "DRAWS", 2)
    assert not parity.compare("caffenet", width=0.125, classes=12).agrees


@pytest.mark.accelerator
@pytest.mark.parametrize(("size", "channels"), [(1, 3), (2, 16), (3, 16), (4, 3), (5, 1), (5, 3), (5, 16), (6, 16)])
def test_lrn_is_pytorchs(size, channels):
    rng = np.random.default_rng(size)
    x, cotangent = (rng.normal(0, 40, (2, 4, 4, channels)).astype(np.float32) for _ in range(2))
    theirs = torch.tensor(x).permute(0, 3, 1, 2).requires_grad_()
    value = torch.nn.functional.local_response_norm(theirs, size, alpha=1e-3, beta=0.75, k=1.5)
    value.backward(torch.tensor(cotangent).permute(0, 3, 1, 2))
    ours, pullback = jax.vjp(lambda x: lrn(x, 1.5, 1e-3, 0.75, size, "per_size"), jnp.asarray(x))
    np.testing.assert_allclose(ours, value.detach().permute(0, 2, 3, 1).numpy(), rtol=1e-5)
    np.testing.assert_allclose(pullback(jnp.asarray(cotangent))[0], theirs.grad.permute(0, 2, 3, 1).numpy(), rtol=1e-4, atol=1e-5)
