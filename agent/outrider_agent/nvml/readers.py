"""The helpers that read GPUs: one that everybody depends on, and those that a call holds.

A call that is late for ``warn_s`` costs its helper the work: it is set aside, its GPU is left alone, and another helper
reads the rest, in the same look. One that is set aside and answers after all is ended, and its function is held back;
one that does not within ``act_s`` is killed, and the call counts as hung. Whether the GPU answers without that
function, and later with it, a third helper tries (``ward``). Helpers that SIGKILL does not end count towards
``stuck_max``: so many, and no further one is started until the kernel lets go of one.

The module's user is one thread at a time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from outrider_agent.nvml import announce, process, ward

PERIODS: Final = ("fast", "usual", "slow", "rare")
NAP_S: Final = 0.003
NAP_S_MAX: Final = 0.05
LOOK_S: Final = 0.25  # how often a silent helper is looked at
DYING_S: Final = 1.0  # after which a killed helper counts as one that cannot be killed
LIVED_S: Final = 10.0  # a helper that ends sooner counts as one that did not work
DEATHS_MAX: Final = 2  # of helpers in the same call, after which the call is held back
DRAGGED: Final = 3  # a GPU whose calls are all late is given up after so many times act_s
Due = Callable[[bool], Sequence[str]]


@dataclass(frozen=True)
class Limits:
    """Seconds, but for stuck_max. ``act_s`` leaves room for a look before and after it, so that a hung call is known
    within 10 s. ``init_s``: nvmlInit alone may take long, a GPU without persistence mode needs seconds.
    """

    warn_s: float = 2.0
    act_s: float = 8.0
    init_s: float = 30.0
    read_s: float = 4.0
    retry_s: float = 10.0
    retry_s_max: float = 300.0
    restart_s: float = 1.0
    restart_s_max: float = 60.0
    stuck_max: int = 3


@dataclass
class _Reader:
    """A helper and what it was asked. ``gpu`` and ``function``: the call that it was set aside for."""

    helper: process.Helper
    ready: bool = False
    asked: int = 0
    periods: Sequence[str] = ()
    gpu: int = announce.NODE
    function: str = ""
    since: float = 0.0
    longest: float = 0.0
    takes_s: float = 0.0  # its newest round
    trial: ward.Trial | None = None


@dataclass
class _Dying:
    helper: process.Helper
    gpu: int
    since: float


@dataclass
class Readers:
    """``roster``: number of a GPU -> PCI address ("" while it does not say). ``init``: what nvmlInit answered last,
    None before. ``down``: seconds and function of a call about the whole node that does not come back.
    """

    library: Path | None
    limits: Limits
    kill: process.Kill = process.kill_for_good
    roster: dict[int, str] = field(default_factory=dict)
    hello: process.Message = field(default_factory=dict)
    init: int | None = None
    error: str = ""
    down: tuple[float, str] | None = None
    restarts: int = 0
    hopeless_s: float = 0.0  # how long to wait after an nvmlInit that fails, where longer than usual

    def __post_init__(self) -> None:
        self.ward = ward.Ward(self.limits.retry_s, self.limits.retry_s_max)
        self._reader: _Reader | None = None
        self._aside: list[_Reader] = []
        self._trial: _Reader | None = None
        self._dying: list[_Dying] = []
        self._number = 0
        self._failed = 0
        self._start_at = 0.0
        self._deaths: dict[tuple[int, str], int] = {}
        self._started = False
        self._late: dict[int, tuple[float, str]] = {}
        self._unanswered = False  # a GPU hangs, and none has answered since

    @property
    def stuck(self) -> int:
        """Helpers that do not die."""
        now = time.monotonic()
        return sum(now - one.since > DYING_S for one in self._dying)

    @property
    def pid(self) -> int | None:
        """The helper that reads, for those who measure it."""
        return self._reader.helper.pid if self._reader else None

    def look(self, due: Due, deadline: float) -> list[process.Message]:
        """Answers, one a GPU and one with ``done`` where the round was finished before the deadline (monotonic
        seconds). ``due`` says which periods to ask for; its argument is whether the helper is a new one.
        """
        self._bury()
        self._late = {}
        found: list[process.Message] = []
        self._hear_those_aside(found)
        self._try_again(found)
        while (left := deadline - time.monotonic()) > 0:
            if self._reader is None and not self._start():
                break
            reader = self._reader
            assert reader is not None
            if reader.ready and not reader.asked:
                self._ask(reader, due(not reader.periods))
            if self._hear(reader, min(left, LOOK_S), found):
                break
        self._try_again(found)
        return found

    def waiting(self) -> dict[int, tuple[float, str]]:
        """For each GPU with a call that is out, or came back late in this look: for how long, and which function."""
        return {**self._late, **{one.gpu: (one.longest, one.function) for one in self._aside}}

    def silence(self) -> tuple[float, str] | None:
        """Where GPUs hang and none is found that answers: for how long, and what. It is not the fault of one."""
        blocked, known = self.ward.blocked, self.roster.keys()
        all_hang = blocked >= known and len(known) > 1 if known else len(blocked) > 1
        if not self._unanswered or not (all_hang or self.down or self._full()):
            return None
        held = {**self.ward.worst(), **self.waiting()}
        seconds, function = max([*([self.down] if self.down else []), *held.values()], default=(0.0, ""))
        return seconds, f"{function}; no answer of {', '.join(f'gpu{number}' for number in sorted(held))}"

    def close(self) -> None:
        """End all helpers; those that cannot be killed are left to the kernel."""
        for one in (self._reader, self._trial, *self._aside):
            if one is not None:
                self._end(one)
        until = time.monotonic() + DYING_S
        for dying in self._dying:
            if not dying.helper.wait(max(0.0, until - time.monotonic())):
                dying.helper.forget()  # it ends when its call comes back, because nobody listens
        self._reader, self._trial, self._aside, self._dying = None, None, [], []

    def fill(self, addresses: Sequence[str]) -> None:
        """GPUs that would not say their address have those that nobody else has, where that is plain."""
        unknown = [number for number, pci in sorted(self.roster.items()) if not pci]
        free = [pci for pci in addresses if pci not in self.roster.values()]
        if unknown and len(unknown) == len(free):
            self.roster = {**self.roster, **dict(zip(unknown, free, strict=True))}

    # ---------------------------------------------------------------- the one that everybody depends on

    def _start(self) -> bool:
        now = time.monotonic()
        if self._full():
            self.error = "as many NVML helpers as there may be are held by calls; the next starts after one has ended"
            return False
        if now < self._start_at:
            return False
        begin = {"roster": sorted(self.roster.items()), "blocked": sorted(self.ward.blocked)}
        try:
            self._reader = _Reader(process.Helper(self.library, begin, kill=self.kill), since=now)
        except OSError as error:
            self._put_off(f"no NVML helper can be started: {error.strerror or error}")
            return False
        self.restarts += self._started
        self._started = True
        return True

    def _ask(self, reader: _Reader, periods: Sequence[str]) -> None:
        self._number += 1
        reader.asked, reader.periods = self._number, periods
        gpus = [[number, pci] for number, pci in sorted(self.roster.items()) if number not in self.ward.blocked]
        reader.helper.say({"n": self._number, "periods": periods, "gpus": gpus, "leave": self.ward.left()})
        # Answers come one a GPU, within milliseconds of each other: to wait for them once costs less than to be woken
        # by each.
        time.sleep(min(NAP_S + 2 * reader.takes_s, NAP_S_MAX) if reader.takes_s else 0.0)

    def _hear(self, reader: _Reader, within_s: float, found: list[process.Message]) -> bool:
        """Whether the round is over."""
        try:
            message = reader.helper.hear(within_s)
        except process.Ended as ended:
            self._lost(reader, str(ended))
            return False
        if message is None:
            self._listen(reader)
        elif "init" in message:
            self._greet(reader, message)
        elif "again" in message:
            self._end(reader)
            self._reader = None
            self._put_off(f"the driver went away (NVML answers {message['again']})")
        elif message.get("n") == reader.asked:
            found.append(message)
            self._unanswered = self._unanswered and "gpu" not in message
            if message.get("done"):
                message["periods"] = reader.periods
                reader.takes_s = float(message["took_s"])
                reader.asked = 0
                self._failed, self.error, self.down = 0, "", None
                return True
        return False

    def _greet(self, reader: _Reader, message: process.Message) -> None:
        self.init, self.down = int(message["init"]), None
        if self.init:
            self.error = f"nvmlInit answers {self.init}: {message.get('error', '')}"
            self._end(reader)
            self._reader = None
            self._put_off(self.error)
            self._start_at = max(self._start_at, time.monotonic() + self.hopeless_s)
            return
        reader.ready = True
        self.hello = message
        self._enrol(message)

    def _enrol(self, message: process.Message) -> None:
        said = {int(number): str(pci) for number, pci in message["roster"]}
        self.roster = {**self.roster, **{number: pci or self.roster.get(number, "") for number, pci in said.items()}}

    def _listen(self, reader: _Reader) -> None:
        """It is silent: judge for how long, and in which call."""
        seconds, call = reader.helper.silent()
        if seconds < self.limits.warn_s:
            return
        function = call.function if call else "no NVML call"
        if call is not None and call.gpu != announce.NODE and reader.ready:
            self._set_aside(reader, call, seconds)
            return
        waits_for_init = not reader.ready and (call is None or call.gpu == announce.NODE)
        self.down = (seconds, function) if call else None
        self.error = f"the NVML helper is silent for {seconds:.0f} s in {function}"
        if seconds < (self.limits.init_s if waits_for_init else self.limits.act_s):
            return
        gpu = call.gpu if call is not None else announce.NODE
        if gpu != announce.NODE:  # at the start, by its index
            self.roster = {gpu: "", **self.roster} if self.roster else {}
            self.ward.suspect(gpu)
            self.ward.hung(gpu, function, seconds, time.monotonic())
            self.down, self._unanswered = None, True
        self._end(reader, gpu)
        self._reader = None
        self._put_off(self.error)

    def _set_aside(self, reader: _Reader, call: announce.Call, seconds: float) -> None:
        reader.gpu, reader.function, reader.since, reader.longest = call.gpu, call.function, time.monotonic(), seconds
        self.ward.suspect(call.gpu)
        self._aside.append(reader)
        self._reader, self._unanswered = None, True

    def _lost(self, reader: _Reader, how: str) -> None:
        """It ended by itself, or somebody ended it."""
        call = reader.helper.call()
        now = time.monotonic()
        if call is not None and call.gpu != announce.NODE:
            where = (call.gpu, call.function)
            deaths = self._deaths[where] = self._deaths.get(where, 0) + 1
            if deaths >= DEATHS_MAX:
                self.ward.hung(*where, 0.0, now)
                del self._deaths[where]
        self._end(reader)
        self._reader = None
        young = now - reader.helper.started_at < LIVED_S
        self._failed = self._failed if young else 0
        self._put_off(how)

    def _put_off(self, why: str) -> None:
        """The next start: at once after a first failure, then later and later."""
        self.error = why
        pause = self.limits.restart_s * 2 ** min(self._failed - 1, 16) if self._failed else 0.0
        self._failed += 1
        self._start_at = time.monotonic() + min(pause, self.limits.restart_s_max)

    # ---------------------------------------------------------------- those that are held

    def _hear_those_aside(self, found: list[process.Message]) -> None:
        now = time.monotonic()
        for one in [*self._aside]:
            seconds, call = one.helper.silent()
            one.longest = max(one.longest, seconds)
            if call is not None and call.gpu == one.gpu and seconds >= self.limits.warn_s:
                one.function = call.function
            answer, over = self._heard_of(one)
            dragged = now - one.since > DRAGGED * self.limits.act_s
            if answer is not None:
                self._was_late(one, now)
                found.append(answer)
                self._unanswered = False
            elif over or dragged or seconds >= self.limits.act_s:
                self.ward.hung(one.gpu, one.function, max(one.longest, self.limits.warn_s), now)
            else:
                continue
            self._aside.remove(one)
            self._end(one, one.gpu)

    def _was_late(self, one: _Reader, now: float) -> None:
        seconds = max(one.longest, self.limits.warn_s)
        self.ward.late(one.gpu, one.function, seconds, now)
        self._late[one.gpu] = (seconds, one.function)

    def _heard_of(self, one: _Reader) -> tuple[process.Message | None, bool]:
        """The answer for the GPU that it is held by, and whether it has ended."""
        try:
            while (message := one.helper.hear(0)) is not None:
                if message.get("gpu") == one.gpu:
                    return message, False
                if "again" in message:
                    return None, True
        except process.Ended:
            return None, True
        return None, False

    def _try_again(self, found: list[process.Message]) -> None:
        """One step of the helper that tries what is held back; it is started where something is due."""
        if self._trial is not None:
            self._follow_trial(self._trial, found)
            return
        if self._full() or self.init != 0:
            return
        not_now = frozenset(one.gpu for one in self._dying) | {one.gpu for one in self._aside}
        trial = self.ward.trial(time.monotonic(), not_now)
        if trial is None:
            return
        self.ward.tried(trial, time.monotonic())
        begin = {"roster": [[trial.gpu, self.roster.get(trial.gpu, "")]], "blocked": [], "alone": True}
        try:
            self._trial = _Reader(process.Helper(self.library, begin, kill=self.kill), gpu=trial.gpu, trial=trial)
        except OSError:
            return  # it is due again after its pause

    def _follow_trial(self, one: _Reader, found: list[process.Message]) -> None:
        assert one.trial is not None
        seconds, call = one.helper.silent()
        if seconds > one.longest and call is not None:
            one.longest, one.function = seconds, call.function
        try:
            message = one.helper.hear(0)
        except process.Ended:
            message = {"again": 0}
        if message is not None and message.get("init") == 0:
            self._enrol(message)
            leave = {one.gpu: one.trial.leave}
            one.helper.say({"n": 1, "periods": PERIODS, "gpus": [[one.gpu, ""]], "leave": leave})
            return
        now = time.monotonic()
        if message is not None and "gpu" in message:
            if one.longest < self.limits.warn_s:
                self.ward.well(one.trial)
            else:
                self._was_late(one, now)
            found.append(message)
            self._unanswered = False
        elif message is None and seconds < (self.limits.act_s if call else self.limits.init_s):
            return
        elif message is None and call is not None and call.gpu == one.gpu:
            self.ward.hung(one.gpu, call.function, seconds, now)
        self._trial = None
        self._end(one, one.gpu)

    # ---------------------------------------------------------------- those that die

    def _end(self, one: _Reader, gpu: int = announce.NODE) -> None:
        one.helper.end()
        self._dying.append(_Dying(one.helper, gpu, time.monotonic()))
        self._bury()

    def _full(self) -> bool:
        most = self.limits.stuck_max
        return self.stuck + len(self._aside) >= most or len(self._dying) >= 2 * most

    def _bury(self) -> None:
        self._dying = [one for one in self._dying if not one.helper.ended()]
