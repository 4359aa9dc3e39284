"""The bundled digits."""

import hashlib

import numpy as np
import pytest

from raysweep import data
from raysweep.errors import SweepError


def test_digits_are_1797_grey_images_of_ten_classes():
    digits = data.load("digits")
    assert digits.x.shape == (1797, 64)
    assert digits.x.dtype == np.uint8
    assert digits.y.dtype == np.int64
    assert set(digits.y.tolist()) == set(range(digits.classes)) == set(range(10))
    assert (digits.x.min(), digits.x.max()) == (0, digits.levels - 1) == (0, 16)


def test_the_hash_is_of_the_content_and_golden():
    digits = data.load("digits")
    assert digits.sha256 == hashlib.sha256(digits.x.tobytes() + digits.y.tobytes()).hexdigest()
    assert digits.sha256 == "65e5b4619795efb40c1082f4c350c049e4ad552200d369b6ae99e21eef5e72c5"


def test_a_data_set_is_loaded_once():
    assert data.load("digits") is data.load("digits")


@pytest.mark.parametrize("name", ["digit", "", "../digits"])
def test_unknown_names_are_refused_with_the_known_ones(name):
    with pytest.raises(SweepError, match=r"must be a known data set.*digits"):
        data.load(name)
