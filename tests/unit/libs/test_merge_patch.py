import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.web.endpoint import merge_patch

# Appendix A of RFC 7396: target, patch, result.
EXAMPLES = """
{"a":"b"}           | {"a":"c"}                       | {"a":"c"}
{"a":"b"}           | {"b":"c"}                       | {"a":"b","b":"c"}
{"a":"b"}           | {"a":null}                      | {}
{"a":"b","b":"c"}   | {"a":null}                      | {"b":"c"}
{"a":["b"]}         | {"a":"c"}                       | {"a":"c"}
{"a":"c"}           | {"a":["b"]}                     | {"a":["b"]}
{"a":{"b":"c"}}     | {"a":{"b":"d","c":null}}        | {"a":{"b":"d"}}
{"a":[{"b":"c"}]}   | {"a":[1]}                       | {"a":[1]}
["a","b"]           | ["c","d"]                       | ["c","d"]
{"a":"b"}           | ["c"]                           | ["c"]
{"a":"foo"}         | null                            | null
{"a":"foo"}         | "bar"                           | "bar"
{"e":null}          | {"a":1}                         | {"e":null,"a":1}
[1,2]               | {"a":"b","c":null}              | {"a":"b"}
{}                  | {"a":{"bb":{"ccc":null}}}       | {"a":{"bb":{}}}
"""

values = st.recursive(
    st.none() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize("line", EXAMPLES.strip().splitlines())
def test_the_examples_of_the_rfc(line: str) -> None:
    target, patch, result = (json.loads(part) for part in line.split(" | "))
    assert merge_patch(target, patch) == result


@given(values, values)
def test_a_patch_leaves_its_target_and_itself_as_they_were(target: Any, patch: Any) -> None:
    before = json.dumps([target, patch])
    merge_patch(target, patch)
    assert json.dumps([target, patch]) == before


@given(values, values)
def test_a_second_time_changes_nothing(target: Any, patch: Any) -> None:
    once = merge_patch(target, patch)
    assert merge_patch(once, patch) == once
