"""What people ask of a standing controller through the command, and how it is refused."""

import json
import shutil
import subprocess
from collections.abc import Iterator

import pytest

from tests.end_to_end.world import World, make, wait_for


@pytest.fixture(scope="module")
def standing() -> Iterator[World]:
    """A controller with TLS, and one job that waits for nodes which never come."""
    worlds = make()
    world = next(worlds)
    options = []
    if shutil.which("openssl"):
        cert, key = world.folder / "cert.pem", world.folder / "key.pem"
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        command += ["-keyout", str(key), "-out", str(cert), "-days", "2", "-subj", "/CN=127.0.0.1"]
        subprocess.run([*command, "-addext", "subjectAltName=IP:127.0.0.1"], check=True, capture_output=True)
        options = ["--tls-cert", str(cert), "--tls-key", str(key)]
    world.start("controller", "--listen", "127.0.0.1:0", *options)
    wait_for((world.state / "controller.json").exists)
    (world.work / "job.toml").write_text('name = "waiting"\ncommand = ["sleep", "1"]\nnodes = 2\n')
    try:
        yield world
    finally:
        worlds.close()  # type: ignore[attr-defined]


def trusted(world: World) -> list[str]:
    """Options that trust the controller's certificate, where it has one."""
    cert = world.folder / "cert.pem"
    return ["--ca-file", str(cert)] if cert.exists() else []


def test_a_job_is_started_listed_explained_and_stopped(standing: World) -> None:
    file = str(standing.work / "job.toml")
    assert standing.document("job", "start", file, *trusted(standing))["accepted"] is True
    twice = standing.run("job", "start", file, *trusted(standing))
    assert twice.returncode == 2
    assert "a job named waiting is already" in twice.stderr
    listed = standing.document("job", "list", *trusted(standing))["jobs"]
    assert [(item["job"], item["state"]) for item in listed] == [("waiting", "starting")]
    status = standing.run("status", *trusted(standing))
    assert "waits for nodes" in status.stdout
    assert standing.document("incidents", *trusted(standing)) == {"incidents": []}
    assert standing.document("report", *trusted(standing))["bins"]["idle"] > 0
    for words, sentence in (
        (["explain", "waiting-7"], "incident 'waiting-7' is unknown"),
        (["status", "--job", "walking"], "--job 'walking' is unknown; there are waiting"),
        (["job", "approve"], "job waiting is starting, not held"),
    ):
        done = standing.run(*words, *trusted(standing))
        assert done.returncode == 2
        assert sentence in done.stderr
    stopped = standing.run("job", "stop", *trusted(standing))
    assert stopped.returncode == 0, stopped.stderr
    wait_for(lambda: standing.document("status", *trusted(standing))["state"] == "failed")
    assert standing.run("status", *trusted(standing)).returncode == 1, "a job that has failed is a problem found"


def test_a_token_that_may_not_is_refused_with_the_way_out(standing: World) -> None:
    wrong = standing.work / "wrong.token"
    wrong.write_text("not-a-token\n")
    read = standing.state / "tokens" / "read"
    for words in (
        ["status", "--token-file", str(wrong)],
        ["job", "stop", "--job", "waiting", "--token-file", str(read)],
    ):
        done = standing.run(*words, *trusted(standing))
        assert done.returncode == 2
        assert "--token-file FILE" in done.stderr
        assert "not-a-token" not in done.stderr


@pytest.mark.skipif(not shutil.which("openssl"), reason="needs openssl to make a certificate")
def test_a_certificate_that_nobody_vouches_for_is_not_trusted(standing: World) -> None:
    done = standing.run("status")
    assert done.returncode == 2
    assert "its certificate is not trusted" in done.stderr
    assert "--ca-file FILE" in done.stderr


def test_a_second_controller_on_the_same_directory_is_refused_and_the_first_goes_on(standing: World) -> None:
    second = standing.run("controller", "--listen", "127.0.0.1:0")
    assert second.returncode == 2
    assert "another controller" in second.stderr
    assert standing.run("job", "list", *trusted(standing)).returncode == 0


def test_a_port_that_is_taken_is_named(standing: World, world: World) -> None:
    url = json.loads((standing.state / "controller.json").read_text())["url"]
    done = world.run("controller", "--listen", url.rpartition("/")[2])
    assert done.returncode == 2
    assert "the port is in use; give another with --listen" in done.stderr


def test_an_agent_beside_the_controller_finds_address_and_token_by_itself(standing: World) -> None:
    standing.run("token", "node", "beside")
    agent = standing.start("agent", "--node", "beside", *trusted(standing))
    wait_for(lambda: "beside" in joined(standing))
    agent.terminate()
    agent.wait(30)


def joined(world: World) -> set[str]:
    return set(world.recorded().nodes)
