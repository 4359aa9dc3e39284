"""Worlds: samples follow the stated prior and posterior, and a store keeps the first complete one."""

import hashlib
import itertools
import threading

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load, save

from raysweep.errors import OracleError
from raysweep.oracle.fit import CHECKPOINT
from raysweep.oracle.flow_world import FlowWorld, packed, unpacked
from raysweep.oracle.gaussian import GaussianRecipe, gaussian_flow
from raysweep.oracle.recipe import folder_of, recipe_hash
from raysweep.oracle.shared_flow import FlowRecipe, fresh_flow
from raysweep.oracle.world import adopt, load_world, prepare
from raysweep.store import Store
from raysweep.theory.gaussian import truth

ITEMS = 40_000
TINY = FlowRecipe(layers=2, hidden=8, blocks=1, epochs=1)


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "store"))


def world_of(**fields):
    recipe = GaussianRecipe(**fields)
    flow = gaussian_flow(recipe).requires_grad_(False)
    return FlowWorld(flow, recipe, recipe_hash(recipe))


def tiny_flow(seed=0):
    flow = fresh_flow(TINY)
    with torch.no_grad():
        flow.means.copy_(torch.randn(10, 64, generator=torch.Generator().manual_seed(seed)))
    return flow


def never(function):
    raise AssertionError(f"{function} must not be called")


def within(values, expected, sigmas=4.0):
    error = values.std(ddof=1) / len(values) ** 0.5
    assert abs(values.mean() - expected) <= sigmas * error, (values.mean(), expected, error)


def check_against(sample, expected):
    log_r = sample.log_posterior
    r = np.exp(log_r)
    half = log_r / 2 - np.logaddexp.reduce(log_r / 2, axis=1, keepdims=True)  # softmax(log r / 2)
    own = np.arange(len(r)), sample.y
    within(-(r * log_r).sum(1), expected.aleatoric)
    within(-log_r[own], expected.aleatoric)
    within(1 - r.max(1), expected.bayes_error)
    within((r.argmax(1) != sample.y) * 1.0, expected.bayes_error)
    within(-(np.exp(half) * half).sum(1), expected.tempered_entropy)
    within(-half[own], expected.tempered_nll)


@pytest.mark.parametrize("d", [1.0, 2.0, 4.0])
def test_gaussian_world_has_the_quadratures_truth(d):
    check_against(world_of(separation=d, dim=3).sample(ITEMS, "test"), truth(d, temperature=2.0))


@pytest.mark.parametrize(("d", "t"), [(2.0, 0.5), (2.0, 2.0), (4.0, 3.0)])
def test_latent_temperature_t_is_separation_d_over_t(d, t):
    check_against(world_of(separation=d).sample(ITEMS, "test", t), truth(d / t, temperature=2.0))


@pytest.mark.parametrize("p", [0.3, 0.9])
def test_an_unequal_prior_is_in_the_labels_and_in_the_posterior(p):
    sample = world_of(separation=2.0, prior=(1 - p, p)).sample(ITEMS, "test")
    within((sample.y == 1) * 1.0, p)
    within(np.exp(sample.log_posterior[:, 1]), p)
    check_against(sample, truth(2.0, prior=p, temperature=2.0))


def test_a_prior_need_not_be_normalised():
    sample = world_of(classes=3, dim=2, prior=(2.0, 1.0, 1.0)).sample(ITEMS, "test")
    for k, w in enumerate((0.5, 0.25, 0.25)):
        within((sample.y == k) * 1.0, w)


@pytest.mark.parametrize(("classes", "dim"), [(2, 2), (3, 2), (5, 4), (5, 9)])
def test_class_means_are_separation_apart_and_centred(classes, dim):
    means = gaussian_flow(GaussianRecipe(classes=classes, dim=dim, separation=1.7)).means.detach()
    for a, b in itertools.combinations(range(classes), 2):
        assert (means[a] - means[b]).norm().item() == pytest.approx(1.7, rel=1e-12)
    assert means.mean(0).abs().max() < 1e-12


def test_more_classes_than_corners_are_refused():
    with pytest.raises(ValidationError, match=r"classes <= dim \+ 1"):
        GaussianRecipe(classes=4, dim=2)


@pytest.mark.parametrize("dim", [2, 4, 16, 64])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_items_of_a_gaussian_world_can_be_learned_from(dim, seed):
    """A random net must not stretch space beyond what float32 and a learning rate near 0.01 can take."""
    x = world_of(dim=dim, seed=seed).sample(5000, "test").x
    assert x.dtype == np.float32
    assert np.abs(x).max() < 50
    assert 0.5 < x.std() < 5


