"""What the first process says to the others: by environment, and by a file of SLURM's launch."""

import pytest

from decm.checkpoints import first_process as launch

NAMES = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "SLURM_JOB_ID", "SLURM_NTASKS", "TORCHELASTIC_USE_AGENT_STORE", "WORD")


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)


def put(monkeypatch, **facts):
    for name, value in facts.items():
        monkeypatch.setenv(name, str(value))


def test_a_single_process_is_the_first_and_is_told_nothing(tmp_path):
    assert launch.is_first()
    launch.announce_folder("WORD", tmp_path / "a", tmp_path)
    assert launch.inherited_folder("WORD", tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def test_lightnings_children_inherit_it(monkeypatch, tmp_path):
    launch.announce_folder("WORD", tmp_path / "a", tmp_path)
    put(monkeypatch, LOCAL_RANK=1)
    assert launch.inherited_folder("WORD", tmp_path) == tmp_path / "a"


def test_tasks_of_slurm_read_it_from_a_file_of_their_launch_alone(monkeypatch, tmp_path):
    put(monkeypatch, SLURM_JOB_ID=7, SLURM_STEP_ID=0, SLURM_NTASKS=2, SLURM_PROCID=0)
    launch.announce_folder("WORD", tmp_path / "a", tmp_path)
    put(monkeypatch, SLURM_PROCID=1)
    monkeypatch.delenv("WORD")
    assert launch.inherited_folder("WORD", tmp_path) == tmp_path / "a"
    put(monkeypatch, SLURM_RESTART_COUNT=1)
    monkeypatch.setattr(launch, "PATIENCE", 0.1)
    with pytest.raises(TimeoutError, match=r"has not said for 0\.1 s what WORD is"):
        launch.inherited_folder("WORD", tmp_path)


@pytest.mark.parametrize(
    ("facts", "first"),
    [
        ({"RANK": 8, "LOCAL_RANK": 0}, False),
        ({"RANK": 0, "LOCAL_RANK": 0}, True),
        ({"LOCAL_RANK": 1}, False),
        ({"SLURM_PROCID": 3}, False),
        ({"SLURM_PROCID": 0, "LOCAL_RANK": 1}, False),
        ({"SLURM_PROCID": 8, "LOCAL_RANK": 0}, False),
    ],
)
def test_the_first_process_is_told_by_its_rank_among_all_nodes(monkeypatch, facts, first):
    put(monkeypatch, **facts)
    assert launch.is_first() is first
