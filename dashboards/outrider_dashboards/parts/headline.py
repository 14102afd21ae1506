"""The first thing seen: the state in one sentence, since when, and what a person has to do, where that is anything."""

from __future__ import annotations

import time
from datetime import UTC, datetime, tzinfo
from typing import Any, Final

from outrider_dashboards import look, looking, reading, words

Json = dict[str, Any]
SAID_LATE_S: Final = 4.0  # a picture older than this is marked with its age

EMPTY: Final = (
    "Start one with <code>outrider run --nproc-per-node 8 train.py</code>, give this controller a job file with "
    "<code>outrider job start FILE</code>, or watch a demonstration with <code>outrider demo</code>. "
    "The page shows it by itself."
)


def headline(picture: looking.Picture, url: str, where: tzinfo, zone: str) -> str:
    """The state's card."""
    state = reading.state(picture)
    word, shape, tone = look.STATES[state]
    parts = [
        f'<div class="pill"><span aria-hidden="true">{shape}</span>{words.safe(word)}</div>',
        f'<div class="say">{words.safe(_sentence(picture, state))}</div>',
    ]
    if state == "empty":
        parts.append(f"<p>{EMPTY}</p>")
    elif state in ("away", "refused"):
        parts.append(_unseen(picture, url, state, where))
    elif state == "suspected":
        parts.append(_suspected(picture))
    if picture.status is not None:
        parts.append(f'<div class="soft num">{_since(picture, where, zone)}</div>')
    strip = _strip(picture) if state in ("away", "refused") and picture.status is not None else ""
    return f'<div class="o">{strip}<div class="state {tone}" role="status">{"".join(parts)}</div></div>'


def _strip(picture: looking.Picture) -> str:
    """Seen wherever one has scrolled to."""
    age = words.age(time.time() - (picture.taken_at or 0.0))
    return f'<div class="strip" aria-hidden="true">Could not look. This picture is {age} old.</div>'


def _sentence(picture: looking.Picture, state: str) -> str:
    if state == "empty":
        return "The controller answers, and has no job yet."
    if state == "refused":
        return "The controller does not take the token that this page was given."
    if state == "away":
        return "The controller does not answer, so nobody can say how the job is. Ranks that run go on without it."
    status = picture.status or {}
    said = str(status.get("sentence") or f"{status.get('job')} is {status.get('state')}")
    if state == "held":
        said = said.partition("; outrider job approve")[0]  # the commands stand below, with all their options
    return said[:1].upper() + said[1:] if said.startswith("the ") else said


def _suspected(picture: looking.Picture) -> str:
    found = reading.suspicion(picture) or {}
    if not found.get("silent"):
        return "<p>It still gives signs of progress, so nothing is done yet.</p>"
    look, act = words.duration(found.get("look_s")), words.duration(found.get("act_s"))
    return (
        f"<p>Every rank is looked at after {look} of silence, and nothing is ended before {act}, nor unless two looks "
        f'agree on who holds the job up. <span class="soft">{words.safe(found.get("basis"))}</span></p>'
    )


def _unseen(picture: looking.Picture, url: str, state: str, where: tzinfo) -> str:
    found = f"<p>{words.safe(picture.problem)}.</p>"
    if state == "refused":
        found += (
            "<p>Serve the page again with the token of <code>STATE/tokens/read</code>: "
            "<code>outrider dashboard --controller URL --token-file FILE</code>.</p>"
        )
    else:
        found += (
            f"<p>It is looked for at <code>{words.safe(url)}</code> every 2 seconds, and the page goes on by itself. "
            "Is it meant to run? <code>outrider controller</code> starts it on its state directory, and it takes up "
            "its jobs.</p>"
        )
    if picture.status is None or picture.taken_at is None:
        return found + "<p>It has not been seen since this page was served.</p>"
    at = datetime.fromtimestamp(picture.taken_at, UTC)
    age = words.age(time.time() - picture.taken_at)
    state_then = words.safe(picture.status.get("state"))
    return (
        f'{found}<p><b>Everything below is the last picture, {age} old</b> (<span title="{words.utc(at)}">'
        f"{words.clock(at, where, datetime.now(UTC))}</span>): the job was {state_then} then.</p>"
    )


def _since(picture: looking.Picture, where: tzinfo, zone: str) -> str:
    status = picture.status or {}
    parts = []
    if (since := words.moment(status.get("since_at"))) is not None:
        age = max(0.0, (picture.taken_at or time.time()) - since.timestamp())
        state = words.safe(status.get("state"))
        parts.append(
            f'{state} since <span title="{words.utc(since)}">{words.clock(since, where, datetime.now(UTC))}</span>'
            f" ({words.age(age)})"
        )
    if status.get("attempt") is not None:
        parts.append(f"attempt {words.safe(status['attempt'])}")
    if status.get("mesh"):
        parts.append(f"mesh {words.safe(status['mesh'])}")
    pretended = reading.simulated(picture)
    if pretended:
        parts.append(f'<span class="tag">{_hosts(len(pretended))} on one machine</span>')
    parts.append(f"times: {words.safe(zone)}")
    if not picture.kind and picture.taken_at is not None and time.time() - picture.taken_at > SAID_LATE_S:
        parts.append(f"<b>seen {words.age(time.time() - picture.taken_at)} ago</b>")
    return " &nbsp;·&nbsp; ".join(parts)


