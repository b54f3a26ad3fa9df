"""Errors of PostgreSQL as errors of the store, with how to fix it."""

from smtpproxy.store.closed import says_closed
from smtpproxy.store.records import StoreInaccessible, StoreMisconfigured, StoreUnavailable

NO_PRIMARY = "the database is a standby, or read-only"
NO_STANDBY = "store.replica_url: names a primary, not a standby"


def unavailable(error: BaseException, where: str = "store.url") -> StoreUnavailable:
    """Return the error to raise `from error`. `where` is the setting with the URL."""
    from asyncpg import exceptions as pg

    match error:
        case TimeoutError() | pg.LockNotAvailableError() | pg.QueryCanceledError():
            return StoreUnavailable("the database did not answer in time")
        case pg.InvalidPasswordError() | pg.InvalidAuthorizationSpecificationError():
            return StoreInaccessible(f"{where}: the database refuses the login ({error})")
        case pg.InvalidCatalogNameError():
            return StoreInaccessible(f"{where}: {error}; create it, then run smtpproxy migrate")
        case pg.UndefinedTableError() | pg.UndefinedColumnError() | pg.UndefinedFunctionError():
            return StoreInaccessible(f"{where}: {error}; run smtpproxy migrate")
        case pg.InsufficientPrivilegeError():
            return StoreInaccessible(f"{where}: {error}; smtpproxy migrate --grant-write grants it")
        case pg.UndefinedObjectError():  # a role, or a parameter in the URL
            return StoreMisconfigured(f"{where}: {error}")
        case pg.ObjectNotInPrerequisiteStateError() if says_closed(str(error)):
            return StoreUnavailable(str(error))
        case pg.ReadOnlySQLTransactionError() | pg.TargetServerAttributeNotMatched():
            return StoreUnavailable(NO_PRIMARY if where == "store.url" else NO_STANDBY)
        case pg.FeatureNotSupportedError() if "recovery" in str(error):  # BEGIN READ WRITE
            return StoreUnavailable(NO_PRIMARY)
        case pg.DuplicatePreparedStatementError() | pg.InvalidSQLStatementNameError():
            return StoreMisconfigured(
                f"{where}: a prepared statement has vanished; behind a pooler in transaction mode"
                " set store.prepared_statements = false, or name the server itself"
            )
        case pg.ProtocolViolationError() if "startup parameter" in str(error):
            return StoreMisconfigured(
                f"{where}: {error}; make PgBouncer accept it (ignore_startup_parameters)"
            )
        case pg.DiskFullError():
            return StoreUnavailable("the disk of the database is full; free some space")
        case pg.ClientConfigurationError():
            text = " ".join(str(error).split())  # its hint is on a line of its own
            return StoreMisconfigured(f"{where}: {text}")
        case OSError():
            return StoreUnavailable(f"the database cannot be reached: {error.strerror or error}")
    return StoreUnavailable(f"the database failed ({type(error).__name__})")
