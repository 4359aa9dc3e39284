"""What breaks exactness: each change is found by self-calibration where it matters, and the world itself passes."""

from __future__ import annotations

import numpy as np
from typer.testing import CliRunner

from raysweep.cli import app
from raysweep.oracle import breaks
from raysweep.oracle.flow_world import FlowWorld, packed
from raysweep.oracle.gaussian import GaussianRecipe, gaussian_flow
from raysweep.oracle.world import adopt
from raysweep.store import Store

RECIPE = GaussianRecipe(dim=2, classes=3, separation=2.0, layers=0)


def world() -> FlowWorld:
    return FlowWorld(gaussian_flow(RECIPE), RECIPE, "0" * 16)


def test_each_change_is_found_and_the_world_itself_passes() -> None:
    found = {one.name: one for one in breaks.changes(world(), levels=4, noise=0.6, items=20_000)}
    assert found["none"].exact
    assert found["bfloat16"].exact  # far finer than the classes are apart
    for name in ("tempered", "temperature 0.8", "guidance", "denoised", "clipped", "grey levels"):
        assert not found[name].exact, name
    assert found["guidance"].calibration.value < -4  # labels are surer than the posterior says
    assert "denoised" not in {one.name for one in breaks.changes(world(), levels=4, noise=0.0, items=200)}


def test_denoising_is_one_step_up_the_density_of_the_own_class() -> None:
    own = world()
    sample = own.sample(300, "x")
    means = own.flow.means.detach().numpy()  # type: ignore[attr-defined]
    expected = sample.x - 0.5**2 * (sample.x - means[sample.y])
    np.testing.assert_allclose(breaks._denoised(own, sample, 0.5), expected, atol=1e-6)


def test_the_surer_of_two_is_of_their_class_and_each_sample_is_taken_once() -> None:
    x, y = breaks._surer(world(), 500)
    log_r = world().log_posterior(x)
    plain = world().sample(1000, "breaks")
    assert len(np.unique(x, axis=0)) == len(x) <= 500
    assert len(x) > 480
    mean = plain.log_posterior[np.arange(1000), plain.y].mean()
    assert log_r[np.arange(len(x)), y].mean() > mean + 0.1


def test_grey_levels_are_middles_of_bins() -> None:
    x = np.array([[-2.0, -1.0, -0.51, -0.49, 0.0, 0.99, 3.0]])
    assert breaks._rounded(x, 4).tolist() == [[-0.75, -0.75, -0.75, -0.25, 0.25, 0.75, 0.75]]


def test_the_command_prints_the_table(tmp_path: object) -> None:
    store = Store(f"{tmp_path}/s")
    adopt(store, RECIPE, packed(gaussian_flow(RECIPE)))
    result = CliRunner().invoke(app, ["audit", store.uri, "--breaks", "--items", "4000"])
    assert result.exit_code == 0, result.output
    lines = {line.split()[0]: line for line in result.stdout.splitlines() if line.strip()}
    assert "may be" in lines["none"]
    assert " NO " in lines["tempered"]
