"""What an item came to, where the caller asked for that (`errors="return"`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, Literal, NoReturn, TypeAlias

from typing_extensions import TypeVar

from . import tracebacks

T_co = TypeVar("T_co", covariant=True, default=Any)


@dataclass(frozen=True, slots=True)
class Success(Generic[T_co]):
    """An item that gave a value.

    >>> match Success(0, "done"):
    ...     case Success(index, value):
    ...         print(index, value)
    0 done
    """

    index: int
    value: T_co

    @property
    def ok(self) -> Literal[True]:
        """True: there is a `value`."""
        return True

    def unwrap(self) -> T_co:
        """The value."""
        return self.value


@dataclass(frozen=True, slots=True)
class Failure:
    """An item that failed.

    >>> Failure(1, KeyError("k")).ok
    False
    """

    index: int
    exception: BaseException

    @property
    def ok(self) -> Literal[False]:
        """False: there is an `exception`."""
        return False

    def unwrap(self) -> NoReturn:
        """Raise the exception."""
        raise self.exception

    def __reduce__(self) -> tuple[Any, ...]:
        return (_failure, (self.index, tracebacks.dumps(self.exception)))


def _failure(index: int, data: bytes) -> Failure:
    return Failure(index, tracebacks.loads(data))


#: `Success[T] | Failure`. `match` and `isinstance` tell a type checker which of them it is; so does `.ok`,
#: but pyright understands that only as `.ok is True`.
Outcome: TypeAlias = Success[T_co] | Failure
