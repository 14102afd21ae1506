"""Which places are good for a state directory, from the mounts as the kernel lists them."""

from pathlib import Path

import pytest

from outrider import places

MOUNTS = """\
/dev/vda1 / ext4 rw 0 0
nas:/home /home nfs4 rw,vers=4.2 0 0
tmpfs /home/local tmpfs rw 0 0
store /mnt/two\\040words lustre rw 0 0
nonsense
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/var/lib/outrider", "ext4"),
        ("/home", "nfs4"),
        ("/home/ada/outrider", "nfs4"),
        ("/homes/outrider", "ext4"),
        ("/home/local/outrider", "tmpfs"),
        ("/mnt/two words/outrider", "lustre"),
    ],
)
def test_the_innermost_mount_tells_the_file_system(tmp_path: Path, path: str, kind: str) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(MOUNTS)
    assert places.file_system(Path(path), str(mounts)) == kind
    assert places.file_system(Path(path), str(tmp_path / "absent")) == "unknown"


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "lustre", "fuse.sshfs", "cifs"])
def test_a_network_file_system_is_refused_with_the_way_out_unless_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(places, "file_system", lambda path: kind)
    with pytest.raises(places.PlaceError, match=rf"network file system \({kind}\).*--state DIR or OUTRIDER_STATE"):
        places.make_private(tmp_path / "s")
    with pytest.raises(places.PlaceError, match=r"Give a local directory with OUTRIDER_RUNTIME$"):
        places.make_private(tmp_path / "s", "OUTRIDER_RUNTIME")
    monkeypatch.setenv("OUTRIDER_ALLOW_NETWORK_STATE", "1")
    assert places.make_private(tmp_path / "s") == tmp_path / "s"
