from decimal import Decimal

import pytest

from libs.common.money import CURRENCIES, fits, format_amount


@pytest.mark.parametrize(
    ("amount", "currency", "text"),
    [
        ("5", "EUR", "5.00"),
        ("19.9", "EUR", "19.90"),
        ("0", "EUR", "0.00"),
        ("1E+2", "EUR", "100.00"),
        ("1500", "JPY", "1500"),
        ("1500.0000", "JPY", "1500"),
        ("1.234", "KWD", "1.234"),
        ("1.2345", "CLF", "1.2345"),
        ("99999999999.9999", "UYW", "99999999999.9999"),
    ],
)
def test_an_amount_is_written_with_the_digits_of_its_currency(amount: str, currency: str, text: str) -> None:
    assert format_amount(Decimal(amount), currency) == text


@pytest.mark.parametrize(
    ("amount", "currency", "does"),
    [
        ("1.00", "EUR", True),
        ("1.10", "EUR", True),
        ("1.0000", "EUR", True),
        ("1.005", "EUR", False),
        ("1.001", "JPY", False),
        ("1.0", "JPY", True),
        ("1E+2", "JPY", True),
        ("1.005", "KWD", True),
        ("1.0005", "KWD", False),
        ("1.0005", "CLF", True),
        ("0.0000", "JPY", True),
    ],
)
def test_an_amount_fits_a_currency_that_has_its_digits(amount: str, currency: str, does: bool) -> None:
    assert fits(Decimal(amount), currency) is does


def test_currencies_have_none_to_four_digits() -> None:
    assert {CURRENCIES[code] for code in ("JPY", "EUR", "USD", "KWD", "CLF")} == {0, 2, 3, 4}
    assert all(len(code) == 3 and code.isupper() for code in CURRENCIES)
