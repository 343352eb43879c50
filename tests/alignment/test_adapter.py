import importlib.util

import numpy as np
import pytest
from planted import cloud, rotated, rotation

from llama_index_mm.alignment.adapter import ADAPTERS, Adapter, make_adapter, procrustes, ridge
from llama_index_mm.errors import AlignmentError


def linear(weight, bias=None, mean=None, scale=1.0):
    weight = np.asarray(weight, np.float32)
    bias = np.zeros(len(weight)) if bias is None else bias
    mean = np.zeros(weight.shape[1]) if mean is None else mean
    given = {"weight": weight, "bias": bias, "mean": mean, "scale": [scale]}
    return Adapter("linear", {name: np.asarray(one, np.float32) for name, one in given.items()})


def test_linear_by_hand():
    adapter = linear([[1, 0], [0, 2]], bias=[0, 1], mean=[1, 0], scale=2.0)
    # z = (1, 1), W z + b = (1, 3)
    np.testing.assert_allclose(adapter([[3, 2]]), [[1 / np.sqrt(10), 3 / np.sqrt(10)]], rtol=1e-6)
    assert (adapter.source_dimension, adapter.dimension, adapter.parameters) == (2, 2, 6)


def test_mlp_and_residual_by_hand():
    own = {
        "mean": [0, 0],
        "scale": [1],
        "bias": [0, 1],
        "hidden.weight": [[1, 1]],
        "hidden.bias": [-1],
        "out.weight": [[2], [0]],
    }
    own = {name: np.asarray(one, np.float32) for name, one in own.items()}
    # hidden: relu(1 + 1 - 1) = 1 and relu(-2 - 1) = 0
    np.testing.assert_allclose(Adapter("mlp", own)([[1, 1], [-1, -1]]), [[2 / 5**0.5, 1 / 5**0.5], [0, 1]], rtol=1e-6)
    both = Adapter("residual", {**own, "weight": np.eye(2, dtype=np.float32)})
    np.testing.assert_allclose(both([[1, 1]]), [[3 / 13**0.5, 2 / 13**0.5]], rtol=1e-6)


def test_procrustes_finds_the_rotation():
    source, target = rotated(n=50, d=8)
    weight, bias = procrustes(source, target)
    np.testing.assert_allclose(weight, rotation(8).astype(np.float64), atol=1e-6)
    np.testing.assert_allclose(bias, 0, atol=1e-6)
    weight, bias = procrustes(source, 3 * target + 1)
    np.testing.assert_allclose(weight, 3 * rotation(8), atol=1e-5)
    np.testing.assert_allclose(bias, 1, atol=1e-5)


@pytest.mark.parametrize("into", [3, 12])
def test_procrustes_between_dimensions_keeps_angles(into):
    weight, _ = procrustes(cloud(40, 8), cloud(40, into, 1))
    small = weight @ weight.T if into < 8 else weight.T @ weight
    np.testing.assert_allclose(small / small[0, 0], np.eye(min(into, 8)), atol=1e-9)


def test_ridge_finds_a_linear_map_and_shrinks_noise_to_nothing():
    x = np.random.default_rng(0).normal(size=(60, 5))
    wanted, shift = np.random.default_rng(1).normal(size=(3, 5)), np.array([1.0, 2.0, 3.0])
    weight, bias = ridge(x, x @ wanted.T + shift)
    np.testing.assert_allclose(weight, wanted, atol=1e-3)
    np.testing.assert_allclose(bias, shift, atol=1e-3)
    weight, bias = ridge(x, np.random.default_rng(2).normal(size=(60, 3)))
    assert np.abs(weight).max() < 0.1


