"""What the bmd experiment refuses before it runs, and the sizes of the digits that it can be run on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raysweep.errors import SweepError

__all__ = ["CLASSES", "MOST_ITEMS", "PIXELS", "check_run"]

PIXELS, CLASSES = 64, 10  # of the digits
MOST_ITEMS = 1400  # digits that may be for training; the rest are for testing
_LEAST_LOGISTIC = 1e-8  # ridge


def check_run(row: Mapping[str, Any]) -> None:
    """Refuse noise that the labels cannot have, losses without a finite minimum, and sizes that the digits lack.

    Raises:
        SweepError: the run has no meaning.
    """
    if row["teacher"] == "linear" and row["label_noise"]:
        raise SweepError(
            f"label_noise: signs are flipped under teacher: sign, but got label_noise={row['label_noise']:g} with "
            "teacher: linear. Set target_noise, the variance of real labels"
        )
    if row["teacher"] != "linear" and row["target_noise"]:
        raise SweepError(
            f"target_noise: real labels have it under teacher: linear, but got target_noise={row['target_noise']:g} "
            f"with teacher: {row['teacher']}. Set label_noise, the chance of a wrong label"
        )
    if row["teacher"] == "digits" and (row["dim"] != PIXELS or row["n_train"] > MOST_ITEMS):
        raise SweepError(
            f"teacher: digits have {PIXELS} pixels, and {MOST_ITEMS:,} of them are for training, but got "
            f"dim={row['dim']} and n_train={row['n_train']}. Set dim: {PIXELS}, and n_train: {MOST_ITEMS} at most"
        )
    if row["loss"] == "logistic" and (row["teacher"] != "sign" or row["ridge"] < _LEAST_LOGISTIC):
        raise SweepError(
            f"loss: the logistic loss takes teacher: sign and a ridge of at least {_LEAST_LOGISTIC:g}, without which "
            f"separable items have no minimum, but got teacher: {row['teacher']} and ridge={row['ridge']:g}. "
            "Set both, or use loss: square"
        )
