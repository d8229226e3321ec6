"""The use cases of the notification service, one function each, and the sender."""

import logging
import time
from collections import Counter
from collections.abc import Sequence
from datetime import timedelta
from typing import TypedDict

from libs.common import context, metrics
from libs.common.context import Context
from libs.common.data import counters, erasures
from libs.common.data.changes import Changes, VersionCheck
from libs.common.data.database import Database, Reader, Session
from libs.common.errors import Problem, ValidationFailed
from libs.common.events import outbox
from libs.common.events.event import Origin, RefusedEvent
from libs.common.events.inbox import Handlers
from libs.common.ids import new_id
from libs.common.times import now, write_time
from notification_service import repository
from notification_service.channels import (
    CLOSE_SECONDS,
    EXCHANGE_SECONDS,
    OPEN_SECONDS,
    Channel,
    ChannelDown,
    ChannelHealth,
    ConnectionLost,
    Message,
    Refused,
    Send,
    TransientFailure,
)
from notification_service.clients import Users
from notification_service.events import NotificationDead, NotificationSent, OrderConfirmed, UserDeleted, UserUpdated
from notification_service.models import (
    CHANNELS,
    DELETED,
    Address,
    DoesNotFit,
    NewNotification,
    Notification,
    NotificationRow,
    NotificationStats,
    Sending,
    counts,
    render,
    text_of,
)

BATCH = 100
SEND_SECONDS = 1.0
"""No further message of a batch is started this long after the connection was opened, so that a worker that is told to
stop can still record what it sent. One message is always tried.
"""
LOOK_UP_SECONDS = 5.0
RECORD_SECONDS = 5.0
LONGEST_BATCH_SECONDS = (
    LOOK_UP_SECONDS + OPEN_SECONDS + SEND_SECONDS + EXCHANGE_SECONDS + CLOSE_SECONDS + RECORD_SECONDS
)
POSTPONE_SECONDS = 2.0
"""Messages that could not be tried are due again after this, so that others are tried first."""
LATE_AFTER = timedelta(minutes=10)

log = logging.getLogger(__name__)


def send_notification(session: Session, new: NewNotification, work: Context) -> NotificationRow:
    """Queue a notification; raises ValidationFailed when its data does not fit its template."""
    try:
        subject, body = text_of(new)
    except DoesNotFit as exc:
        raise ValidationFailed(errors=[{"pointer": "/data", "detail": str(exc)}]) from exc
    row = Notification.new(
        channel=new["channel"], user_id=new["user_id"], recipient=new["recipient"], template=new["template"],
        subject=subject, body=body, data=new["data"],
        cause=Origin(event_id="", correlation_id=work.request_id, traceparent=work.traceparent),
    )  # fmt: skip
    _queue(session, [row])
    return row


def mark_notification(
    session: Session, notification_id: str, changes: Changes[Notification], match: VersionCheck
) -> Notification:
    """Mark whether a notification was read; raises NotFound or PreconditionFailed."""
    notification = repository.lock(session, notification_id)
    match(notification.version)
    notification.mark(**changes(notification))
    return notification


def retry_notification(session: Session, notification_id: str, match: VersionCheck) -> Notification:
    """Send a dead notification again; raises NotFound, PreconditionFailed or InvalidTransition."""
    notification = repository.lock(session, notification_id)
    match(notification.version)
    before = notification.counts()
    notification.retry()
    counters.add(session, counters.difference(before, notification.counts()))
    session.wake(sender_of(notification.channel))
    return notification


def delete_notification(session: Session, notification_id: str, match: VersionCheck) -> None:
    """Erase a notification and the stored answers that repeat it, and do not send it if it is still queued; raises
    NotFound or PreconditionFailed.
    """
    notification = repository.lock(session, notification_id)
    match(notification.version)
    before = notification.counts()
    notification.delete()
    repository.redact_answers(session, [notification_id])
    counters.add(session, counters.difference(before, notification.counts()))


