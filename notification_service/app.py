"""The composition root of the notification service."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from email.utils import parseaddr

from flask import Flask

from libs.common.app import LINGER_SECONDS, Service
from libs.common.config import Settings, is_url, setting
from notification_service import use_cases
from notification_service.channels import Channel, EmailChannel, GatewayChannel, LogChannel, WebhookChannel
from notification_service.clients import UserClient, Users
from notification_service.routes import routes


@dataclass(frozen=True, kw_only=True)
class NotificationSettings(Settings):
    """A channel that is not configured writes a line to the log instead of sending."""

    smtp_url: str = setting(
        "", "The mail server, smtp://user:password@host:port or smtps://...; empty means that mail is only logged.",
        secret=True,
    )  # fmt: skip
    mail_from: str = setting("Quintet <no-reply@localhost>", "The sender of mail.")
    sms_gateway_url: str = setting(
        "", "Takes text messages by POST of JSON; empty means that they are only logged.", secret=True
    )
    push_gateway_url: str = setting(
        "", "Takes push messages by POST of JSON; empty means that they are only logged.", secret=True
    )
    webhook_hosts: tuple[str, ...] = setting(
        (), "Hosts, comma separated, that webhooks may go to; empty means that webhooks are only logged."
    )
    max_attempts: int = setting(5, "Attempts at a notification before it is dead.", minimum=1)
    retry_seconds: float = setting(
        30.0, "The pause before the second attempt at a notification; it doubles with each further one.", minimum=0.0
    )

    def contradictions(self) -> Iterable[str]:
        yield from super().contradictions()
        if self.smtp_url and not is_url(self.smtp_url, "smtp", "smtps"):
            yield "SMTP_URL: must be smtp://host or smtps://host, with user, password and port where they are needed"
        if "@" not in parseaddr(self.mail_from)[1]:
            yield "MAIL_FROM: must be an address, such as Shop <shop@example.com>"
        for name in ("sms_gateway_url", "push_gateway_url"):
            url = getattr(self, name)
            if url and not is_url(url, "http", "https"):
                yield f"{name.upper()}: must be an http or https URL"


def create_app(
    settings: NotificationSettings | None = None,
    *,
    users: Users | None = None,
    channels: Mapping[str, Channel] | None = None,
) -> Flask:
    settings = settings or NotificationSettings.load("notification")
    service = Service(settings, "notification_service")
    service.handle(use_cases.HANDLERS)
    users = users or UserClient(service.client("user"))
    for name, channel in {**_configured(settings), **(channels or {})}.items():
        sender = use_cases.Sender(
            service.db, name, channel, users,
            max_attempts=settings.max_attempts, retry_seconds=settings.retry_seconds,
        )  # fmt: skip
        service.every(
            use_cases.sender_of(name), sender.step,
            interval_seconds=1.0, linger_seconds=LINGER_SECONDS, finish=sender.finish,
        )  # fmt: skip
    return service.serve(
        routes,
        description="What users are told, by mail and other channels.",
        checks={"sending": lambda: use_cases.check_sending(service.db)},
    )


def _configured(settings: NotificationSettings) -> dict[str, Channel]:
    log = LogChannel()
    sms, push, hosts = settings.sms_gateway_url, settings.push_gateway_url, settings.webhook_hosts
    return {
        "email": EmailChannel(settings.smtp_url, settings.mail_from) if settings.smtp_url else log,
        "sms": GatewayChannel("sms", sms) if sms else log,
        "push": GatewayChannel("push", push) if push else log,
        "webhook": WebhookChannel(hosts) if hosts else log,
        "log": log,
    }
