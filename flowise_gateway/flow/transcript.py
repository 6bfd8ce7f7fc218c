"""The accumulated events of a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from flowise_gateway.flow.events import (
    ArtifactMade,
    ClientToolCalled,
    FinishReason,
    FlowEvent,
    FlowToolCalled,
    HumanInputRequested,
    KeepAlive,
    ReasoningDelta,
    SourcesFound,
    StepEnded,
    StepStarted,
    TextDelta,
    ToolUsed,
    TrailEvent,
    TurnEnded,
    TurnIdentified,
    UsageReported,
    Warned,
)

_LETTERS: Mapping[type[FlowEvent], bytes] = {
    **dict.fromkeys((ReasoningDelta, StepStarted, FlowToolCalled, ToolUsed), b"r"),
    ClientToolCalled: b"c",
    ArtifactMade: b"a",
    HumanInputRequested: b"q",
}


@dataclass(slots=True)
class Transcript:
    """The accumulated events of a run, from which non-streamed bodies and closing frames are rendered.

    Its `str()` is the text of the answer. `steps` are the nodes and agents that ran, with an empty state
    until Flowise reports their end. `order` has one letter for each event of the lists, as they arrived.
    """

    chat_id: str = ""
    texts: list[str] = field(default_factory=list)
    trail: list[TrailEvent] = field(default_factory=list)
    calls: list[ClientToolCalled] = field(default_factory=list)
    steps: list[StepEnded] = field(default_factory=list)
    sources: list[Mapping[str, Any]] = field(default_factory=list)
    artifacts: list[ArtifactMade] = field(default_factory=list)
    action: HumanInputRequested | None = None
    usage: UsageReported | None = None
    identity: TurnIdentified = field(default_factory=TurnIdentified)
    warnings: list[str] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    is_cut: bool = False
    order: bytearray = field(default_factory=bytearray)

    def add(self, event: FlowEvent) -> None:  # noqa: C901, PLR0912 - a case for each event
        """Add an event."""
        if isinstance(event, TextDelta):  # Nearly all events are.
            self.order += b"t"
            self.texts.append(event.text)
            return
        if letter := _LETTERS.get(type(event)):
            self.order += letter
        match event:
            case ReasoningDelta() | FlowToolCalled() | ToolUsed():
                self.trail.append(event)
            case StepStarted(label):
                self.trail.append(event)
                self.steps.append(StepEnded(label, ""))
            case StepEnded():
                self._end_step(event)
            case ClientToolCalled():
                self.calls.append(event)
            case SourcesFound(documents):
                self.sources.extend(documents)
            case ArtifactMade():
                self.artifacts.append(event)
            case HumanInputRequested():
                self.action = event
            case UsageReported():
                self.usage = event
            case TurnIdentified():
                self.identity = event
            case Warned(text):
                self.warnings.append(text)
            case TurnEnded(reason, is_cut):
                self.finish_reason, self.is_cut = reason, is_cut
            case KeepAlive():
                pass

    def _end_step(self, ended: StepEnded) -> None:
        begun = StepEnded(ended.label, "")
        if begun in self.steps:
            self.steps[self.steps.index(begun)] = ended
        else:
            self.steps.append(ended)

    def events(self) -> Iterator[FlowEvent]:
        """The events of the answer, in the order in which they arrived."""
        kept: Mapping[int, Iterator[FlowEvent]] = {
            ord("t"): map(TextDelta, self.texts),
            ord("r"): iter(self.trail),
            ord("c"): iter(self.calls),
            ord("a"): iter(self.artifacts),
            ord("q"): iter([self.action] if self.action else []),
        }
        for letter in self.order:
            yield from islice(kept[letter], 1)

    @property
    def text(self) -> str:
        """The answer's whole text."""
        return "".join(self.texts)

    @property
    def is_empty(self) -> bool:
        """Whether the run produced nothing visible."""
        return not (self.action or self.artifacts or self.calls or any(text.strip() for text in self.texts))

    def __str__(self) -> str:
        """The answer's whole text."""
        return self.text