def notification_stats(session: Reader) -> NotificationStats:
    """How many notifications there are, by status and by channel."""
    return {
        "total": counters.read(session, "total").get("", 0),
        "by_status": counters.read(session, "status:"),
        "by_channel": counters.read(session, "channel:"),
    }


def check_sending(db: Database) -> dict[str, object]:
    """For `/health`: degraded while a channel is down, or a notification has waited for longer than LATE_AFTER."""
    with db.read() as session:
        count, oldest = repository.waiting(session)
        states = repository.states(session)
    late = oldest is not None and now() - oldest > LATE_AFTER
    return {
        "status": "degraded" if late or "down" in states.values() else "healthy",
        "waiting": count,
        "channels": {channel: states.get(channel, "unknown") for channel in CHANNELS},
    }


def _queue(session: Session, rows: Sequence[NotificationRow]) -> None:
    added = repository.add(session, rows)
    totals: Counter[str] = Counter()
    for row in rows:
        if row["id"] in added:
            totals.update(counts(row["channel"], row["status"]))
            session.wake(sender_of(row["channel"]))
    counters.add(session, totals)


def find_senders(session: Reader) -> list[str]:
    """For the sweep: the loops of the channels that have something to send."""
    return [sender_of(channel) for channel in repository.find_due_channels(session)]


def sender_of(channel: str) -> str:
    """The name of the background loop that sends in the channel."""
    return f"sender of {channel}"


# Sending -----------------------------------------------------------------------------------------------------------


