"""Counts of an attack: what was tried, and what became of it."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from nas_proxy.errors import NasProxyError
from nas_proxy.time_limit import deadline

# What each attempt may end as, in the order of the report. All but the first three must be none.
TOLD, HARMLESS, SURVIVED = "told in a sentence", "harmless", "survived"
LOST, SILENT, HUNG, TRACEBACK = "lost", "silent", "hung", "traceback"
BAD = (LOST, SILENT, HUNG, TRACEBACK)
LONGEST_SENTENCE = 1500


@dataclass
class Tally:
    """What became of the attempts of one attack; `bad` names those that must not be."""

    name: str
    counts: Counter[str] = field(default_factory=Counter)
    bad: list[str] = field(default_factory=list)

    def count(self, became: str, what: str = "") -> None:
        """Count an attempt."""
        self.counts[became] += 1
        if became in BAD:
            self.bad.append(f"{became}: {what}")

    def attempt(self, what: str, act: Callable[[], Any], right: Callable[[Any], bool], seconds: float = 20.0) -> None:
        """Do something with a spoilt input: it must end in a sentence, or in something that is `right`."""
        try:
            with deadline(seconds):
                found = act()
        except TimeoutError:
            self.count(HUNG, what)
        except NasProxyError as error:
            text = str(error)
            is_sentence = (
                text and max(map(len, text.splitlines())) <= LONGEST_SENTENCE and not ({"\x1b", "\0"} & set(text))
            )
            self.count(TOLD if is_sentence else SILENT, f"{what}: {text[:200]!r}")
        except Exception as error:  # noqa: BLE001 (this is what is looked for)
            self.count(TRACEBACK, f"{what}: {type(error).__name__}: {str(error)[:200]}")
        else:
            self.count(HARMLESS if right(found) else SILENT, what)

    def report(self, capsys: Any) -> None:
        """Print the counts, and fail where something must not be."""
        tried = sum(self.counts.values())
        told = ", ".join(f"{self.counts[n]} {n}" for n in (TOLD, HARMLESS, SURVIVED) if self.counts[n])
        wrong = ", ".join(f"{self.counts[n]} {n}" for n in BAD)
        with capsys.disabled():
            print(f"\n{self.name}: {tried} tried, {told}; {wrong}")
        assert not self.bad, "\n".join(self.bad[:20])