def test_ridge_predicts_each_row_by_leaving_it_out():
    """The closed form takes the same penalty as leaving out one row after the other."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(25, 6))
    y = x @ rng.normal(size=(6, 2)) + 2.0 * rng.normal(size=(25, 2))
    values = np.linalg.svd(x - x.mean(0), compute_uv=False)
    errors = []
    penalties = np.geomspace(1e-5, 1e3, 25) * (values**2).mean()
    for penalty in penalties:
        total = 0.0
        for at in range(25):
            rest = np.arange(25) != at
            # With the penalty on the weights alone the left-out row is predicted from a centre without it.
            centre, middle = x[rest].mean(0), y[rest].mean(0)
            inner = x[rest] - centre
            weight = np.linalg.solve(inner.T @ inner + penalty * np.eye(6), inner.T @ (y[rest] - middle))
            total += ((y[at] - middle - (x[at] - centre) @ weight) ** 2).sum()
        errors.append(total)
    best = penalties[int(np.argmin(errors))]
    inner = x - x.mean(0)
    expected = np.linalg.solve(inner.T @ inner + best * np.eye(6), inner.T @ (y - y.mean(0))).T
    np.testing.assert_allclose(ridge(x, y)[0], expected, rtol=1e-8)


def test_ridge_of_what_does_not_differ_is_the_mean():
    weight, bias = ridge(np.ones((4, 3)), np.arange(8.0).reshape(4, 2))
    assert weight.tolist() == [[0.0] * 3] * 2
    assert bias.tolist() == [3.0, 4.0]


@pytest.mark.parametrize("kind", ADAPTERS)
def test_torch_computes_the_same(kind):
    if importlib.util.find_spec("torch") is None:
        pytest.skip("needs torch")
    import torch

    from llama_index_mm.alignment.training import FitOptions, _State

    source, target = rotated(n=40, d=6, noise=0.2)
    adapter = make_adapter(kind, source, target, hidden=10, seed=1)
    found = _State(adapter, FitOptions(adapter=kind))._forward(torch.from_numpy(source)).detach().numpy()
    np.testing.assert_allclose(adapter(source), found, atol=1e-6)


@pytest.mark.parametrize(("kind", "start"), [("linear", "ridge"), ("residual", "procrustes"), ("mlp", "ridge")])
def test_a_closed_form_beats_chance_and_is_the_same_each_time(kind, start):
    source, target = rotated(n=100, d=8)
    adapter = make_adapter(kind, source, target, start=start, seed=4)
    assert (adapter(source) @ target.T).argmax(1).tolist() == list(range(100))
    again = make_adapter(kind, source, target, start=start, seed=4)
    assert again.digest == adapter.digest
    if kind != "linear":
        assert make_adapter(kind, source, target, start=start, seed=5).digest != adapter.digest


@pytest.mark.parametrize("kind", ["linear", "residual"])
def test_identity_gives_what_comes_in(kind):
    source, target = rotated(n=30, d=8)
    np.testing.assert_allclose(make_adapter(kind, source, target, start="identity")(source), source, atol=1e-6)
    with pytest.raises(AlignmentError, match="same length on both sides to start from identity, got 8 and 5"):
        make_adapter(kind, source, cloud(30, 5), start="identity")


def test_what_does_not_fit_is_refused():
    with pytest.raises(AlignmentError, match="mlp has no procrustes"):
        make_adapter("mlp", cloud(4, 3), cloud(4, 3), start="procrustes")
    with pytest.raises(AlignmentError, match="kind linear, mlp, residual, got 'deep'"):
        Adapter("deep", {})
    with pytest.raises(
        AlignmentError, match=r"tensors \['bias', 'mean', 'scale', 'weight'\] of a linear adapter, got \['bias'\]"
    ):
        Adapter("linear", {"bias": np.zeros(2, np.float32)})
    good = dict(linear(np.eye(2)).tensors)
    with pytest.raises(AlignmentError, match=r"weight of shape \(2, 2\) and finite, got shape \(3, 2\)"):
        Adapter("linear", {**good, "weight": np.ones((3, 2), np.float32)})
    with pytest.raises(AlignmentError, match="bias of shape"):
        Adapter("linear", {**good, "bias": np.full(2, np.nan, np.float32)})
