"""What a run folder says, also one that was cut off or damaged."""

import pytest

from decm.runs.run import FINISHED, INCIDENTS, ROLLBACKS, UNFINISHED, Run


def run(folder, state=UNFINISHED, max_steps=100000):
    return Run(folder, {"max_steps": max_steps}, {}, None, state)


def test_the_last_step_is_read_from_the_end_of_a_long_file_that_may_be_cut_off(tmp_path):
    assert run(tmp_path).last_step() == 0
    text = "step,a\n" + "".join(f"{k},{k / 7}\n" for k in range(5000))
    (tmp_path / "metrics.csv").write_text(text)
    assert run(tmp_path).last_step() == 5000
    (tmp_path / "metrics.csv").write_text(text + "5000,1")
    assert run(tmp_path).last_step() == 5000
    assert run(tmp_path, max_steps=4000).last_step() == 4000
    (tmp_path / "metrics.csv").write_text("step,a\n")
    assert run(tmp_path).last_step() == 0


def test_a_finished_run_has_done_all_its_steps_however_seldom_it_logs(tmp_path):
    (tmp_path / "metrics.csv").write_text("step,a\n9,1.0\n19,1.0\n")
    assert run(tmp_path, FINISHED, 30).last_step() == 30
    assert run(tmp_path, UNFINISHED, 30).last_step() == 20
    assert run(tmp_path, FINISHED, None).last_step() == 20


def test_a_rollback_whose_line_was_cut_off_is_left_out(tmp_path):
    (tmp_path / ROLLBACKS).write_text('{"why": "a", "to": "b"}\n{"why": "c", "t')
    assert run(tmp_path).rollbacks() == [{"why": "a", "to": "b"}]


@pytest.mark.parametrize("text", ["{", "[1]", "\xff"])
def test_damaged_incidents_and_rollbacks_are_named(tmp_path, text):
    (tmp_path / INCIDENTS).mkdir()
    (tmp_path / INCIDENTS / "step_1.json").write_bytes(text.encode("latin-1"))
    (tmp_path / ROLLBACKS).write_bytes(f"{text}\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"step_1\.json is damaged"):
        run(tmp_path).incidents()
    with pytest.raises(ValueError, match=r"rollbacks\.jsonl is damaged"):
        run(tmp_path).rollbacks()
