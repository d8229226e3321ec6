from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from libs.common.config import DEVELOPMENT_KEY, ConfigError, Settings, env_example, setting

KEY = "k" * 32


@dataclass(frozen=True, kw_only=True)
class ToySettings(Settings):
    retries: int = setting(3, "How often.", minimum=0)
    ratio: float = setting(0.5, "How much.", minimum=0)
    verbose: bool = setting(False, "Say more.")
    token: str = setting("", "A token.", secret=True)


def load(**environ: str) -> ToySettings:
    return ToySettings.load("order", environ)


def faults(**environ: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(**environ)
    return caught.value.faults


def test_an_empty_environment_gives_the_defaults() -> None:
    assert load() == ToySettings(service="order")


def test_every_fault_is_told_at_once() -> None:
    told = faults(
        BASE_PORT="eight", RETRIES="-1", RATIO="nan", VERBOSE="maybe", LOG_LEVEL="LOUD", SECRET_KEY="short", PORT="1.5"
    )
    assert told == [
        "BASE_PORT: 'eight' is not a whole number",
        "PORT: '1.5' is not a whole number",
        "LOG_LEVEL: 'LOUD' is not one of DEBUG, INFO, WARNING, ERROR",
        "RETRIES: '-1' is less than 0",
        "RATIO: 'nan' is not a number",
        "VERBOSE: 'maybe' is not true or false",
        "SECRET_KEY: needs at least 32 characters",
    ]


def test_the_message_of_the_error_names_every_fault() -> None:
    with pytest.raises(ConfigError, match=r"invalid configuration:\n  - BASE_PORT: .*\n  - RETRIES: .*"):
        load(BASE_PORT="x", RETRIES="x")


@pytest.mark.parametrize("text", ["inf", "1e999", "-inf"])
def test_a_duration_is_finite(text: str) -> None:
    assert faults(READ_TIMEOUT_SECONDS=text)


@pytest.mark.parametrize("text", ["true", "1", "YES", "True"])
def test_true_is_written_in_many_ways(text: str) -> None:
    assert load(VERBOSE=text).verbose is True


@pytest.mark.parametrize("text", ["false", "0", "no"])
def test_false_is_written_in_many_ways(text: str) -> None:
    assert load(VERBOSE=text).verbose is False


def test_values_have_their_declared_types() -> None:
    found = load(RETRIES="5", RATIO="0.25", CORS_ORIGINS=" https://a.example , https://b.example,")
    assert (found.retries, found.ratio) == (5, 0.25)
    assert found.cors_origins == ("https://a.example", "https://b.example")


@pytest.mark.parametrize(
    "origin",
    ["*", "https://shop.example", "http://localhost:3000", "https://a-b.shop.example:8443", "http://[::1]:3000"],
)
def test_an_origin_is_a_scheme_a_host_and_a_port(origin: str) -> None:
    assert load(CORS_ORIGINS=f"https://a.example,{origin}").cors_origins == ("https://a.example", origin)


@pytest.mark.parametrize(
    "origin",
    [
        "https://*.shop.example", "*.shop.example", "shop.example", "https://shop.example/", "https://shop.example/x",
        "https://ada@shop.example", "ftp://shop.example", "null", "https://", "https://shop.example:", "https://shop.example:0",
        r"https://.+\.shop\.example", "https://(a|b).example", "https://shop.example?x", "https://bücher.example", "**",
    ],
)  # fmt: skip
def test_what_is_no_origin_is_refused(origin: str) -> None:
    (fault,) = faults(CORS_ORIGINS=f"https://a.example,{origin}")
    assert fault.startswith(f"CORS_ORIGINS: {origin!r} is not an origin")


def test_an_empty_variable_counts_as_unset() -> None:
    assert load(BASE_PORT="", SECRET_KEY="", DATABASE_URL_ORDER="", DATABASE_URL="sqlite:///x").base_port == 8000
    assert load(DATABASE_URL_ORDER="", DATABASE_URL="sqlite:///x").database == "sqlite:///x"


def test_the_variable_of_the_service_wins_over_the_shared_one() -> None:
    environ = {"DATABASE_URL": "sqlite:///shared", "DATABASE_URL_ORDER": "sqlite:///own", "DATABASE_URL_USER": "x"}
    assert load(**environ).database_url == "sqlite:///own"


def test_a_setting_that_is_not_per_service_has_no_variable_per_service() -> None:
    assert load(BASE_PORT_ORDER="9000").base_port == 8000


def test_a_secret_may_come_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text(f"{KEY}\n")
    assert load(SECRET_KEY_FILE=str(path)).secret_key == KEY


def test_a_variable_wins_over_its_file(tmp_path: Path) -> None:
    assert load(SECRET_KEY=KEY, SECRET_KEY_FILE=str(tmp_path / "missing")).secret_key == KEY


def test_the_file_of_the_service_wins_over_the_shared_variable(tmp_path: Path) -> None:
    path = tmp_path / "url"
    path.write_text("sqlite:///own")
    assert load(DATABASE_URL="sqlite:///shared", DATABASE_URL_ORDER_FILE=str(path)).database_url == "sqlite:///own"


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.write_bytes(b"\xff\xfe")])
def test_a_file_that_cannot_be_read_is_a_fault_that_does_not_show_it(tmp_path: Path, make: Any) -> None:
    path = tmp_path / "key"
    make(path)
    (fault,) = faults(SECRET_KEY_FILE=str(path))
    assert fault.startswith("SECRET_KEY_FILE: cannot be read")
    assert str(path) not in fault


