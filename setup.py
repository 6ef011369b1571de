"""What pyproject.toml cannot say: the configs, which lie beside the package, go into it when it is installed."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["vfn*"]), "vfn.conf"],
    package_dir={"vfn.conf": "conf"},
)
