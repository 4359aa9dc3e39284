"""Samples kept beside their world: drawn once, read as they were drawn, refused where they are another world's."""

from dataclasses import replace

import numpy as np
import pytest

from raysweep.errors import OracleError
from raysweep.oracle.flow_world import FlowWorld, packed
from raysweep.oracle.gaussian import GaussianRecipe, gaussian_flow
from raysweep.oracle.image_flow import ImageRecipe
from raysweep.oracle.kept import Kept
from raysweep.oracle.recipe import folder_of, recipe_hash
from raysweep.oracle.transformer_world import TransformerRecipe
from raysweep.oracle.world import adopt, load_world, world_of_worker
from raysweep.store import Store

RECIPE = GaussianRecipe(separation=2.0)
WORLD = FlowWorld(gaussian_flow(RECIPE).requires_grad_(False), RECIPE, recipe_hash(RECIPE))


@pytest.fixture
def kept(tmp_path):
    return Kept(Store(str(tmp_path / "store")), "oracle/w")


def never():
    raise AssertionError("a sample that is kept must not be drawn")


def test_a_sample_is_read_as_it_was_drawn(kept):
    drawn = WORLD.draw(64, "pool", 1.0)
    for draw in (lambda: drawn, never):
        got = kept.sample(WORLD, 64, "pool", 1.0, draw)
        for name in ("x", "y", "log_posterior"):
            np.testing.assert_array_equal(getattr(got, name), getattr(drawn, name))
            assert getattr(got, name).dtype == getattr(drawn, name).dtype


def test_size_stream_temperature_and_weights_have_a_file_each(kept):
    for world, n, stream, t in [
        (WORLD, 8, "a", 1.0), (WORLD, 9, "a", 1.0), (WORLD, 8, "b/c", 1.0), (WORLD, 8, "a", 1.5),
        (replace(WORLD, sha="other"), 8, "a", 1.0),
    ]:  # fmt: skip
        asked = []
        kept.sample(world, n, stream, t, lambda asked=asked, n=n, s=stream, t=t: asked.append(n) or WORLD.draw(n, s, t))
        assert asked == [n]
    assert len(kept.store.list("oracle/w/samples")) == 5


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda s: replace(s, x=s.x[:-1]), "it holds"),
        (lambda s: replace(s, x=np.full_like(s.x, np.nan)), "not finite"),
        (lambda s: replace(s, y=s.y + 5), "its classes are"),
        (lambda s: replace(s, log_posterior=s.log_posterior[::-1]), "log-posterior is off"),
    ],
)
def test_a_file_that_is_not_such_a_sample_is_refused(kept, change, reason):
    kept.sample(WORLD, 64, "pool", 1.0, lambda: change(WORLD.draw(64, "pool", 1.0)))
    with pytest.raises(OracleError, match=f"{reason}.*Delete the file"):
        kept.sample(WORLD, 64, "pool", 1.0, never)


def test_workers_keep_samples_of_worlds_that_are_slow_to_draw_and_audits_do_not(tmp_path):
    store = Store(str(tmp_path / "store"))
    slow = TransformerRecipe(patch=4, width=8, blocks=1, layers=1, steps=1)
    adopt(store, slow, packed(slow.fresh()))
    adopt(store, RECIPE, RECIPE.make(never))
    at = folder_of(slow)
    assert ImageRecipe.keeps_samples
    assert not RECIPE.keeps_samples
    load_world(store, at).sample(4, "audit")
    world_of_worker(store, folder_of(RECIPE)).sample(4, "pool")
    assert not store.list(f"{at}/samples")
    assert not store.list(f"{folder_of(RECIPE)}/samples")
    first = world_of_worker(store, at).sample(4, "pool")
    assert len(store.list(f"{at}/samples")) == 1
    again = world_of_worker(store, at)
    np.testing.assert_array_equal(again.kept.sample(again, 4, "pool", 1.0, never).x, first.x)