class Sender:
    """Sends what is due in one channel; `step` is the work of a background loop. Each channel has its own sender, so
    that a channel that is down does not block the others.
    """

    def __init__(
        self, db: Database, name: str, channel: Channel, users: Users, *, max_attempts: int, retry_seconds: float
    ):
        self._db, self._name, self._channel, self._users = db, name, channel, users
        self._max_attempts, self._retry_seconds = max_attempts, retry_seconds
        self._health = ChannelHealth()
        self._stalled = 0
        self._token = new_id()
        self._claimed: list[Sending] = []
        self._addresses: dict[str, Address] = {}
        self._learned: dict[str, Address] = {}

    def step(self) -> bool:
        """Claim, send and record one batch; whether there may be more. Raises DependencyUnavailable when the channel or
        the user service is down: messages that were not tried are released, without counting an attempt.
        """
        self._record()
        # A token for each batch, so that the lease of an earlier batch is never taken for the lease of this one.
        self._token = new_id()
        with self._db.write(durable=False) as session:
            self._claimed = repository.claim(session, self._name, self._channel.needs_data, self._token, BATCH)
            self._addresses = repository.find_addresses(session, self._users_to_find()) if self._claimed else {}
        if not self._claimed:
            return False
        size = sum(sending.size for sending in self._claimed)
        full = len(self._claimed) == BATCH or size >= repository.MAX_CLAIM_CHARACTERS
        try:
            self._send()
        except BaseException:
            self._record()
            raise
        return self._record() > 0 or full

    def finish(self) -> None:
        """Record the outcomes that the last step could not record, before the worker ends."""
        self._record()

    def _send(self) -> None:
        """No transaction is open here: this may take as long as the receivers do."""
        failure: Problem | None = None
        try:
            self._look_up()
        except Problem as problem:
            # Those that have a recipient, or a user in the replica, need no look-up.
            failure = problem
        batch: list[tuple[Sending, str]] = []
        for sending in self._claimed:
            address = self._addresses.get(sending.user_id or "")
            if to := sending.recipient or self._recipient(sending.user_id, address):
                batch.append((sending, to))
            elif failure and not address:
                sending.postpone(POSTPONE_SECONDS)
            else:
                sending.give_up("There is no such user.")
        self._deliver(batch)
        if failure:
            raise failure

    def _users_to_find(self) -> set[str]:
        """The users of the notifications without a recipient."""
        return {sending.user_id for sending in self._claimed if not sending.recipient and sending.user_id}

    def _look_up(self) -> None:
        """Ask the user service for the addresses that the replica does not have."""
        if missing := self._users_to_find() - self._addresses.keys():
            context.begin(LOOK_UP_SECONDS)
            self._learned = self._users.addresses(missing)
            self._addresses |= self._learned

    def _recipient(self, user_id: str | None, address: Address | None) -> str | None:
        """The address of a user who has one, or the id where the channel takes ids."""
        if address is None or address.email is None:
            return None
        return address.email if self._name == "email" else user_id

    def _deliver(self, batch: Sequence[tuple[Sending, str]]) -> None:
        """Raises ChannelDown when the channel cannot be reached, or when most recipients fail transiently."""
        if not batch:
            return
        failed: list[tuple[Sending, str]] = []
        try:
            with self._channel.open() as send:
                self._send_each(send, batch, failed)
        except ChannelDown:
            self._health.unreachable()
            raise
        finally:
            for sending, why in failed:
                self._fail_for_now(sending, why)
        if failed and self._health.is_down:
            raise ChannelDown(self._name, f"most recipients fail: {failed[-1][1]}")

    def _send_each(self, send: Send, batch: Sequence[tuple[Sending, str]], failed: list[tuple[Sending, str]]) -> None:
        """Try one message after the other; `failed` collects the transient failures, which are judged together."""
        end = time.monotonic() + SEND_SECONDS
        for number, (sending, to) in enumerate(batch):
            if number and time.monotonic() > end:
                return
            try:
                self._try(send, sending, to)
            except ConnectionLost:
                return
            except TransientFailure as exc:
                self._health.count(to, transient=True)
                failed.append((sending, str(exc)))
                if self._health.is_down:
                    return

    def _try(self, send: Send, sending: Sending, to: str) -> None:
        """Raises ChannelDown, ConnectionLost or TransientFailure, which are not about the message alone."""
        try:
            send(_message(sending, to))
        except (ChannelDown, ConnectionLost, TransientFailure):
            raise
        except Refused as exc:
            self._health.count(to, transient=False)
            self._fail(sending, str(exc))
        except Exception as exc:
            # A message that breaks the sender must not block those after it.
            log.error("notification.failed", extra={"notification_id": sending.id}, exc_info=exc)
            self._fail(sending, "It cannot be sent.")
        else:
            self._health.count(to, transient=False)
            sending.succeed()

    def _fail_for_now(self, sending: Sending, why: str) -> None:
        """The attempt counts, unless the channel as a whole is down."""
        if self._health.is_down:
            sending.postpone(POSTPONE_SECONDS)
        else:
            self._fail(sending, why)

    def _fail(self, sending: Sending, why: str) -> None:
        sending.fail(why, self._max_attempts, self._retry_seconds)
        log.warning(
            "notification.refused",
            extra={"notification_id": sending.id, "channel": self._name, "attempts": sending.attempts, "why": why},
        )

    def _record(self) -> int:
        """Store the outcomes of the batch and release the messages without one; returns how many those are. When it
        fails, it is tried again before the next batch, as long as the lease lasts: otherwise messages would be sent
        twice.
        """
        if not self._claimed:
            return 0
        # Sending may have used up the deadline of the step, and the outcomes must still be recorded.
        context.begin(RECORD_SECONDS)
        untried = [sending for sending in self._claimed if not sending.previous_status]
        with self._db.write() as session:
            leased = repository.lock_leased(session, self._token, self._claimed)
            repository.release(session, self._token, untried)
            _write_outcomes(session, [sending for sending in leased if sending.previous_status])
            repository.learn_addresses(session, self._learned)
            if self._health.state != "unknown":
                repository.save_state(session, self._name, self._health.state)
        self._count_progress(len(untried))
        self._claimed, self._learned = [], {}
        return len(untried)

    def _count_progress(self, untried: int) -> None:
        """Log a batch in which no message was tried, and how many such batches there were in a row."""
        if untried < len(self._claimed):
            self._stalled = 0
            return
        self._stalled += 1
        metrics.count_stalled(sender_of(self._name))
        log.warning("sending.stalled", extra={"channel": self._name, "waiting": untried, "batches": self._stalled})