@pytest.mark.parametrize("separation", [1.0, 3.0])
def test_bayes_error_does_not_fall_with_temperature(separation):
    world = world_of(separation=separation, classes=3, dim=4)
    posteriors = [np.exp(world.sample(4000, "test", t).log_posterior) for t in (0.25, 0.5, 1.0, 1.5, 2.0, 4.0, 16.0)]
    errors = [1 - r.max(1).mean() for r in posteriors]
    assert all(a <= b for a, b in itertools.pairwise(errors)), errors
    assert errors[-1] < 2 / 3


def test_temperatures_share_their_noise_and_labels():
    world = world_of()
    a, b = world.sample(100, "test", 1.0), world.sample(100, "test", 2.0)
    assert np.array_equal(a.y, b.y)
    z1, z2 = (world.flow.latent(torch.from_numpy(s.x).double())[0].numpy() for s in (a, b))
    means = world.flow.means.numpy()
    assert 2 * (z1 - means[a.y]) == pytest.approx(z2 - means[b.y], abs=1e-5)


def test_a_stream_is_the_same_in_a_fresh_process_and_streams_differ():
    a = world_of().draw(500, "pool", 1.0)
    torch.manual_seed(99)
    b = world_of().draw(500, "pool", 1.0)  # past the cache
    assert np.array_equal(a.x, b.x)
    assert np.array_equal(a.y, b.y)
    assert np.array_equal(a.log_posterior, b.log_posterior)
    others = [world_of().draw(500, s, 1.0).x for s in ("eval", "select", "audit")]
    for u, v in itertools.combinations([a.x, *others], 2):
        assert not np.intersect1d(u, v).size
        assert abs(np.corrcoef(u[:, 0], v[:, 0])[0, 1]) < 4 / 500**0.5


def test_worlds_of_different_recipes_draw_different_noise():
    a, b = world_of(seed=0, layers=0), world_of(seed=1, layers=0)
    assert not np.array_equal(a.sample(50, "pool").y, b.sample(50, "pool").y)


@pytest.mark.parametrize("make", [lambda: world_of(dim=5), lambda: FlowWorld(tiny_flow().double(), TINY, "t")])
def test_the_posterior_is_that_of_x_as_stored(make):
    world = make()
    sample = world.sample(9000, "stored", 1.5)  # more than one chunk
    assert sample.x.dtype == np.float32
    assert sample.log_posterior.dtype == np.float64
    again = world.log_posterior(sample.x, 1.5)
    assert again == pytest.approx(sample.log_posterior, abs=1e-10)
    assert np.abs(np.exp(sample.log_posterior).sum(1) - 1).max() < 1e-12


def test_devices_share_the_items_and_keep_their_order():
    flow = tiny_flow()
    alone, shared = (unpacked(TINY, fresh_flow, packed(flow), "t", ["cpu"] * n) for n in (1, 2))
    worked, meet = [], threading.Barrier(2, timeout=200)  # a device that works alone never gets through

    def seen(net, _):
        worked.append(id(net))
        meet.wait()

    for copy in (shared.flow, *shared.copies):
        copy.net.register_forward_pre_hook(seen)
    sample, expected = (world.draw(4 * 2048, "many", 1.0) for world in (shared, alone))
    assert len(set(worked)) == 2
    assert np.array_equal(sample.x, expected.x)
    assert sample.log_posterior == pytest.approx(expected.log_posterior, abs=1e-10)


def test_an_inverse_that_is_not_finite_is_an_oracle_error():
    world = world_of(seed=77)
    with torch.no_grad():
        next(world.flow.net.parameters()).fill_(torch.nan)
    with pytest.raises(OracleError, match="samples must be finite"):
        world.sample(10, "test")


# --- in a store -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("recipe", "make"),
    [(TINY, tiny_flow), (GaussianRecipe(dim=3), lambda: gaussian_flow(GaussianRecipe(dim=3)))],
    ids=["flow", "gaussian"],
)
def test_weights_round_trip_bit_for_bit(store, recipe, make):
    flow = make()
    world = adopt(store, recipe, packed(flow))
    again = load_world(store, folder_of(recipe))
    assert again == world  # recipe and sha
    assert world.sha == hashlib.sha256(store.read(f"{folder_of(recipe)}/weights.safetensors")).hexdigest()[:16]
    for name, value in flow.state_dict().items():
        assert torch.equal(again.flow.state_dict()[name], value.to(again.flow.state_dict()[name].dtype)), name
    assert all(not p.requires_grad and p.dtype == torch.float64 for p in again.flow.parameters())
    assert np.array_equal(world.draw(20, "a", 1.0).x, again.draw(20, "a", 1.0).x)


