"""The common columns of parts that different versions of raysweep wrote."""

import json

import pyarrow as pa
import pytest

from raysweep.ledger.columns import unite

RULE = json.dumps({"axis": "schedule", "kinds": [["cosine", "lane"]]})


def part(**meta):
    return pa.schema([pa.field("steps", pa.int64(), metadata={"role": "axis", "axis_role": "time", **meta})])


def steps_of(*schemas):
    return unite((f"part-{i}", schema, 1) for i, schema in enumerate(schemas)).schema.field("steps").metadata


@pytest.mark.parametrize("newer_first", [True, False])
def test_a_part_that_does_not_say_how_a_kind_is_chosen_hides_no_rule_of_another(newer_first):
    old, new = part(kind="observed"), part(kind="observed", kind_by=RULE)
    found = steps_of(*((new, old) if newer_first else (old, new)))
    assert (found[b"kind"], found[b"kind_by"]) == (b"observed", RULE.encode())


def test_a_rule_ends_where_the_kind_changed():
    assert b"kind_by" not in steps_of(part(kind="observed", kind_by=RULE), part(kind="lane"))
