"""If-Match and If-None-Match, by RFC 9110, section 13.2.2."""

import pytest

from libs.common.errors import NotFound, PreconditionFailed
from libs.common.web.messages import check_preconditions


def headers(match: str | None, none_match: str | None) -> dict[str, str]:
    given = {"if-match": match, "if-none-match": none_match}
    return {name: value for name, value in given.items() if value is not None}


@pytest.mark.parametrize("is_safe", [False, True])
@pytest.mark.parametrize("match", [None, '"2"', "*", '"1", "2"'])
@pytest.mark.parametrize("none_match", [None, '"1"', 'W/"1"', '"2x"'])
def test_a_request_whose_preconditions_hold_goes_on(match: str | None, none_match: str | None, is_safe: bool) -> None:
    assert check_preconditions(headers(match, none_match), 2, is_safe=is_safe)


@pytest.mark.parametrize("is_safe", [False, True])
@pytest.mark.parametrize("match", ['"1"', 'W/"2"', "2", "", '"22"'])
@pytest.mark.parametrize("none_match", [None, '"1"', '"2"', "*"])
def test_what_if_match_does_not_name_is_neither_shown_nor_changed(
    match: str, none_match: str | None, is_safe: bool
) -> None:
    with pytest.raises(PreconditionFailed) as caught:
        check_preconditions(headers(match, none_match), 2, is_safe=is_safe)
    assert caught.value.headers["ETag"] == '"2"'


@pytest.mark.parametrize("match", [None, '"2"'])
@pytest.mark.parametrize("none_match", ['"2"', 'W/"2"', "*", '"1", "2"'])
def test_what_if_none_match_names_is_not_shown_again_and_not_changed(match: str | None, none_match: str) -> None:
    assert not check_preconditions(headers(match, none_match), 2, is_safe=True)
    with pytest.raises(PreconditionFailed):
        check_preconditions(headers(match, none_match), 2)


def test_what_does_not_exist_has_no_version_to_name() -> None:
    with pytest.raises(NotFound):
        check_preconditions(headers("*", None), None)
    assert check_preconditions(headers(None, "*"), None)
