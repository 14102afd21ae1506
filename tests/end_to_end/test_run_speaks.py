"""What `outrider run` tells while it runs: a person on standard error, programs through the webhook."""

import hashlib
import hmac
import json

from tests.controller.test_webhook import receiver
from tests.end_to_end.world import World


def test_a_cold_start_is_told_with_its_reason_and_a_warm_one_is_not(world: World) -> None:
    world.script(
        "import threading, time\nthreading.Thread(target=time.sleep, args=(60,), daemon=True).start()\n", "busy.py"
    )
    script = world.script("print('ran')\n")
    cold = world.run("run", "--preload", "busy", script)
    assert (cold.returncode, cold.stdout) == (0, "ran\n"), cold.stderr
    assert cold.stderr.count("the ranks start cold") == 1
    assert "after preload busy, the keeper has 2 threads" in cold.stderr
    warm = world.run("run", script)
    assert warm.returncode == 0
    assert "cold" not in warm.stderr


def test_incidents_reach_a_signed_webhook_and_those_of_an_earlier_run_are_no_news(world: World) -> None:
    key = world.work / "key"
    key.write_text("a very secret word\n")
    script = world.script("raise RuntimeError('always')\n")
    with receiver(204) as there:
        first = world.run("run", "--webhook", there.url, "--webhook-secret-file", str(key), script)
    assert first.returncode == 93, first.stderr
    assert [json.loads(body)["event"] for _, body, _ in there.requests] == ["incident-opened", "incident-closed"] * 2
    for headers, body, _ in there.requests:
        expected = hmac.new(b"a very secret word", body, hashlib.sha256).hexdigest()
        assert headers["X-Outrider-Signature"] == f"sha256={expected}"
    assert not [path for path in world.state.rglob("*.log") if "a very secret word" in path.read_text()]
    second = world.run("run", script)
    assert second.returncode == 93
    assert "incident job-1 " in first.stderr
    assert "incident job-1 " not in second.stderr
    assert "incident job-3 " in second.stderr
