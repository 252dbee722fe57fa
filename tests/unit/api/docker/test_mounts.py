"""Binds, Mounts and Tmpfs."""

from __future__ import annotations

import pathlib

import pytest

from bireme.api.docker.bodies import BindOptions, DriverConfig, HostConfig, TmpfsOptions, VolumeOptions
from bireme.api.docker.bodies import Mount as MountBody
from bireme.api.docker.mounts import check_anonymous, check_volumes_from, make_sources, mounts_of
from bireme.errors import Invalid
from bireme.instance.spec import Mount


def bind(text: str) -> Mount:
    (mount,) = mounts_of(HostConfig(Binds=[text]))
    return mount


def test_binds() -> None:
    assert bind("/a:/b") == Mount(kind="bind", source="/a", target="/b")
    assert bind("/a/../x/:/b//c/:ro") == Mount(kind="bind", source="/x", target="/b/c", read_only=True)
    assert bind("/a:/b:rslave,ro,Z").propagation == "rslave"
    assert not bind("/a:/b:rw,z").read_only


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "invalid volume specification: ''"),
        (":/b", "invalid volume specification: ':/b'"),
        ("/a:ro", "invalid volume specification: '/a:ro'"),
        ("/a:/b:ro:x", "invalid volume specification"),
        ("/a:/b:rx", "invalid mode: rx"),
        ("/a:/b:ro,rw", "invalid mode: ro,rw"),
        ("/a:b", "mount path must be absolute"),
        ("/a:/", "destination can't be '/'"),
        ("/a:/b/..", "destination can't be '/'"),
    ],
)
def test_bad_binds(text: str, message: str) -> None:
    with pytest.raises(Invalid) as caught:
        bind(text)
    assert message in caught.value.message


def test_volumes() -> None:
    assert bind("/only") == Mount(kind="volume", target="/only", anonymous=True)
    assert bind("name:/x") == Mount(kind="volume", volume="name", target="/x", shown_mode="z")
    made = bind("name:/x/:ro,Z,nocopy")
    assert (made.target, made.read_only, made.no_copy, made.shown_mode) == ("/x", True, True, "ro,Z,nocopy")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name:/x:rslave", 'invalid mount config for type "volume": field BindOptions must not be specified'),
        ("/a:/x:nocopy", 'invalid mount config for type "bind": field VolumeOptions must not be specified'),
        ("name", "invalid mount path: 'name' mount path must be absolute"),
        ("name:x", "mount path must be absolute"),
        ("name:/", "destination can't be '/'"),
        ("name:/x:what", "invalid mode: what"),
    ],
)
def test_bad_volumes(text: str, message: str) -> None:
    with pytest.raises(Invalid) as caught:
        bind(text)
    assert message in caught.value.message


def test_volume_mounts() -> None:
    options = VolumeOptions(
        NoCopy=True, Labels={"a": "b"}, DriverConfig=DriverConfig(Options={"o": "bind"}), Subpath="a/./b"
    )
    assert mount(Type="volume", Source="name", Target="/x", ReadOnly=True, VolumeOptions=options) == Mount(
        kind="volume",
        volume="name",
        target="/x",
        read_only=True,
        no_copy=True,
        subpath="a/b",
        shown_mode="z",
        driver_options={"o": "bind"},
        labels={"a": "b"},
    )
    assert mount(Type="volume", Target="/x").anonymous


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"Target": "/x", "ReadOnly": True}, "must not set ReadOnly mode when using anonymous volumes"),
        ({"Target": "/x", "VolumeOptions": VolumeOptions(Subpath="a")}, "must not set Subpath when using anonymous"),
        ({"Source": "n", "VolumeOptions": VolumeOptions(Subpath="../a")}, "subpath must be a relative path within"),
        ({"Source": "n", "VolumeOptions": VolumeOptions(Subpath="/a")}, "subpath must be a relative path within"),
        ({"Source": "n", "VolumeOptions": VolumeOptions(Subpath="a/../..")}, "subpath must be a relative path within"),
        ({"Source": "n", "BindOptions": BindOptions()}, "BindOptions must not be specified"),
    ],
)
def test_bad_volume_mounts(fields: dict[str, object], message: str) -> None:
    with pytest.raises(Invalid) as caught:
        mount(**{"Type": "volume", "Target": "/x", **fields})
    assert message in caught.value.message


def test_anonymous_places_and_volumes_from() -> None:
    for place in ("", "x", "/", "/a:/b"):
        with pytest.raises(Invalid, match="invalid volume specification"):
            check_anonymous(place)
    check_volumes_from("c1:ro,z")
    for text, message in (("", "cannot be an empty string"), ("c1:no", "invalid mode"), ("c1:rslave", "invalid mode")):
        with pytest.raises(Invalid, match=message):
            check_volumes_from(text)