def test_what_is_not_secret_is_not_read_from_a_file(tmp_path: Path) -> None:
    assert load(BASE_PORT_FILE=str(tmp_path / "missing")).base_port == 8000


def test_secrets_are_masked_wherever_settings_are_shown() -> None:
    found = load(SECRET_KEY=KEY, TOKEN="hidden", DATABASE_URL="postgresql://u:hunter2@h/d")
    for shown in (repr(found), str(found), f"{found}"):
        assert KEY not in shown
        assert "hidden" not in shown
        assert "hunter2" not in shown
        assert "base_port=8000" in shown


def test_the_fault_of_a_secret_does_not_show_its_value() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Pin(Settings):
        pin: int = setting(0, "A number to keep.", secret=True)

    with pytest.raises(ConfigError) as caught:
        Pin.load("order", {"PIN": "hunter2"})
    assert caught.value.faults == ["PIN: the value is not a whole number"]


def test_production_wants_a_key_and_named_origins() -> None:
    told = faults(ENVIRONMENT="production")
    assert told == ["SECRET_KEY: must be set in production", "CORS_ORIGINS: must name the origins in production"]


def test_production_takes_a_key_and_named_origins() -> None:
    found = load(ENVIRONMENT="production", SECRET_KEY=KEY, CORS_ORIGINS="https://shop.example")
    assert found.environment == "production"


def test_a_star_among_named_origins_is_refused_in_production() -> None:
    assert faults(ENVIRONMENT="production", SECRET_KEY=KEY, CORS_ORIGINS="https://shop.example,*")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("postgres://u:p@h/d", "postgresql+psycopg://u:p@h/d"),
        ("postgresql://h/d?sslmode=require", "postgresql+psycopg://h/d?sslmode=require"),
        ("postgresql+psycopg://h/d", "postgresql+psycopg://h/d"),
        ("sqlite:////var/x.db", "sqlite:////var/x.db"),
    ],
)
def test_a_database_url_gets_the_driver_that_is_installed(given: str, expected: str) -> None:
    assert load(DATABASE_URL=given).database == expected


def test_without_a_url_the_database_is_a_file_of_the_service_in_the_data_directory(tmp_path: Path) -> None:
    assert load(DATA_DIR=str(tmp_path)).database == f"sqlite:///{tmp_path}/order.db"
    assert load(DATA_DIR="var").database == f"sqlite:///{Path.cwd()}/var/order.db"
    assert load(DATA_DIR=str(tmp_path)).run_dir == tmp_path / "run" / "order"


