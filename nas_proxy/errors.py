"""Every error that nas_proxy raises on purpose.

NasProxyError
├── UserError            a mistake that the user can mend; the command line prints it and exits with 2
│   ├── ConfigError      wrong settings, all of them at once
│   ├── DataError        a data set or a truth table that is missing, empty or unreadable
│   ├── SpaceError       a search space that cannot be imported or used
│   │   └── CodeChangedError  its file, or that of a score, was edited while a command was at work with it
│   ├── DeviceError      a device that is not there
│   ├── StorageError     a database that is absent, unreachable, full or of another run
│   ├── ClusterError     a Ray cluster that is absent, or whose machines cannot do what is asked
│   └── RunFolderError   a run folder that is absent, foreign, damaged, full or in use
└── RunFailedError       the work itself failed, for example all candidates; exit code 1
"""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches

from nas_proxy.untrusted import safe, shortened

# What a user's code may raise: everything but an interruption; `sys.exit` in a network is no reason to exit.
RAISED = (Exception, SystemExit)


class NasProxyError(Exception):
    """Base of all errors raised on purpose. What it says can be written and printed, whatever it quotes."""

    def __init__(self, text: str = "") -> None:
        super().__init__(safe(shortened(text)))


class UserError(NasProxyError):
    """A mistake that the user can mend: one sentence with the value and what would work."""


class ConfigError(UserError):
    """Wrong settings. `mistakes` holds one sentence for each."""

    def __init__(self, mistakes: Sequence[str]) -> None:
        self.mistakes = tuple(safe(shortened(mistake)) for mistake in mistakes)
        super().__init__("\n".join(self.mistakes))


class DataError(UserError):
    """A data set or a truth table that is missing, empty or unreadable."""


class SpaceError(UserError):
    """A search space that cannot be imported, or that yields no network."""


class CodeChangedError(SpaceError):
    """The file of a search space or a score is not what it was when the command began: no candidate's fault."""


class DeviceError(UserError):
    """A device that this machine does not have."""


class StorageError(UserError):
    """A database that is absent, unreachable, full or of another run."""


class ClusterError(UserError):
    """A Ray cluster that is absent, or whose machines cannot do what is asked of them."""


class RunFolderError(UserError):
    """A run folder that is absent, foreign, damaged, full or in use."""


class RunFailedError(NasProxyError):
    """The work failed for a reason that no setting explains, for example every candidate raised."""


def nearest(name: str, known: Iterable[str]) -> str:
    """Return "; did you mean 'x'? Known: …" for an unknown `name`, to be appended to a sentence."""
    names = sorted(known)
    close = get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]!r}?" if close else ";"
    return f"{hint} known: {', '.join(names)}"