def _hosts(count: int) -> str:
    return "1 simulated host" if count == 1 else f"{count} simulated hosts"


def to_do(picture: looking.Picture, where_to: str, runbook: Json | None) -> str:
    """What a held or failed job asks of a person; empty where nothing. ``where_to``: options that find the job."""
    status = picture.status or {}
    state, job = status.get("state"), words.safe(status.get("job"))
    if state not in ("held", "failed") or status.get("ended_by"):
        return ""
    one = reading.open_incident(picture) or next(iter(reading.interruptions(picture)), None) or {}
    name = words.safe(one.get("id") or "INCIDENT")
    at = words.safe(where_to)
    book = ""
    if runbook:
        book = (
            f"<p>Work from the runbook <b>{words.safe(runbook.get('title'))}</b> "
            f'<span class="tag">{words.safe(runbook.get("id"))}</span>, which is below.</p>'
        )
    commands = [(f"outrider explain {name} {at}", "the evidence, and everything that was tried")]
    if state == "held":
        commands += [
            (f"outrider job approve --job {job} {at}", "it goes on from the newest checkpoint that is trusted"),
            (f"outrider job reject --job {job} {at}", "it ends here"),
        ]
    rows = "".join(f"<div><pre>{command}</pre><p class='soft'>{text}</p></div>" for command, text in commands)
    title = "It waits for you" if state == "held" else "What you can do"
    return f'<div class="o"><div class="card"><h2>{title}</h2>{book}<div class="cmds">{rows}</div></div></div>'


def tiles(picture: looking.Picture) -> str:
    """Step, throughput, loss, MFU, effective time, interruptions."""
    status, report = picture.status or {}, picture.report or {}
    last = reading.latest(picture)
    found = [
        _tile("Step", words.number(status.get("step")), "", _step_words(status)),
        _pace(status),
        _tile("Loss", words.number(last.get("loss")), "", _norm(last)),
        _mfu(status, report),
        _tile(
            "Effective training time",
            words.share(report.get("ettr")),
            "",
            f"of {words.duration(report.get('elapsed_s'))} elapsed" if report else "not counted yet",
        ),
        _count(picture, report),
    ]
    return f'<div class="o"><div class="tiles">{"".join(found)}</div></div>'


def _tile(name: str, value: str, unit: str, below: str) -> str:
    small = f"<small>{words.safe(unit)}</small>" if unit and value != words.DASH else ""
    return (
        f'<div class="tile"><span class="soft">{words.safe(name)}</span><b>{words.safe(value)}{small}</b>'
        f'<span class="soft">{words.safe(below)}</span></div>'
    )


def _step_words(status: Json) -> str:
    return "the last one finished" if status.get("step") is not None else "none is finished yet"


def _pace(status: Json) -> str:
    tokens, step_s = status.get("tokens_per_s"), status.get("step_s")
    if tokens is not None:
        return _tile("Throughput", words.number(tokens), "tokens/s", f"{words.duration(step_s)} a step")
    if step_s is not None:
        return _tile("Step time", words.duration(step_s), "", "the job tells no tokens")
    return _tile("Throughput", words.DASH, "", "no steps are being finished")


def _norm(last: Json) -> str:
    if not last:
        return "no step is finished yet"
    if last.get("loss") is None:
        return "the job does not tell its loss"
    norm = last.get("grad_norm")
    return f"gradient norm {words.number(norm)}" if norm is not None else f"of step {last.get('step')}"


def _mfu(status: Json, report: Json) -> str:
    told = report.get("mfu") or {}
    now, mean = status.get("mfu"), told.get("while_training")
    if now is None and mean is None:
        return _tile(
            "MFU", "none", "", str(told.get("reason") or "there is nothing to count it from").partition(":")[0]
        )
    with_downtime = f"{words.share(told.get('with_downtime'))} with downtime"
    return _tile("MFU", words.share(now if now is not None else mean), "", with_downtime)


def _count(picture: looking.Picture, report: Json) -> str:
    counts = report.get("interruptions")
    if not counts:
        return _tile("Interruptions", words.DASH, "", "not counted yet")
    below = f"{counts.get('automatic', 0)} overcome without a person"
    if watched := len(reading.findings(picture)):
        below += f"; {watched} {'finding' if watched == 1 else 'findings'}"
    return _tile("Interruptions", words.number(counts.get("total")), "", below)
