"""Amounts of money: `Decimal` in the code, a string with the currency's digits in JSON, never a binary float."""

from decimal import Decimal

_DIGITS = {
    0: "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF",
    2: "AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BGN BMD BND BOB BRL BSD BTN BWP BYN BZD CAD CDF CHF CNY COP "
    "CRC CUP CVE CZK DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD GTQ GYD HKD HNL HTG HUF IDR ILS INR IRR "
    "JMD KES KGS KHR KPW KYD KZT LAK LBP LKR LRD LSL MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MYR MZN NAD NGN "
    "NIO NOK NPR NZD PAB PEN PGK PHP PKR PLN QAR RON RSD RUB SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP "
    "SZL THB TJS TMT TOP TRY TTD TWD TZS UAH USD UYU UZS VED VES WST XCD XCG YER ZAR ZMW ZWG",
    3: "BHD IQD JOD KWD LYD OMR TND",
    4: "CLF UYW",
}
CURRENCIES: dict[str, int] = {code: digits for digits, codes in _DIGITS.items() for code in codes.split()}
"""ISO 4217 code → number of digits after the point."""

SCALE = 4
"""Digits after the point of every stored amount; no currency has more."""

_QUANTA = {digits: Decimal(1).scaleb(-digits) for digits in range(SCALE + 1)}


def to_units(amount: Decimal) -> int:
    """The amount in ten-thousandths, as it is stored and added up."""
    return int(amount.scaleb(SCALE))


def from_units(units: int) -> Decimal:
    """The inverse of `to_units`."""
    return Decimal(units) * _QUANTA[SCALE]


def format_amount(amount: Decimal, currency: str) -> str:
    """`format_amount(Decimal("5"), "EUR")` is "5.00"."""
    return str(amount.quantize(_QUANTA[CURRENCIES[currency]]))


def fits(amount: Decimal, currency: str) -> bool:
    """Whether the amount has no more digits after the point than its currency."""
    exponent = amount.normalize().as_tuple().exponent
    return isinstance(exponent, int) and -exponent <= CURRENCIES[currency]
