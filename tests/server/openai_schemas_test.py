"""The schemas that judge our wire know all that the pinned SDK knows."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.openai_schemas_refresh import SCHEMAS, SDK_TYPES, refreshed


def schema(name: str) -> dict[str, Any]:
    """A schema as it is in its file."""
    found: dict[str, Any] = json.loads((SCHEMAS / f"{name}.json").read_text())
    return found


@pytest.mark.parametrize("name", SDK_TYPES)
def test_a_schema_lacks_nothing_of_the_sdks_type(name: str) -> None:
    is_whole = refreshed(name, schema(name)) == schema(name)
    assert is_whole, "run python -m tests.openai_schemas_refresh, and read what it adds"


def test_what_a_schema_lacks_is_added_at_its_place() -> None:
    whole = schema("Response")
    usage = whole["$defs"]["ResponseUsage"]["properties"]["input_tokens_details"]["properties"]
    texts = whole["$defs"]["OutputTextContent"]["properties"]
    events = schema("ResponseStreamEvent")
    union = events["$defs"]["ResponseStreamEvent"]["anyOf"]
    for place, name in ((usage, "cached_tokens"), (texts, "annotations")):
        taken = place.pop(name)
        again = refreshed("Response", whole)
        assert again != whole
        place[name] = taken
    assert {"$ref": "#/$defs/ResponseTextDeltaEvent"} in union
    union.remove({"$ref": "#/$defs/ResponseTextDeltaEvent"})
    added = refreshed("ResponseStreamEvent", events)["$defs"]["ResponseStreamEvent"]["anyOf"]
    assert {"$ref": "#/$defs/sdk.ResponseTextDeltaEvent"} in added
