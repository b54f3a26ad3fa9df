"""A random walk: one relay, or one adviser of an MTA, gets one message after another.

The client talks, people change their minds, and every effect stays outstanding until it is
answered or fails. After each step the walk checks what must hold.
"""

from collections.abc import Callable, Sequence
from random import Random

from tests.core.driving import PEOPLE, SENDER, STREAMS, Driven, Question, Setting
from tests.core.present import Present
from tests.core.world import OWN, Effect, Recorded, Result, UnderWay, World
from tests.kit.messages import marketing

FAILURES: list[Result] = ["later", "never", "lost"]
CHANGES = ("withdraws", "all", "marketing", "purpose:offers", "wants it", "wants it")
KINDS = (*OWN, "connect", "mail", "rcpt", "data", "read", "end", "rset")
LOUD = PEOPLE[0].replace("ann", "ANN")
"""Another spelling of the first one."""

Step = tuple[Callable[[], bool], Callable[[], None], int]
"""Whether the step is possible now, what it does, and its relative frequency."""


class Walk:
    """Call `run` once, then `end`.

    With `frozen`, nobody changes their mind while a transaction is open, and the upstream accepts
    every RSET."""

    def __init__(self, setting: Setting, draw: Random, *, frozen: bool) -> None:
        self.setting = setting
        self.frozen = frozen
        self.draw = draw
        self.steps: list[str] = []  # what was done, to read after a failure
        self.world = World()
        self.driver = Present(self.world, setting)
        self.open: Driven | None = None
        self.asked: Question | None = None  # awaiting answers
        self.ending = False  # the end of data was asked
        self.certain = False
        self.accepted: list[str] = []
        self.contents = 0
        self.content: tuple[str, str | None, int] = ("", None, 0)
        self.copied: dict[tuple[str, str | None, int], set[str]] = {}  # awaiting an answer
        self.told: dict[tuple[str, str | None, int], set[str]] = {}  # in a notice
        self.unsure: dict[tuple[str, str | None, int], set[str]] = {}  # may or may not be kept
        self.ledger_failed = False
        self.known: set[str] = set()  # the store has answered about them
        self.unreleased: set[str] = set()  # still counted, since releasing them failed
        self.failures: dict[str, Result] = {}  # the failed effects of this question, by kind
        self.fallible = self.draw.sample(KINDS, self.draw.randint(0, 4))  # what can fail here
        self.fails = self.draw.choice((0.05, 0.2, 0.5))  # how often
        idle = lambda: self.asked is None  # noqa: E731
        is_open = lambda: idle() and self.open is not None  # noqa: E731
        outstanding = lambda: bool(self.world.outstanding)  # noqa: E731
        moved = lambda: not frozen or self.open is None  # noqa: E731
        self._steps: list[Step] = [
            (moved, self._somebody_changes_their_mind, 2),
            (lambda: not frozen, self._the_sender_is_suppressed, self.draw.randint(0, 1)),
            (outstanding, self._an_effect_is_answered, 4),
            (outstanding, self._several_are_answered, 3),
            (outstanding, self._all_is_answered, 1),
            (lambda: idle() and not self.ending, self._rcpt, 2),
            (lambda: is_open() and bool(self.accepted), self._data, 4),
            (is_open, self._the_client_gives_up, self.draw.randint(0, 1)),
            (outstanding, self._the_spool_breaks, self.draw.choice((0, 0, 1))),
        ]
        for _ in range(self.draw.randint(0, 3)):
            self._changes(self.draw.choice(PEOPLE), self.draw.choice(CHANGES))

    def run(self, steps: int) -> None:
        for _ in range(steps):
            self.go_on()

    def go_on(self) -> None:
        """Do one of the steps that are possible now."""
        possible = [(do, weight) for may, do, weight in self._steps if weight and may()]
        (do,) = self.draw.choices(*zip(*possible, strict=True))  # type: ignore[arg-type]
        do()
        assert self.world.violations == []

    def may(self, name: str) -> bool:
        return any(may() for may, do, weight in self._steps if do.__name__ == name)

    def do(self, name: str) -> None:
        """Do this step, which must be possible now."""
        (do,) = [do for _, do, _ in self._steps if do.__name__ == name]
        do()
        assert self.world.violations == []

    def end(self) -> None:
        """Let everything succeed from now on; nothing may be left over."""
        try:
            self.fallible = []
            self._all_is_answered()
            if self.open is not None:
                self._the_client_gives_up()
                self._all_is_answered()
            assert self.world.violations == []
            assert self.driver.held() == 0, "a connection was never returned"
        finally:
            self.driver.close()

    # the world

    def _somebody_changes_their_mind(self) -> None:
        self._changes(self.draw.choice(PEOPLE), self.draw.choice(CHANGES))

    def _changes(self, name: str, change: str) -> None:
        self.steps.append(f"{name}: {change}")
        person = self.world.people[name]
        self.world.passes_time()
        if change == "wants it":
            person.consents, person.scopes = True, set()
        elif change == "withdraws":
            person.consents = False
        else:
            person.scopes.add(change)

    def _the_sender_is_suppressed(self) -> None:
        self.steps.append("the sender is suppressed")
        self.world.people[SENDER].scopes = {"all"}

    def _the_spool_breaks(self) -> None:
        """The spool stays unreadable until the message is answered."""
        if self.setting.relays and self.ending:
            self.steps.append("the spool breaks")
            self.driver.spool_is_broken = True
            self.failures["spool"] = "lost"
            self.ledger_failed = True  # which is keyed by the content

    def _an_effect_is_answered(self) -> None:
        self._answer(self.draw.choice(self.world.outstanding))

    def _several_are_answered(self) -> None:
        """Answer several effects in the order they were asked."""
        for _ in range(self.draw.randint(3, 25)):
            if self.world.outstanding:
                self._answer(self.world.outstanding[0])

    def _all_is_answered(self) -> None:
        for _ in range(300):
            if not self.world.outstanding:
                return
            self._answer(self.world.outstanding[0])
        raise AssertionError("there is no end to what is asked")

    def _answer(self, effect: Effect) -> None:
        result: Result = "ok"
        if effect.kind in self.fallible and self.draw.random() < self.fails:
            result = self.draw.choice(FAILURES)
        if effect.kind == "rset" and self.frozen and result != "lost":
            result = "ok"
        if self.asked is not None and effect.kind in OWN and not self._is_for_the_outcome(effect):
            self.failures[effect.kind] = result
        if effect.kind == "copies" and result != "ok":
            self.ledger_failed = True
        if effect.kind == "release" and result != "ok":
            self.unreleased |= _people(effect.about)
        self.steps.append(f"{effect.kind} {', '.join(effect.about)}: {result}")
        self.world.answer(effect, result)
        self.driver.settle()
        self._look()

    def _is_for_the_outcome(self, effect: Effect) -> bool:
        """Whether this only asks whom the recorded answer may name.

        The outcome is then known for everybody who was to be mailed."""
        lines, current = self._lines(), self._current
        passing = [place for place, line in enumerate(lines) if line.relayed]
        if effect.kind != "facts" or not self.ending or not passing:
            return False
        last, since = lines[passing[-1]], lines[passing[-1] + 1 :]
        if _people(effect.about) != _people(last.paths):
            return False
        known = set(current.refused)
        for each in current.sent:
            known.update(() if each.is_notice else each.recipients)
        for line in since:
            known.update(path for path in line.paths if path.lower() in line.refused)
        to_mail = {path for path in last.paths if path.lower() in last.allowed}
        return to_mail <= known or any(line.refuses_all for line in since)

    # the client

    def _rcpt(self) -> None:
        """Name recipients; the first of a message begins it."""
        names = self.draw.choices((*PEOPLE, *PEOPLE, LOUD), k=self.draw.randint(1, 4))
        if self.open is None:
            sender = self.draw.choice([SENDER, SENDER, SENDER, ""])
            self.certain = self.draw.random() < 0.5 or self.setting.intake == "policy"
            self.open = self.driver.begin(sender, STREAMS[:1] if self.certain else STREAMS)
            self.world.current = UnderWay(self.open.id, sender, stream=STREAMS[0])
            self.accepted, self.known, self.unreleased = [], set(), set()
            self.steps.append(
                f"MAIL {sender or '<>'}, {'certain' if self.certain else 'uncertain'}"
            )
        self.failures = {}
        self.steps.append(f"RCPT {names}")
        self.asked = self.open.rcpt(*(names if self.setting.relays else names[:1]))
        self._look()

    def _data(self) -> None:
        """Send the content, sometimes the same as the last, as a client that retries does."""
        assert self.open is not None
        again = self.draw.random() < 0.5
        header = None if self.certain else self.draw.choice([None, *STREAMS])
        self._current.stream, self._current.refused = header or STREAMS[0], set()
        links = {"unsubscribe": None, "one_click": None} if self.setting.adds_links else {}
        self.contents += not again
        self.content = self._current.reverse_path, header, self.contents
        mail = marketing(stream=header, message_id=f"<{self.contents}@shop.example>", **links)  # type: ignore[arg-type]
        self.ending, self.failures, self.ledger_failed = True, {}, False
        self.driver.client_is_there = self.draw.random() < 0.8
        self.steps.append(f"DATA {self.content}, client is there: {self.driver.client_is_there}")
        self.asked = self.open.data(mail)
        self._look()

    def _the_client_gives_up(self) -> None:
        assert self.open is not None
        self.steps.append("the client gives up")
        self._current.aborted = True
        self.open.abort()
        self._over()

    # the promises

    def _look(self) -> None:
        """Note what was answered; whatever was not must be waiting for something."""
        asked = self.asked
        if asked is None:
            return
        if asked.error is not None:
            raise AssertionError("a fault of the program") from asked.error
        if asked.due:
            assert self.world.outstanding, f"no answer about {asked.about}"
            return
        self.asked = None
        assert not self.world.waited_for(), "answered before the outcome was known"
        assert asked.answers is not None
        self.steps.append(f"answers {[answer.code for answer in asked.answers]}")
        assert len(asked.answers) == len(asked.about), "not one answer for each recipient"
        if self.ending:
            self._message_answered(asked)
            self._over()
        else:
            self._recipients_answered(asked)

    def _recipients_answered(self, asked: Question) -> None:
        if self.failures.get("facts", "ok") == "ok":
            self.known |= _people(asked.about)
        for name, answer in zip(asked.about, asked.answers or (), strict=True):
            if not self.setting.refuses_at_data:  # otherwise only the end shows it
                self._failures_defer(answer.code, ("facts", "record"))
            if answer.code < 300:
                self.accepted.append(name)
                assert not self.setting.relays or name in self._current.taken
            elif answer.code >= 500:
                self._refusal_is_known(name)

    def _message_answered(self, asked: Question) -> None:
        current, answers = self._current, asked.answers or ()
        assert list(asked.about) == self.accepted
        notices = [s.content for s in current.sent if s.is_notice and s.code == 250]
        told = {name for name in (*PEOPLE, LOUD) if any(name in notice for notice in notices)}
        taken = [r for s in current.sent if s.code == 250 and not s.is_notice for r in s.recipients]
        before = self.copied.pop(self.content, set())
        told_before = self.told.get(self.content, set())
        assert not before.intersection(taken), "mailed at this attempt and at one before"
        unsure = self.unsure.pop(self.content, set())
        twice = told & told_before - unsure
        if not self.ledger_failed:
            assert not twice, f"told twice of {twice}"
        deferred, gone = any(400 <= a.code < 500 for a in answers), not self.driver.client_is_there
        kept = deferred or (gone and sum(not each.is_notice for each in current.sent) > 1)
        copies = self.setting.adds_links or (self.setting.returns and current.reverse_path)
        for each in current.sent:
            if each.sender.endswith("@bounces.example"):
                (person,) = {name.lower().replace("@", "=") for name in each.recipients}
                assert each.sender == f"{person}@bounces.example"
        retried = bool(before.intersection(self.accepted))
        if copies and self.setting.intake == "smtp" and (kept or (gone and retried)):
            self.copied[self.content] = before.union(taken)
        elif others := before - set(self.accepted):
            self.copied[self.content] = others  # they await another transaction's answer
        if deferred or gone:
            self.told[self.content] = told | told_before
            lost = told if self.ledger_failed else ()
            self.unsure[self.content] = unsure.union(lost, taken if gone else ())
        elif all(answer.code >= 500 for answer in answers):  # kept copies were never looked up
            self.unsure[self.content] = unsure | self.told.pop(self.content, set())
        else:
            self.told[self.content] = told_before - set(self.accepted)
            self.unsure[self.content] = unsure - set(self.accepted)
        for name, answer in zip(asked.about, answers, strict=True):
            mailed = name in taken or name in current.handed_over or name in before
            assert taken.count(name) <= self.accepted.count(name), f"{name} is mailed twice"
            if self.setting.intake != "lmtp":  # over LMTP the failure may be another recipient's
                self._failures_defer(answer.code, ("facts", "record", "count"))
            settled = name in before | told_before | unsure  # settled by an earlier attempt
            if not _people([name]) & self.known and "facts" not in self.failures and not settled:
                assert answer.code >= 400, f"{answer} for {name}, about whom nothing is known"
            if answer.code < 300:
                known = name in told | told_before | unsure
                assert mailed or known, f"250 for {name}: not mailed, and nobody was told"
            elif answer.code >= 500:
                unspoken = self.world.people[SENDER].scopes or not current.reverse_path
                unspoken = unspoken or any(SENDER in who or not who for who in current.refusals)
                assert name not in taken, f"{answer} for {name}, who may still be mailed"
                assert not mailed or unspoken, f"{answer} for {name}, who was mailed"
                self._refusal_is_known(name, answer.text)
            elif not copies or self.setting.intake != "smtp":
                assert name not in taken, f"{answer} for {name}: a retry mails them twice"
        if not self.setting.relays or self.setting.intake == "smtp":
            assert len({answer.code for answer in answers}) == 1
        self._record_is_whole([answer.code for answer in answers])

    def _failures_defer(self, code: int, kinds: tuple[str, ...]) -> None:
        """A failure neither lets mail pass nor refuses it for good."""
        failed = [kind for kind in kinds if self.failures.get(kind, "ok") != "ok"]
        assert not failed or 400 <= code < 500, f"{code} after a failure: {failed}"

    def _refusal_is_known(self, name: str, text: str = "") -> None:
        """A 5xx comes from the upstream about them, is recorded, or needs no decision (5.5.4).

        Where each recipient has their own answer, the upstream's refusal of another does not count,
        unless it came while nobody was mailed: then it may be about the message.
        """
        ours = any(line.refuses_all or _people([name]) & line.refused for line in self._lines())
        refusals = self._current.refusals
        if self.setting.intake == "lmtp" and any(s.code == 250 for s in self._current.sent):
            theirs = any(name in who or not who for who in refusals)  # `who` is empty at MAIL
        else:
            theirs = bool(refusals)
        assert ours or theirs or text.startswith("5.5.4"), f"{name} is refused without a record"

    def _lines(self) -> list[Recorded]:
        return [line for line in self.world.journal if line.id == self._current.id]

    def _record_is_whole(self, codes: Sequence[int]) -> None:
        """Each decision is recorded once; one that lets mail pass has exactly one outcome."""
        if self.setting.intake == "policy":
            return  # each recipient is recorded, and the outcome is unknown
        lines = self._lines()
        for line in lines:
            assert lines.count(line) == 1 or line.at_rcpt, f"recorded twice: {line}"
        outcomes = [each.code for each in self.driver.outcomes if each.id == self._current.id]
        passes = any(line.relayed for line in lines)
        assert len(outcomes) == passes, f"outcomes {outcomes} for {lines}"
        if outcomes and self.setting.intake != "lmtp":
            assert outcomes[0] // 100 == codes[0] // 100 or codes[0] // 100 == 4, (
                "another outcome recorded"
            )
        for each in self.world.journal:
            if each.notice and each.relayed:
                found = [one.code for one in self.driver.outcomes if one.id == each.id]
                assert len(found) == 1, f"a notice with outcomes {found}"

    def _counts_are_right(self) -> None:
        """Count exactly those who were or may have been mailed, unless a release failed."""
        current = self._current
        counted = self.world.counted.get(current.id, set())
        sent = [each for each in current.sent if not each.is_notice]
        mailed = _people([r for s in sent if s.code == 250 for r in s.recipients])
        perhaps = _people([r for s in sent if s.code is None for r in s.recipients])
        handed_over = _people(current.handed_over)
        if current.stream == "offers" and self.setting.intake != "policy":
            assert mailed | handed_over <= counted, "mailed but not counted"
        assert counted <= mailed | handed_over | perhaps | self.unreleased, "counted but not mailed"

    def _over(self) -> None:
        self._counts_are_right()
        self.driver.spool_is_broken = False
        self.open, self.asked, self.ending = None, None, False

    @property
    def _current(self) -> UnderWay:
        assert self.world.current is not None
        return self.world.current


def _people(paths: "Sequence[str] | set[str]") -> set[str]:
    """The canonical addresses."""
    return {path.lower() for path in paths}
