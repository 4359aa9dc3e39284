"""A sweep file of W&B is answered with the same axes in our form."""

import pytest
import yaml
from conftest import HERE

from raysweep.errors import SweepError
from raysweep.sweep import from_mapping
from raysweep.sweep.wandb import in_our_form

THEIRS = {
    "program": "train.py",
    "method": "bayes",
    "metric": {"name": "loss", "goal": "minimize"},
    "parameters": {
        "size": {"values": [10, 100]},
        "seed": {"value": 0},
        "lr": {"distribution": "log_uniform_values", "min": 1e-3, "max": 1.0},
        "shift": {"min": 0.0, "max": 0.5},
    },
}


def test_its_axes_are_said_in_our_form_which_is_one():
    ours = yaml.safe_load("{" + in_our_form(THEIRS) + "}")
    assert ours == {
        "grid": {"size": [10, 100], "seed": 0},
        "tune": {"lr": {"log": [1e-3, 1.0]}, "shift": {"linear": [0.0, 0.5]}},
    }
    with pytest.raises(
        SweepError, match=r"^s.yaml: parameters: a sweep file of W&B .*grid: \{size: \[10, 100\], seed: 0\}"
    ):
        from_mapping(THEIRS, "s.yaml", [HERE])
    plain = {"name": "a", "experiment": "toy_experiment:train", "grid": ours["grid"]}
    assert from_mapping(plain, "s.yaml", [HERE]).runs.cells == 2


@pytest.mark.parametrize("other", [None, [], {"parameters": 3}, {"parameters": {"lr": 0.1}}, {**THEIRS, "grid": {}}])
def test_any_other_file_is_left_to_the_usual_errors(other):
    assert in_our_form(other) == ""
