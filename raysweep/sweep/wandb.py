"""The form of a W&B sweep's file, said in ours: whoever brings one is shown what to write."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

__all__ = ["in_our_form"]

_LOG = "log_uniform_values"  # whose min and max are values; those of log_uniform are logarithms


def in_our_form(raw: Any) -> str:
    """What a sweep file of W&B says, as `grid: {...}, tune: {...}`; empty for any other file.

    (https://docs.wandb.ai/models/sweeps/sweep-config-keys)
    """
    parameters = raw.get("parameters") if isinstance(raw, Mapping) else None
    if not isinstance(parameters, Mapping) or "grid" in raw:
        return ""
    grid: dict[str, Any] = {}
    tune: dict[str, Any] = {}
    for name, spec in parameters.items():
        if not isinstance(spec, Mapping):
            return ""
        if "value" in spec:
            grid[name] = spec["value"]
        elif "values" in spec:
            grid[name] = spec["values"]
        elif {"min", "max"} <= spec.keys():
            tune[name] = {"log" if spec.get("distribution") == _LOG else "linear": [spec["min"], spec["max"]]}
    parts = {"grid": grid} | ({"tune": tune} if tune else {})
    return yaml.safe_dump(parts, default_flow_style=True, sort_keys=False, width=10_000).strip()[1:-1]
