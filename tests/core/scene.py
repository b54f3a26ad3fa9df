"""One transaction after another in a world that answers each effect as the test says."""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from smtpproxy.events import Decided
from smtpproxy.policy.model import Stream
from tests.core.driving import SENDER, STREAMS, Driven, Question, Setting
from tests.core.present import Present
from tests.core.world import Effect, Person, Result, Sent, UnderWay, World
from tests.kit.messages import marketing

Told = Result | Literal["wait"] | None
Answers = Callable[[Effect], Told]
"""How an effect is answered (None: it succeeds), or whether it waits while others are."""


class Scene:
    """Call `mail` for a message's recipients and `send` for its end, any number of times."""

    def __init__(self, setting: Setting, given: Mapping[str, Stream] | None = None) -> None:
        self.world = World()
        self.setting = setting
        self.driver = Present(self.world, setting, given)
        self.asked: list[str] = []  # the kinds of effects since `mail`, in order
        self._open: Driven | None = None

    @property
    def open(self) -> Driven:
        assert self._open is not None
        return self._open

    def mail(
        self,
        *names: str,
        suppressed: Sequence[str] = (),
        withdrawn: Sequence[str] = (),
        answers: Answers = lambda _: None,
    ) -> Question:
        """Begin a message; everybody not named otherwise has given consent by then."""
        self.world.people.update({name: Person() for name in self.world.people})
        for name in withdrawn:
            self.world.people[name].consents = False
        for name in suppressed:
            self.suppress(name)
        self._open = self.driver.begin(SENDER, STREAMS[:1])
        self.world.current = UnderWay(self._open.id, SENDER, stream=STREAMS[0])
        self.asked = []
        return self.rcpt(*names, answers=answers)

    def rcpt(self, *names: str, answers: Answers = lambda _: None) -> Question:
        question = self.open.rcpt(*names)
        self.go_on(answers)
        return question

    def send(
        self,
        content: bytes | None = None,
        answers: Answers = lambda _: None,
        *,
        client_is_there: bool = True,
    ) -> Question:
        """End the message; it is identical each time unless `content` is given."""
        self.driver.client_is_there = client_is_there
        question = self.open.data(self.content if content is None else content)
        self.go_on(answers)
        return question

    @property
    def content(self) -> bytes:
        if not self.setting.adds_links:
            return marketing(message_id="<1@shop.example>")
        return marketing(message_id="<1@shop.example>", unsubscribe=None, one_click=None)

    def go_on(self, answers: Answers = lambda _: None) -> None:
        """Answer whatever is asked, in order, until only effects that wait are left."""
        for _ in range(400):
            for effect in self.world.outstanding:
                result = answers(effect) or "ok"
                if result != "wait":
                    break
            else:
                return
            self.asked.append(effect.kind)
            self.world.answer(effect, result)
            self.driver.settle()
        raise AssertionError("there is no end to what is asked")

    def suppress(self, name: str) -> None:
        self.world.passes_time()
        self.world.people[name].scopes = {"all"}

    # what came of it all

    @property
    def sent(self) -> Sequence[Sent]:
        """What the upstream has received since `mail`."""
        assert self.world.current is not None
        return self.world.current.sent

    @property
    def notices(self) -> list[Sent]:
        return [each for each in self.sent if each.is_notice]

    @property
    def mailed(self) -> set[str]:
        """Who has been mailed since `mail`, apart from notices."""
        good = [each for each in self.sent if each.code == 250 and not each.is_notice]
        return {name for each in good for name in each.recipients}

    @property
    def ledger(self) -> set[str]:
        """Who has a copy of a message whose client is still without a final answer."""
        return set().union(*self.driver.outside.copies.values())

    @property
    def counted(self) -> set[str]:
        """The people for whom the message is counted."""
        return self.world.counted.get(self.open.id, set())

    @property
    def outcomes(self) -> list[int]:
        """The recorded answers to the message."""
        return [each.code for each in self.driver.outcomes if each.id == self.open.id]

    @property
    def decided(self) -> list[Decided]:
        """The decisions on the message, in order."""
        found = [each for each in self.driver.events if isinstance(each, Decided)]
        return [each for each in found if each.id == self.open.id]


def codes(question: Question) -> list[int]:
    """The reply codes; a fault of the program fails the test."""
    if question.error is not None:
        raise question.error
    assert question.answers is not None, "no answer"
    return [answer.code for answer in question.answers]


def failing(kind: str, result: Result = "later", *, about: str = "", after: str = "") -> Answers:
    """Let effects of one kind fail, for somebody, once one of another kind was asked."""
    begun: list[str] = []

    def answers(effect: Effect) -> Result | None:
        if (
            effect.kind == kind
            and about in " ".join(effect.about)
            and (not after or after in begun)
        ):
            return result
        begun.append(effect.kind)
        return None

    return answers
