import os

from bireme.linux import tty


def test_a_terminal_echoes_and_has_a_size() -> None:
    terminal = tty.open_terminal("/dev/ptmx")
    try:
        tty.set_size(terminal.master, 33, 101)
        assert tty.get_size(terminal.slave) == (33, 101)
        os.write(terminal.slave, b"x\n")
        assert os.read(terminal.master, 10) == b"x\r\n"
        before = tty.make_raw(terminal.slave)
        os.write(terminal.slave, b"y\n")
        assert os.read(terminal.master, 10) == b"y\n"
        tty.restore(terminal.slave, before)
        os.write(terminal.slave, b"z\n")
        assert os.read(terminal.master, 10) == b"z\r\n"
    finally:
        os.close(terminal.master)
        os.close(terminal.slave)


def test_ioctl_numbers_match_the_headers() -> None:
    from bireme.linux.ioctl import io, ior, iow, iowr

    assert ior("T", 0x30, 4) == 0x80045430
    assert iow("T", 0x31, 4) == 0x40045431
    assert io("T", 0x41) == 0x5441
    assert iowr(0xAE, 0x05, 8) == 0xC008AE05
