"""What goes into Milvus beside text and vector: names and values that it holds, and gives back."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightloom.documents import Scalar
from nightloom.metadata import AS_TEXT, LEFT_OUT, MAX_METADATA_BYTES, RESERVED, clean, renamed

VALUES = st.one_of(
    st.text(),
    st.integers(),
    st.floats(),
    st.booleans(),
    st.just("\ud800\x00"),
)


@given(st.lists(st.tuples(st.text(max_size=10) | st.sampled_from(sorted(RESERVED)), VALUES), max_size=8))
def test_whatever_is_given_can_be_stored(pairs: list[tuple[str, Scalar]]) -> None:
    kept, _ = clean(pairs)
    assert len(kept) == len(pairs)
    assert not kept.keys() & RESERVED
    for key, value in kept.items():
        assert key.replace("_", "a").isalnum()
        json.dumps(value, allow_nan=False).encode()
        assert not isinstance(value, int) or abs(value) < 2**63
        assert "\x00" not in str(value)


@pytest.mark.parametrize(
    ("key", "value", "kept", "note"),
    [
        ("year", 1958, ("year", 1958), None),
        ("text", "a", ("text_", "a"), "metadata field 'text' is stored as 'text_'"),
        ("$meta", "a", ("_meta", "a"), "metadata field '$meta' is stored as '_meta'"),
        ("", "a", ("_", "a"), "metadata field '' is stored as '_'"),
        ("a'b\"c", "a", ("a_b_c", "a"), renamed("a'b\"c", "a_b_c")),
        ("big", 2**70, ("big", str(2**70)), AS_TEXT),
        ("none", float("nan"), ("none", "nan"), AS_TEXT),
        ("ends", float("inf"), ("ends", "inf"), AS_TEXT),
    ],
)
def test_what_was_changed_is_said(key: str, value: Scalar, kept: tuple[str, Scalar], note: str | None) -> None:
    assert clean([(key, value)]) == (dict([kept]), frozenset({note} if note else ()))


def test_what_is_too_large_is_left_out_and_said() -> None:
    kept, notes = clean([("first", "a"), ("large", "a" * MAX_METADATA_BYTES), ("last", "a")])
    assert kept == {"first": "a"}
    assert notes == {LEFT_OUT}
