import pytest

from libs.common.config import ConfigError
from notification_service.app import NotificationSettings


def load(**environ: str) -> NotificationSettings:
    return NotificationSettings.load("notification", environ)


def test_the_defaults_are_valid() -> None:
    settings = load()
    assert (settings.max_attempts, settings.smtp_url, settings.webhook_hosts) == (5, "", ())


def test_everything_can_be_configured() -> None:
    settings = load(
        SMTP_URL="smtps://user:p%40ss@mail.example.com:465",
        MAIL_FROM="Shop <shop@example.com>",
        SMS_GATEWAY_URL="https://sms.example.com/send",
        PUSH_GATEWAY_URL="http://push:8080",
        WEBHOOK_HOSTS="a.example.com, b.example.com:8443",
        WEBHOOK_NETWORKS="10.0.0.0/8, fd00::/8",
    )
    assert settings.webhook_hosts == ("a.example.com", "b.example.com:8443")
    assert "p%40ss" not in repr(settings)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SMTP_URL", "http://mail.example.com"),
        ("SMTP_URL", "mail.example.com:25"),
        ("SMTP_URL", "smtp://"),
        ("SMTP_URL", "smtp://mail.example.com:port"),
        ("SMTP_URL", "smtp://mail.example.com:99999"),
        ("SMTP_URL", "smtp://[mail"),
        ("MAIL_FROM", "Shop"),
        ("SMS_GATEWAY_URL", "sms.example.com"),
        ("PUSH_GATEWAY_URL", "ftp://push.example.com"),
        ("WEBHOOK_HOSTS", "https://a.example.com"),
        ("WEBHOOK_HOSTS", "a.example.com:0"),
        ("WEBHOOK_HOSTS", "a.example.com:99999"),
        ("WEBHOOK_HOSTS", "*"),
        ("WEBHOOK_NETWORKS", "10.0.0.1/8"),
        ("MAX_ATTEMPTS", "0"),
        ("RETRY_SECONDS", "-1"),
    ],
)
def test_a_bad_value_is_reported_by_its_name_and_never_by_its_secret(name: str, value: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(**{name: value})
    assert len(caught.value.faults) == 1
    assert caught.value.faults[0].startswith(name)


def test_a_password_is_not_in_the_message() -> None:
    with pytest.raises(ConfigError) as caught:
        load(SMTP_URL="http://user:hunter2@mail.example.com")
    assert "hunter2" not in str(caught.value)