def test_the_first_complete_writer_wins_and_the_second_adopts(store):
    first, second = (adopt(store, TINY, packed(tiny_flow(seed))) for seed in (1, 2))
    assert first.sha == second.sha
    assert torch.equal(second.flow.means.float(), tiny_flow(1).means.detach())


def test_a_world_is_made_once(store):
    calls = []

    def train(function):
        calls.append(function)
        return {CHECKPOINT: save({f"model/{k}": v for k, v in tiny_flow().state_dict().items()})}

    (first, made), (second, made_again) = prepare(store, TINY, train), prepare(store, TINY, never)
    assert (made, made_again, len(calls)) == (True, False, 1)
    assert first.sha == second.sha


def test_a_gaussian_world_needs_no_training(store):
    world, made = prepare(store, GaussianRecipe(), never)
    assert made
    assert (world.dim, world.classes) == (2, 2)


@pytest.mark.parametrize("missing", ["recipe.json", "weights.safetensors"])
def test_a_missing_file_is_named(store, missing):
    adopt(store, GaussianRecipe(), packed(gaussian_flow(GaussianRecipe())))
    folder = folder_of(GaussianRecipe())
    store.delete(f"{folder}/{missing}")
    with pytest.raises(OracleError, match=rf"{folder}.*lacks {missing}"):
        load_world(store, folder)


@pytest.mark.parametrize(
    "other",
    [
        GaussianRecipe(layers=3),
        GaussianRecipe(dim=3),
        GaussianRecipe(classes=3),
        GaussianRecipe(classes=3, dim=2, prior=(0.2, 0.3, 0.5)),
        TINY,
    ],
    ids=["layers", "dim", "classes", "prior", "kind"],
)
def test_weights_that_do_not_fit_the_recipe_are_refused_by_name(store, other):
    adopt(store, GaussianRecipe(), packed(gaussian_flow(GaussianRecipe())))
    folder = folder_of(GaussianRecipe())
    store.write(f"{folder}/recipe.json", other.model_dump_json().encode())
    with pytest.raises(OracleError, match=rf"{folder}: weights\.safetensors must fit recipe\.json, but does not: \w+"):
        load_world(store, folder)


def rewritten(change):
    def spoil(data):
        tensors = load(data)
        change(tensors)
        return save(tensors)

    return spoil


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: b"",
        lambda data: b"not a tensor",
        lambda data: data[:-8],
        lambda data: data[: len(data) // 2],
        lambda data: b"\xff" * 8 + data[8:],
        rewritten(lambda t: t.pop("means")),
        rewritten(lambda t: t.pop("log_scale")),
        rewritten(lambda t: t.update(means=torch.zeros(4))),
        rewritten(lambda t: t.update(extra=torch.zeros(4))),
    ],
    ids=["empty", "text", "short", "half", "header", "no means", "no scale", "flat means", "extra"],
)
def test_corrupt_weights_are_refused_by_name(store, spoil):
    adopt(store, GaussianRecipe(), packed(gaussian_flow(GaussianRecipe())))
    name = f"{folder_of(GaussianRecipe())}/weights.safetensors"
    store.write(name, spoil(store.read(name)))
    with pytest.raises(OracleError, match=r"weights\.safetensors must fit recipe\.json, .* delete the folder"):
        load_world(store, folder_of(GaussianRecipe()))


@pytest.mark.parametrize(
    ("other", "message"),
    [(GaussianRecipe(seed=5), "with seed=0, but has seed=5"), (TINY, "with kind='gaussian', but has kind='flow'")],
)
def test_a_recipe_that_was_changed_after_the_world_was_made_is_refused(store, other, message):
    adopt(store, GaussianRecipe(), packed(gaussian_flow(GaussianRecipe())))
    folder = folder_of(GaussianRecipe())
    store.write(f"{folder}/recipe.json", other.model_dump_json().encode())
    with pytest.raises(OracleError, match=rf"{folder}: recipe\.json must hold the recipe .*{message}\. Undo"):
        prepare(store, GaussianRecipe(), pytest.fail)


def test_an_unknown_recipe_key_is_refused_by_name(store):
    adopt(store, GaussianRecipe(), packed(gaussian_flow(GaussianRecipe())))
    folder = folder_of(GaussianRecipe())
    store.write(f"{folder}/recipe.json", b'{"kind": "gaussian", "colour": 3}')
    with pytest.raises(OracleError, match=rf"{folder}/recipe\.json: must hold a recipe.*colour"):
        load_world(store, folder)


def test_a_world_folder_is_a_store_of_its_own(store):
    adopt(store, GaussianRecipe(), packed(gaussian_flow(GaussianRecipe())))
    assert load_world(Store(store.path(folder_of(GaussianRecipe())))).recipe == GaussianRecipe()
