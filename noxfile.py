"""Checks in clean environments: ``nox`` runs all of them, ``nox -l`` lists them.

    nox -s tests-3.12             # the whole suite on one Python
    nox -s quick                  # the tests of about two minutes, on every installed Python
    nox -s lint types             # the linters and the type checker
    nox -s tests-3.12 -- -k gguf  # words after -- go to pytest

On Linux, set PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu first: pip then installs
PyTorch's CPU build, without the gigabytes of CUDA.
"""

import nox

nox.options.sessions = ["lint", "types", "tests"]
nox.options.error_on_missing_interpreters = False
nox.options.reuse_venv = "yes"

PYTHONS = ["3.10", "3.11", "3.12", "3.13"]
REQUIREMENTS = ("-r", "requirements-dev.txt")


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Run the whole suite and report the coverage."""
    session.install(*REQUIREMENTS)
    # From 3.12 on, coverage costs a few percent of the time instead of half of it.
    cheap = session.python in ("3.12", "3.13")
    env = {"COVERAGE_CORE": "sysmon"} if cheap else {}
    session.run("python", "-m", "pytest", "--cov", *session.posargs, env=env)


@nox.session(python=PYTHONS)
def quick(session: nox.Session) -> None:
    """Run the suite without the tests marked as slow."""
    session.install(*REQUIREMENTS)
    session.run("python", "-m", "pytest", "-m", "not slow", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, imports, docstrings and format."""
    session.install(*REQUIREMENTS)
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Check the types: strictly in the package, the bodies of functions in the tests."""
    session.install(*REQUIREMENTS)
    session.run("mypy")
