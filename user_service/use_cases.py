"""The use cases of the user service, one function each."""

from libs.common.data import counters, idempotency
from libs.common.data.changes import Changes, VersionCheck
from libs.common.data.database import Database, Reader, Session
from libs.common.events import outbox
from libs.common.times import write_time
from user_service import repository
from user_service.events import UserCreated, UserDeleted, UserUpdated
from user_service.models import EmailTaken, NewUser, User, UserStats


def hash_ahead(db: Database, body: NewUser) -> None:
    """Hash the password of a new user before the transaction begins, unless the e-mail is taken."""
    if password := body.get("password"):
        with db.read() as session:
            is_taken = repository.is_taken(session, body["email"])
        if not is_taken:
            password.make()


def create_user(session: Session, new: NewUser) -> User:
    """Register a user; raises EmailTaken."""
    password = new.get("password")
    if password and not password.is_hashed and repository.is_taken(session, new["email"]):
        raise EmailTaken()
    user = User.new(**new)
    repository.save(session, user)
    outbox.add(session, UserCreated(user_id=user.id, role=user.role, status=user.status, version=user.version))
    counters.add(session, user.counts())
    return user


def change_user(session: Session, user_id: str, changes: Changes[User], match: VersionCheck) -> User:
    """Replace the members that a client may set; a change that leaves them as they are writes nothing. Raises NotFound,
    PreconditionFailed or EmailTaken.
    """
    user = repository.lock(session, user_id)
    match(user.version)
    before = user.counts()
    if not user.change(**changes(user)):
        return user
    repository.save(session, user)
    outbox.add(session, UserUpdated(user_id=user.id, role=user.role, status=user.status, version=user.version))
    counters.add(session, counters.difference(before, user.counts()))
    return user


def delete_user(session: Session, user_id: str, match: VersionCheck) -> None:
    """Erase a user's personal data and leave a tombstone; raises NotFound or PreconditionFailed."""
    user = repository.lock(session, user_id)
    match(user.version)
    before = user.counts()
    user.erase()
    repository.save(session, user)
    idempotency.forget(session, user.id)
    assert user.deleted_at is not None
    outbox.add(session, UserDeleted(user_id=user.id, deleted_at=write_time(user.deleted_at), version=user.version))
    counters.add(session, counters.difference(before, user.counts()))


def user_stats(session: Reader) -> UserStats:
    """How many users there are, by role and by status."""
    return {
        "total": counters.read(session, "total").get("", 0),
        "by_role": counters.read(session, "role:"),
        "by_status": counters.read(session, "status:"),
    }
