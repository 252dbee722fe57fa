"""The wheel carries the static programs of guest/, so it is a platform wheel that any CPython 3 can use."""

import subprocess
from pathlib import Path

from setuptools import Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

GUEST = Path(__file__).parent / "guest"


class PlatformDistribution(Distribution):
    def has_ext_modules(self) -> bool:
        return True


class PlatformWheel(bdist_wheel):
    def get_tag(self) -> tuple[str, str, str]:
        return ("py3", "none", super().get_tag()[2])


class BuildWithGuest(build_py):
    def run(self) -> None:
        if (GUEST / "Makefile").exists() and not self.editable_mode:
            subprocess.run(["make", "-s", "-C", GUEST], check=True)
        super().run()


setup(
    distclass=PlatformDistribution,
    cmdclass={"bdist_wheel": PlatformWheel, "build_py": BuildWithGuest},
)