def test_sources_are_made_for_binds_alone(tmp_path: pathlib.Path) -> None:
    make_sources(HostConfig(Binds=[f"{tmp_path}/new:/x", "name:/y", f"{tmp_path}/anonymous"]))
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def mount(**fields: object) -> Mount:
    (made,) = mounts_of(HostConfig(Mounts=[MountBody(**fields)]))  # type: ignore[arg-type]
    return made


def test_mounts(tmp_path: pathlib.Path) -> None:
    source = str(tmp_path)
    assert mount(Type="bind", Source=source, Target="/x", ReadOnly=True) == Mount(
        kind="bind", source=source, target="/x", read_only=True
    )
    options = BindOptions(Propagation="rshared", NonRecursive=True)
    made = mount(Type="bind", Source=source, Target="/x", BindOptions=options)
    assert (made.propagation, made.recursive) == ("rshared", False)
    made = mount(Type="tmpfs", Target="/t", TmpfsOptions=TmpfsOptions(SizeBytes=5, Mode=0o700, Options=[["exec"]]))
    assert made == Mount(kind="tmpfs", target="/t", size_bytes=5, mode=0o700, options=("exec",))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"Type": "bind", "Source": "/"}, 'invalid mount config for type "bind": field Target must not be empty'),
        ({"Type": "bind", "Target": "/x"}, "field Source must not be empty"),
        ({"Type": "bind", "Source": "x", "Target": "/x"}, "mount path must be absolute"),
        ({"Type": "bind", "Source": "/", "Target": "x"}, "mount path must be absolute"),
        ({"Type": "bind", "Source": "/", "Target": "/."}, "destination can't be '/'"),
        (
            {"Type": "bind", "Source": "/no/such/place", "Target": "/x"},
            "bind source path does not exist: /no/such/place",
        ),
        (
            {"Type": "bind", "Source": "/", "Target": "/x", "BindOptions": BindOptions(Propagation="x")},
            "invalid propagation",
        ),
        (
            {"Type": "bind", "Source": "/", "Target": "/x", "TmpfsOptions": TmpfsOptions()},
            "TmpfsOptions must not be specified",
        ),
        ({"Type": "tmpfs", "Target": "/x", "VolumeOptions": VolumeOptions()}, "VolumeOptions must not be specified"),
        ({"Type": "tmpfs", "Target": "/x", "Source": "/y"}, "field Source must not be specified"),
        ({"Type": "tmpfs", "Target": "/x", "TmpfsOptions": TmpfsOptions(Options=[["suid"]])}, "invalid option: suid"),
        ({"Type": "tmpfs", "Target": "/x", "TmpfsOptions": TmpfsOptions(Options=[[]])}, "invalid option array length"),
        ({"Type": "tmpfs", "Target": "/x", "TmpfsOptions": TmpfsOptions(SizeBytes=-1)}, "invalid size"),
        ({"Type": "floppy", "Target": "/x"}, "mount type unknown"),
        ({"Target": "/x"}, "mount type unknown"),
    ],
)
def test_bad_mounts(fields: dict[str, object], message: str) -> None:
    with pytest.raises(Invalid) as caught:
        mount(**fields)
    assert message in caught.value.message


def test_tmpfs() -> None:
    (made,) = mounts_of(HostConfig(Tmpfs={"/run": "rw,noexec,size=64k,mode=1770,uid=5"}))
    assert made == Mount(kind="tmpfs", target="/run", size_bytes=65536, mode=0o1770, options=("noexec", "uid=5"))
    (made,) = mounts_of(HostConfig(Tmpfs={"/run": "ro"}))
    assert made.read_only
    for options in ("bogus", "mode=9", "mode=77777", "size=x"):
        with pytest.raises(Invalid):
            mounts_of(HostConfig(Tmpfs={"/run": options}))


def test_one_mount_per_place() -> None:
    with pytest.raises(Invalid, match="Duplicate mount point: /x"):
        mounts_of(HostConfig(Binds=["/a:/x"], Tmpfs={"/x/": ""}))


def test_missing_sources_are_made(tmp_path: pathlib.Path) -> None:
    wanted, file = tmp_path / "a" / "b", tmp_path / "file"
    file.write_text("")
    options = BindOptions(CreateMountpoint=True)
    mounts = [MountBody(Type="bind", Source=str(tmp_path / "c"), Target="/c", BindOptions=options)]
    make_sources(HostConfig(Binds=[f"{wanted}:/x", f"{file}:/y"], Mounts=mounts))
    assert wanted.is_dir()
    assert (tmp_path / "c").is_dir()
    assert file.is_file()
    with pytest.raises(Invalid, match="error while creating mount source path"):
        make_sources(HostConfig(Binds=[f"{file}/below:/x"]))
