"""Help and config errors answer without importing what only a run needs."""

import pytest

from commands import in_a_process

HEAVY = ("torch", "lightning", "wandb", "sklearn", "matplotlib", "timm")
REPORT = f"""
import atexit, sys
atexit.register(lambda: print("loaded:", *[name for name in {HEAVY} if name in sys.modules]))
"""


def loaded(*arguments):
    """(exit code, the heavy packages that were imported, what was said)."""
    answer = in_a_process(*arguments, before=REPORT)
    last = answer.out.splitlines()[-1]
    assert last.startswith("loaded:"), answer.said
    return answer.code, last.split()[1:], answer.said


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--help"], 0, "decm train experiment=decm_digits"),
        (["train", "--help"], 0, "max_steps: 1000"),
        (["train", "--cfg", "job", "experiment=decm_2d"], 0, "components: 8"),
        (["train", "method=foo"], 2, "Could not find 'method/foo'"),
        (["train", "ema.decay=high"], 2, "full_key: ema.decay"),
        (["train", "foo=1"], 2, "Could not override 'foo'"),
        (["train", "max_steps=0"], 2, "max_steps=0"),
        (
            ["train", "teacher=checkpoint", "teacher.path=nowhere", "data=folder", "data.path=none"],
            2,
            "2 files are missing",
        ),
        (["sample", "nfe=many"], 2, "full_key: nfe"),
        (["fly"], 2, "unknown verb 'fly'"),
    ],
)
def test_help_and_config_errors_import_nothing_heavy(arguments, code, said):
    exit_code, heavy, text = loaded(*arguments)
    assert exit_code == code
    assert said in text
    assert heavy == []


@pytest.mark.slow
def test_a_mistake_that_only_a_run_can_find_does_import_it():
    """The negative control: the report does see what is imported."""
    code, heavy, text = loaded("train", "jvp=magic")
    assert code == 2
    assert "magic" in text
    assert "torch" in heavy


def test_the_version_is_the_packages():
    from decm import __version__

    answer = in_a_process("--version")
    assert (answer.code, answer.out.strip()) == (0, f"decm {__version__}")
