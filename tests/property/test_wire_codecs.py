"""Any bytes give a value or a documented error; what was encoded comes back; another library sees the same."""

from __future__ import annotations

import re

import msgpack
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from device_sdk.wire import frames, ids, keys, limits, topics
from device_sdk.wire.canon import canon
from device_sdk.wire.packer import PackError, packb, unpackb

# A busy machine is no failure.
calm = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

scalars = (
    st.none()
    | st.booleans()
    | st.integers(0, limits.MAX_INT)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=40)
    | st.binary(max_size=300)
)


def containers(depth):
    values = scalars
    for _ in range(depth):
        values = scalars | st.lists(values, max_size=4) | st.dictionaries(st.text(max_size=5), values, max_size=4)
    return values


values = containers(4)


def value_or_error(data):
    try:
        return unpackb(data)
    except PackError:
        return PackError


@calm
@given(st.binary(max_size=200))
def test_any_bytes_unpack_to_a_value_or_a_pack_error(data):
    value = value_or_error(data)
    if value is not PackError:
        # Whatever we take, the other library takes too, and for the same thing.
        assert repr(msgpack.unpackb(data, strict_map_key=True)) == repr(value)


@calm
@given(values, st.data())
def test_a_damaged_encoding_is_a_value_or_a_pack_error(value, data):
    packed = bytearray(packb(value))
    at = data.draw(st.integers(0, len(packed) - 1))
    packed[at] ^= data.draw(st.integers(1, 255))
    value_or_error(bytes(packed))
    value_or_error(bytes(packed[:at]))


@calm
@given(values)
def test_what_was_packed_comes_back_and_msgpack_sees_the_same(value):
    packed = packb(value)
    assert unpackb(packed) == value
    assert msgpack.unpackb(packed) == value
    assert msgpack.packb(value) == packed
    assert unpackb(memoryview(packed)) == value


@calm
@given(st.binary(max_size=400))
@example(b"\x00" * 20)
def test_any_bytes_are_a_chunk_or_a_frame_error(data):
    try:
        stream, index, prefix, chunk, last = frames.decode_chunk(data)
    except frames.FrameError:
        return
    assert frames.encode_chunk(stream, index, prefix, chunk, last)[1:] == data[1:]


@calm
@given(
    st.integers(0, 255),
    st.integers(0, 2**32 - 1),
    st.binary(min_size=8, max_size=8),
    st.binary(min_size=1),
    st.booleans(),
)
def test_a_chunk_comes_back_and_one_damaged_byte_of_data_is_noticed(stream, index, prefix, data, last):
    frame = frames.encode_chunk(stream, index, prefix, data, last)
    assert frames.decode_chunk(frame) == (stream, index, prefix, data, last)
    damaged = frame[:-1] + bytes([frame[-1] ^ 1])
    try:
        frames.decode_chunk(damaged)
    except frames.FrameError:
        return
    raise AssertionError("damage went unnoticed")


@calm
@given(st.integers(0, 2**31), st.sets(st.integers(0, 255), min_size=1))
def test_a_bitmap_names_exactly_its_chunks(first, offsets):
    indexes = sorted(first + k for k in offsets)
    assert frames.bitmap_indexes(first, frames.bitmap(first, indexes)) == indexes


items = st.lists(st.text(max_size=5) | st.binary(max_size=5) | st.integers(0, 2**64 - 1), max_size=5)


def as_bytes(item):
    return item.encode() if isinstance(item, str) else item if isinstance(item, bytes) else item.to_bytes(8, "big")


@calm
@given(items, items)
def test_canon_of_two_lists_is_equal_only_if_their_items_are(left, right):
    same = [as_bytes(i) for i in left] == [as_bytes(i) for i in right]
    assert (canon("pv1 x", *left) == canon("pv1 x", *right)) is same


@calm
@given(st.binary(max_size=200), st.binary(max_size=200))
def test_hmac_is_the_standard_library_s(key, data):
    import hmac

    assert keys.hmac_sha256(key, data) == hmac.digest(key, data, "sha256")


ROOTS = st.sampled_from(["pv1", "a/b", "pv1/b"])
LEVELS = st.sampled_from(
    ["b", "c", "o", "B", "", "+", "#", "$SYS", "up", "dn", "UP", "pv1", "hello", "Hello", "h" * 16, "h" * 17, "h1",
     "0" * 32, "0" * 31, "0" * 33, "A" * 32, "g" * 32, "\u0660" * 32, "up\n", "h\n", "h\x00"]
) | st.text(max_size=4)  # fmt: skip


@st.composite
def near_topics(draw):
    """One of ours with a few levels or characters changed, taken out or put in. Often still one of ours."""
    owner = draw(st.text("0123456789abcdef", min_size=32, max_size=32))
    verb = draw(st.text("abcdefghijklmnopqrstuvwxyz", min_size=1, max_size=16))
    levels = ["pv1", draw(st.sampled_from("bc")), owner, draw(st.sampled_from(["up", "dn"])), verb]
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(levels) - 1))
        levels[at : at + draw(st.integers(0, 1))] = draw(st.lists(LEVELS, max_size=1))
        if not levels:
            break
    topic = "/".join(levels)
    for _ in range(draw(st.integers(0, 1))):
        at = draw(st.integers(0, len(topic)))
        topic = topic[:at] + draw(st.text(max_size=1)) + topic[at + draw(st.integers(0, 1)) :]
    return draw(ROOTS) + topic[3:] if topic.startswith("pv1") else topic


@settings(calm, max_examples=300)
@given(near_topics() | st.text(max_size=60), ROOTS)
def test_any_topic_is_read_as_ours_only_if_it_can_be_written_so(topic, root):
    found = topics.parse(topic, root)
    ours = re.fullmatch(re.escape(root) + "/[bc]/[0-9a-f]{32}/(up|dn)/[a-z]{1,16}", topic, re.ASCII)
    assert (found is not None) == (ours is not None)
    if found is not None:
        space, owner, direction, verb = found
        write = topics.up if direction == "up" else topics.down
        assert write(space, owner, verb, root) == topic


@calm
@given(
    st.sampled_from("bc"),
    st.binary(min_size=16, max_size=16),
    st.text("abcdefghijklmnopqrstuvwxyz", min_size=1, max_size=16),
)
def test_a_topic_comes_back(space, owner, verb):
    name = ids.hex_of(owner)
    assert topics.parse(topics.up(space, name, verb)) == (space, name, "up", verb)
    assert topics.parse(topics.down(space, name, verb, "a/b"), "a/b") == (space, name, "dn", verb)
