"""JSON without NaN and Infinity."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from patchkin.storage.strict_json import parsed, restored, strict, strict_text

keys = st.text(alphabet="ab/~0 ", max_size=4).filter(lambda key: key != "not_finite")
plains = st.dictionaries(
    keys,
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
        max_leaves=8,
    ),
    max_size=4,
)


def refused(word):
    raise AssertionError(f"{word} is no JSON")


# The first text waits for tables of Unicode, which takes seconds on a busy machine.
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(plains)
def test_any_object_is_valid_json_and_comes_back(plain):
    read = json.loads(strict_text(plain), parse_constant=refused)
    assert repr(restored(read)) == repr(plain)


def test_a_number_that_is_not_finite_is_null_with_its_reason():
    plain = {"scores": {"counterpart/psnr": math.inf, "b": [math.nan, -math.inf, 1.5]}}
    assert strict(plain) == {
        "scores": {"counterpart/psnr": None, "b": [None, None, 1.5]},
        "not_finite": {
            "/scores/counterpart~1psnr": "Infinity",
            "/scores/b/0": "NaN",
            "/scores/b/1": "-Infinity",
        },
    }
    assert repr(restored(strict(plain))) == repr(plain)
    assert strict({"a": 1.0}) == {"a": 1.0}


def test_names_with_the_letters_of_a_pointer():
    """RFC 6901: ~ is ~0 and / is ~1, and ~01 is no slash."""
    plain = {"a~/b": {"~1": math.nan}}
    found = strict(plain)
    assert found == {"a~/b": {"~1": None}, "not_finite": {"/a~0~1b/~01": "NaN"}}
    assert repr(restored(found)) == repr(plain)


def test_text_of_one_line_or_of_many():
    plain = {"a": (1.0, math.inf), "b": {"c": 2}}
    expected = {"a": [1.0, None], "b": {"c": 2}, "not_finite": {"/a/1": "Infinity"}}
    assert strict_text(plain) == json.dumps(expected)
    assert strict_text(plain, indent=2) == json.dumps(expected, indent=2)
    with pytest.raises(TypeError):
        strict_text({"a": {1}})


def test_what_somebody_else_wrote():
    assert parsed('{"a": [1, null]}') == parsed(b'{"a": [1, null]}') == {"a": [1, None]}
    for wrong in (b"\xff", "", "{"):
        with pytest.raises(ValueError):  # noqa: PT011 - the words are Python's
            parsed(wrong)


@pytest.mark.parametrize("begin_end", [("[", "]"), ('{"a":', "}"), ('[{"b":', "}]")])
def test_what_is_within_much_is_refused_before_anybody_goes_through_it(begin_end):
    """Python reads 900 lists within each other, and could not write or clean them."""
    begin, end = begin_end
    each = len([sign for sign in begin if sign in "[{"])
    fine = begin * (100 // each) + "1" + end * (100 // each)
    assert json.loads(strict_text({"x": parsed(fine)})) == {"x": json.loads(fine)}
    with pytest.raises(ValueError, match="nested too deeply"):
        parsed(begin * (104 // each) + "1" + end * (104 // each))