@pytest.mark.parametrize("name", ["a b", "50%", "a%20b", "who?", "#1", "größe", "user:word@host", "a&b=c"])
def test_a_data_directory_may_have_any_of_these_names(tmp_path: Path, name: str) -> None:
    found = load(DATA_DIR=str(tmp_path / name))
    assert sa.make_url(found.database).database == f"{tmp_path}/{name}/order.db"
    assert sa.make_url(found.database).query == {}
    assert found.run_dir == tmp_path / name / "run" / "order"


def test_a_data_directory_without_metrics_is_a_fault() -> None:
    (fault,) = faults(DATA_DIR="var[1]")
    assert fault.startswith("DATA_DIR: 'var[1]' has a [")


@pytest.mark.parametrize(
    ("host", "listens", "url"),
    [
        ("", "127.0.0.1:18103", "http://127.0.0.1:18102"),
        ("0.0.0.0", "0.0.0.0:18103", "http://127.0.0.1:18102"),  # noqa: S104 - it is compared
        ("192.0.2.7", "192.0.2.7:18103", "http://192.0.2.7:18102"),
        ("localhost", "localhost:18103", "http://127.0.0.1:18102"),
        ("shop-1.example", "shop-1.example:18103", "http://shop-1.example:18102"),
        ("::1", "[::1]:18103", "http://[::1]:18102"),
        ("[::1]", "[::1]:18103", "http://[::1]:18102"),
        ("::", "[::]:18103", "http://[::1]:18102"),
        ("[::]", "[::]:18103", "http://[::1]:18102"),
        ("2001:db8::7", "[2001:db8::7]:18103", "http://[2001:db8::7]:18102"),
    ],
)
def test_a_service_listens_on_the_host_and_the_others_are_reached_there(host: str, listens: str, url: str) -> None:
    found = load(HOST=host, BASE_PORT="18100")
    assert (found.listen_address, found.url_of("product")) == (listens, url)


@pytest.mark.parametrize(
    "host", ["::g", "[::1", "::1]", "fe80::1%eth0", "localhost:80", "[::1]:80", "http://localhost", "a b", "-x", "1/8"]
)
def test_a_host_that_is_no_address_and_no_name_is_a_fault(host: str) -> None:
    assert faults(HOST=host) == [f"HOST: {host!r} is not an IP address or a host name"]


def test_a_service_listens_on_its_own_port() -> None:
    assert load(BASE_PORT="18100").listen_port == 18103
    assert load(BASE_PORT="18100", PORT_ORDER="9000").listen_port == 9000


def test_a_service_is_found_at_its_port_or_where_it_is_said_to_be() -> None:
    assert load(BASE_PORT="18100").url_of("product") == "http://127.0.0.1:18102"
    assert load(PRODUCT_SERVICE_URL="https://product.example/").url_of("product") == "https://product.example"


def test_the_example_lists_every_variable_once_with_its_meaning_and_default() -> None:
    text = env_example([Settings, ToySettings])
    for line in (
        "#BASE_PORT=8000",
        "#CORS_ORIGINS=*",
        "#RETRIES=3",
        "# How often.",
        "# One of: development, production.",
        "# May come from a file named by TOKEN_FILE.",
        "# For one service only: PORT_USER, PORT_PRODUCT, PORT_ORDER, PORT_NOTIFICATION, PORT_ANALYTICS.",
    ):
        assert text.splitlines().count(line) == 1
    assert "#SERVICE=" not in text


def test_the_defaults_of_the_example_are_the_defaults() -> None:
    """Uncommenting a line of the example changes nothing."""
    lines = [line[1:] for line in env_example([ToySettings]).splitlines() if line.startswith("#") and line[1] != " "]
    environ = dict(line.split("=", 1) for line in lines)
    assert len(environ) > 20
    assert load(**environ) == load()
    assert load().secret_key == DEVELOPMENT_KEY


def test_a_rate_limit_is_so_many_requests_in_some_time() -> None:
    assert load(RATE_LIMIT="600/minute").rate_limit == "600/minute"
    for wrong in ("600", "0/minute", "-1/second", "600/week", "600/minute;", "x/day", "600 / minute"):
        (fault,) = faults(RATE_LIMIT=wrong)
        assert fault.startswith("RATE_LIMIT: ")


