"""Any file into the warehouse's readers gives rows or a documented refusal, and nothing else."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import ServiceError
from service.operations import builds, row_files
from service.operations.site_settings import merged
from service.operations.verbs import enter_order

COLUMNS = frozenset(enter_order.One.model_fields)
PARSERS = {"line": int, "quantity": int}
TEXTS = st.text(st.sampled_from('order,serialquantity\n\r"\x00\ud800{}[]:1 é'), max_size=60)
FILES = st.binary(max_size=200) | TEXTS.map(lambda text: text.encode("utf-8", "surrogatepass"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("files")


def or_cause(call):
    """What it gives, or the cause of its refusal."""
    try:
        return call()
    except ServiceError as error:
        return error.cause


@given(data=FILES, name=st.sampled_from(["rows.csv", "rows.jsonl"]))
def test_any_bytes_are_rows_or_refused(folder, data, name):
    path = folder / name
    path.write_bytes(data)
    rows = or_cause(lambda: list(row_files.rows(path, COLUMNS, PARSERS)))
    if isinstance(rows, str):
        assert rows == "import_header"
        return
    assert len(rows) <= data.count(b"\n") + data.count(b"\r") + 1
    for row in rows:
        if isinstance(row, ServiceError):
            assert row.cause == "row_malformed"
        else:
            assert isinstance(row, dict)


@given(data=FILES)
def test_any_bytes_are_a_build_or_refused(folder, data):
    path = folder / "build.toml"
    path.write_bytes(data)
    for read in (builds.read, builds.read_signatures):
        with pytest.raises(ServiceError) as caught:
            read(path)
        assert caught.value.cause in ("build_malformed", "build_unreadable", "signature_malformed")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
SECTIONS = st.dictionaries(st.sampled_from(["features", "payment", "network", "sound"]), JSON, max_size=4)


@given(before=SECTIONS, asked=SECTIONS)
def test_merged_settings_are_maps_that_merge_again_to_themselves(before, asked):
    found = or_cause(lambda: merged(merged({}, before), asked))
    if isinstance(found, str):
        assert found == "settings_illegal"
        return
    assert merged(found, {}) == merged({}, json.loads(json.dumps(found))) == found
    assert all(found.values())