def _message(sending: Sending, to: str) -> Message:
    return Message(
        id=sending.id, channel=sending.channel, to=to, subject=sending.subject, body=sending.body,
        template=sending.template, data=sending.data,
        request_id=sending.correlation_id, traceparent=sending.traceparent,
    )  # fmt: skip


def _write_outcomes(session: Session, tried: Sequence[Sending]) -> None:
    """Write the outcomes of notifications, publish those that are sent or dead, and update the totals."""
    repository.write_outcomes(session, tried)
    outbox.add(session, *(_event(sending) for sending in tried if sending.status in ("sent", "dead")))
    changes = Counter(f"status:{sending.status}" for sending in tried)
    changes.subtract(f"status:{sending.previous_status}" for sending in tried)
    counters.add(session, changes)


class _Facts(TypedDict):
    """The members that both events have."""

    notification_id: str
    order_id: str | None
    channel: str
    template: str | None
    created_at: str
    attempts: int
    version: int
    origin: Origin


def _event(sending: Sending) -> NotificationSent | NotificationDead:
    facts: _Facts = {
        "notification_id": sending.id, "order_id": sending.order_id, "channel": sending.channel,
        "template": sending.template, "created_at": write_time(sending.created_at),
        "attempts": sending.attempts, "version": sending.version,
        "origin": Origin(event_id="", correlation_id=sending.correlation_id, traceparent=sending.traceparent),
    }  # fmt: skip
    if sending.sent_at:
        return NotificationSent(**facts, sent_at=write_time(sending.sent_at))
    return NotificationDead(**facts, dead_at=write_time(now()))


# Events ------------------------------------------------------------------------------------------------------------


def _confirm_orders(session: Session, events: Sequence[OrderConfirmed]) -> None:
    _queue(session, [_confirmation(event) for event in events])


def _confirmation(event: OrderConfirmed) -> NotificationRow:
    data = event.data()
    try:
        subject, body = render("order_confirmed", data)
    except DoesNotFit as exc:
        raise RefusedEvent(str(exc)) from exc
    return Notification.new(
        channel="email", template="order_confirmed", subject=subject, body=body, data=data,
        user_id=event.user_id, order_id=event.order_id, cause=event.origin,
    )  # fmt: skip


def _outdate_addresses(session: Session, events: Sequence[UserUpdated]) -> None:
    """Have the addresses of these users looked up before they are used again."""
    if any(type(event.version) is not int or not 0 < event.version < DELETED for event in events):
        raise RefusedEvent("not a version")
    versions = {event.user_id: event.version for event in sorted(events, key=lambda event: event.version)}
    repository.outdate_addresses(session, versions)


def _erase_users(session: Session, events: Sequence[UserDeleted]) -> None:
    """Erase their addresses, and let a background loop erase the content of their notifications."""
    users = {event.user_id for event in events}
    repository.outdate_addresses(session, dict.fromkeys(users, DELETED))
    erasures.add(session, users)


def erase_notifications(session: Session, ids: Sequence[str]) -> None:
    """Erase the content of notifications to a deleted user. Unsent ones become dead and are published as such."""
    unsent = repository.lock_unsent(session, ids)
    for sending in unsent:
        sending.give_up("The user was deleted.")
    _write_outcomes(session, unsent)
    repository.erase(session, ids)


HANDLERS: Handlers = {
    OrderConfirmed: _confirm_orders,
    UserUpdated: _outdate_addresses,
    UserDeleted: _erase_users,
}
