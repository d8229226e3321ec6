"""The composition root of the notification service."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from email.utils import parseaddr
from ipaddress import ip_network

from flask import Flask

from libs.common.app import LINGER_SECONDS, PAUSE_SECONDS, Service
from libs.common.calls.permission import Permission, is_endpoint
from libs.common.config import Settings, is_url, setting
from libs.common.data import erasures
from libs.common.data.erasures import Erasure
from notification_service import use_cases
from notification_service.channels import (
    Channel,
    EmailChannel,
    GatewayChannel,
    LogChannel,
    WebhookChannel,
)
from notification_service.clients import UserClient, Users
from notification_service.repository import walk_user
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
        (), "Where webhooks may go: `host` (ports 80 and 443) or `host:port`, comma separated; empty means that "
            "webhooks are only logged.",
    )  # fmt: skip
    webhook_networks: tuple[str, ...] = setting(
        (), "Networks, such as 10.0.0.0/8, comma separated, that webhooks may go to although they are not public."
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
        for host in self.webhook_hosts:
            if not is_endpoint(host):
                yield f"WEBHOOK_HOSTS: {host!r} is not such as hooks.example.com or hooks.example.com:8443"
        for network in self.webhook_networks:
            try:
                ip_network(network)
            except ValueError:
                yield f"WEBHOOK_NETWORKS: {network!r} is not a network"
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
            interval_seconds=None, linger_seconds=LINGER_SECONDS, full=1, finish=sender.finish,
        )  # fmt: skip
    service.sweep.add(use_cases.find_senders)
    erasure = Erasure(service.db, walk_user, use_cases.erase_notifications)
    service.every(erasures.LOOP, erasure.step, interval_seconds=60.0, linger_seconds=PAUSE_SECONDS)
    return service.serve(
        routes,
        description="What users are told, by mail and other channels.",
        checks={"sending": lambda: use_cases.check_sending(service.db)},
    )


def _configured(settings: NotificationSettings) -> dict[str, Channel]:
    log = LogChannel()
    sms, push = settings.sms_gateway_url, settings.push_gateway_url
    webhooks = Permission(settings.webhook_hosts, settings.webhook_networks)
    return {
        "email": EmailChannel(settings.smtp_url, settings.mail_from) if settings.smtp_url else log,
        "sms": GatewayChannel("sms", sms) if sms else log,
        "push": GatewayChannel("push", push) if push else log,
        "webhook": WebhookChannel(webhooks) if settings.webhook_hosts else log,
        "log": log,
    }
