"""What pyproject.toml cannot say: the packages of two folders, and the ready recipes beside them as one more."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages("plugin"), *find_packages("strategies"), "lloydmax.recipes"],
    package_dir={
        "lloydmax": "plugin/lloydmax",
        "lloydmax_strategies": "strategies/lloydmax_strategies",
        "lloydmax.recipes": "recipes",
    },
)