def test_who_is_exempt_from_the_rate_limit_is_a_network() -> None:
    assert load(RATE_LIMIT_EXEMPT="10.0.0.0/8, ::1/128").rate_limit_exempt == ("10.0.0.0/8", "::1/128")
    assert faults(RATE_LIMIT_EXEMPT="10.0.0.0/8,home,10.0.0.1/8") == [
        "RATE_LIMIT_EXEMPT: 'home' is not a network",
        "RATE_LIMIT_EXEMPT: '10.0.0.1/8' is not a network",
    ]


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        *(("PRODUCT_SERVICE_URL", url) for url in (
            "product:8000", "product", "//product:8000", "http://", "http://:8000", "ftp://product", "http://pro duct",
            "http://*", "http://product:port", "http://product:0", "http://product:99999", "http://[product",
        )),
        *(("REDIS_URL", url) for url in ("localhost:6379", "redis://", "unix:///socket", "http://h", "redis+unix://")),
        *(("BROKER_URL", url) for url in ("rabbit:5672", "amqp://", "amqp:///vhost", "http://rabbit", "amqp://h:x")),
        *(("DATABASE_URL", url) for url in (
            "nonsense", "mysql://h/d", "postgresql+psycopg2://h/d", "postgresql://h:port/d", "sqlite://file.db",
        )),
    ],
)  # fmt: skip
def test_a_wrong_url_is_a_fault(name: str, wrong: str) -> None:
    (fault,) = faults(**{name: wrong})
    assert fault.startswith(f"{name}: must be ")


@pytest.mark.parametrize(
    ("name", "right"),
    [
        *(("PRODUCT_SERVICE_URL", url) for url in (
            "http://product:8000", "https://shop.example/product/", "http://[::1]:8000", "http://product_1",
        )),
        *(("REDIS_URL", url) for url in (
            "redis://:word@redis/0", "rediss://h:6380", "redis+unix:///run/redis.sock", "redis+unix://:word@/run/r.sock",
        )),
        *(("BROKER_URL", url) for url in ("amqp://u:p@rabbitmq/quintet", "amqps://h", "amqp://guest:guest@h:5672//")),
        *(("DATABASE_URL", url) for url in (
            "postgresql://u:p@postgres/d", "postgresql+psycopg://u:@/d?host=/run/pg", "sqlite:///file", "sqlite://",
        )),
    ],
)  # fmt: skip
def test_a_right_url_is_taken(name: str, right: str) -> None:
    assert getattr(load(**{name: right}), name.lower()) == right


@pytest.mark.parametrize("name", ["USER_SERVICE_URL", "REDIS_URL", "BROKER_URL", "DATABASE_URL"])
def test_the_fault_of_a_url_does_not_show_its_password(name: str) -> None:
    for wrong in ("hunter2@host", "gopher://user:hunter2@host/0", "http://user:hunter2@host:port"):
        assert "hunter2" not in "".join(faults(**{name: wrong}))


def test_all_wrong_urls_and_ports_are_told_at_once() -> None:
    told = faults(
        PORT="99999", BASE_PORT="70000", DATABASE_URL="nonsense", BROKER_URL="rabbit:5672", REDIS_URL="localhost:6379",
        USER_SERVICE_URL="user", PRODUCT_SERVICE_URL="product:8000",
    )  # fmt: skip
    assert [fault.partition(":")[0] for fault in told] == [
        "BASE_PORT", "PORT", "DATABASE_URL", "BROKER_URL", "REDIS_URL", "USER_SERVICE_URL", "PRODUCT_SERVICE_URL",
    ]  # fmt: skip


def test_a_port_is_a_port_and_so_are_all_five_above_the_base() -> None:
    assert (load(BASE_PORT="65530").base_port, load(PORT="65535").port) == (65530, 65535)
    assert faults(BASE_PORT="65531", PORT="65536") == [
        "BASE_PORT: '65531' is more than 65530",
        "PORT: '65536' is more than 65535",
    ]
