"""Tags as text fields and back."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from genmm.core.errors import MediaError, UsageError
from genmm.media.tag_reader import read_tags
from genmm.media.tags import STANDARD_TAGS, TAG_BYTES, pack_tags, unpack_tags

text = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), min_size=1, max_size=30)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.dictionaries(st.sampled_from(STANDARD_TAGS[:-1]), text),
    st.dictionaries(text.filter(lambda key: key not in STANDARD_TAGS), json_values, min_size=1, max_size=4),
)
def test_unpacking_gives_back_what_was_packed(standard, others):
    fields = pack_tags({**standard, **others})
    assert set(fields) <= set(STANDARD_TAGS) and all(isinstance(value, str) for value in fields.values())
    assert unpack_tags(fields) == {**standard, **others}


def test_a_plain_comment_stays_text_and_travels_with_other_keys():
    assert pack_tags({"comment": "hello"}) == {"comment": "hello"}
    assert unpack_tags(pack_tags({"comment": "hello", "seed": 3})) == {"comment": "hello", "seed": 3}
    assert pack_tags(None) == pack_tags({}) == {}


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.text(max_size=40))
def test_strange_comments_never_fail(comment):
    assert isinstance(unpack_tags({"comment": "{" + comment}), dict)
    assert isinstance(unpack_tags({"comment": comment, "other": "x"}), dict)


def test_deep_comments_stay_text():
    comment = '{"a":' + "[" * 20_000
    assert unpack_tags({"comment": comment}) == {"comment": comment}


@pytest.mark.parametrize("tags", [{"title": 1}, {"x": float("nan")}, {"x": {1, 2}}, {"x": "y" * TAG_BYTES}])
def test_tags_that_cannot_be_kept_are_refused(tags):
    with pytest.raises(UsageError):
        pack_tags(tags)


def test_files_that_are_no_media_have_no_tags():
    with pytest.raises(MediaError):
        read_tags(b"plain text, nothing else " * 20)
    with pytest.raises(MediaError):
        read_tags(b"\x89PNG\r\n\x1a\n" + b"\0" * 50)
