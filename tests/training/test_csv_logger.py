"""metrics.csv: one line a step, columns that grow, and a resumed run in the same file."""

import csv
import os
from dataclasses import replace
from types import SimpleNamespace

import pytest

from decm.data.manifest import Manifest, manifest_of
from decm.experiment.callbacks import ConfigInCheckpoint
from decm.training.csv_logger import KEPT, MetricsCSV


def lines(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def logged(folder, *entries):
    logger = MetricsCSV(folder)
    for step, metrics in entries:
        logger.log_metrics(metrics, step)
    logger.save()
    return logger


def test_figures_of_one_step_share_a_line_and_columns_grow(tmp_path):
    logged(tmp_path, (0, {"loss/a": 1.0, "epoch": 0}), (1, {"loss/a": 0.5}), (1, {"fd/1": 7.0}), (2, {"fd/1": 6.0}))
    assert lines(tmp_path) == [
        {"step": "0", "loss/a": "1.0", "fd/1": ""},
        {"step": "1", "loss/a": "0.5", "fd/1": "7.0"},
        {"step": "2", "loss/a": "", "fd/1": "6.0"},
    ]


def test_floats_are_written_so_that_they_read_back_bitwise(tmp_path):
    values = [1 / 3, 1e-300, 0.1 + 0.2]
    logged(tmp_path, *((k, {"x": value}) for k, value in enumerate(values)))
    assert [float(line["x"]) for line in lines(tmp_path)] == values


def test_a_resumed_run_goes_on_in_the_same_file(tmp_path):
    logged(tmp_path, (0, {"loss/a": 1.0}), (1, {"loss/a": 0.5}))
    logged(tmp_path, (2, {"loss/a": 0.25, "fd/1": 3.0}))
    assert [(line["step"], line["loss/a"], line["fd/1"]) for line in lines(tmp_path)] == [
        ("0", "1.0", ""),
        ("1", "0.5", ""),
        ("2", "0.25", "3.0"),
    ]


def test_lines_beyond_the_checkpoint_are_forgotten(tmp_path):
    """They will be logged again; without that a metric that is no longer logged would stand there."""
    logged(tmp_path, *((step, {"loss/a": float(step)}) for step in range(6)))
    logger = MetricsCSV(tmp_path)
    logger.forget_after(3)
    logger.save()
    assert [int(line["step"]) for line in lines(tmp_path)] == [0, 1, 2, 3]


def test_steps_stay_in_order_whenever_they_were_logged(tmp_path):
    logged(tmp_path, (5, {"a": 5.0}), (1, {"a": 1.0}), (3, {"a": 3.0}))
    assert [line["step"] for line in lines(tmp_path)] == ["1", "3", "5"]


def test_the_file_is_there_without_a_metric_and_no_part_is_left(tmp_path):
    logged(tmp_path).finalize("success")
    assert (tmp_path / "metrics.csv").read_text().strip() == "step"
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.csv"]


def test_the_file_is_no_older_than_a_checkpoint(tmp_path):
    """What a callback logged just before a checkpoint is not lost if the process is killed just after it."""
    logger, checkpoint = MetricsCSV(tmp_path), {}
    logger.log_metrics({"fd/1": 7.0}, 2)
    assert not (tmp_path / "metrics.csv").exists()
    extra = {"kind": "latents", "shards": [1]}
    manifest = Manifest(
        name="tiny",
        shape=(1, 2, 2),
        num_classes=0,
        mean=(0.5,),
        std=(0.25,),
        split={"train": 1},
        content_hash="hash",
        origin="here",
        extra=extra,
    )
    ConfigInCheckpoint({"seed": 0}, {"path": "a", "sha256": "0"}, manifest).on_save_checkpoint(
        SimpleNamespace(loggers=[logger]), None, checkpoint
    )
    assert lines(tmp_path) == [{"step": "2", "fd/1": "7.0"}]
    assert checkpoint["decm_config"] == {"seed": 0}
    assert checkpoint["teacher"] == {"path": "a", "sha256": "0"}
    assert checkpoint["code_version"]
    assert manifest_of(checkpoint["manifest"]) == replace(manifest, extra={"kind": "latents"})


@pytest.mark.parametrize("step", [0, None])
def test_a_metric_without_a_step_is_of_step_zero(tmp_path, step):
    logged(tmp_path, (step, {"a": 1.0}))
    assert lines(tmp_path) == [{"step": "0", "a": "1.0"}]


def test_lines_are_appended_and_memory_holds_no_more_than_some(tmp_path):
    """Bytes written stay in proportion to the lines: the file is the same inode from the second save on."""
    logger = logged(tmp_path, (0, {"a": 0.0, "b": 0.0}))
    inode = (tmp_path / "metrics.csv").stat().st_ino
    for step in range(1, 1000):
        logger.log_metrics({"a": float(step)}, step)
        assert len(logger.rows) <= KEPT
    logger.save()
    assert (tmp_path / "metrics.csv").stat().st_ino == inode
    assert [float(line["a"]) for line in lines(tmp_path)] == list(range(1000))


def test_figures_join_the_last_line_after_it_was_written_and_earlier_ones_too(tmp_path):
    logger = logged(tmp_path, (1, {"a": 1.0, "b": 1.0}), (2, {"a": 2.0}))
    for step in (2, 1):
        logger.log_metrics({"b": 10.0 * step}, step)
        logger.save()
    assert [tuple(line.values()) for line in lines(tmp_path)] == [("1", "1.0", "10.0"), ("2", "2.0", "20.0")]


def test_a_column_that_appears_late_stands_in_every_line(tmp_path):
    logger = logged(tmp_path, *((step, {"a": float(step)}) for step in range(30)))
    logger.log_metrics({"late": 1.0}, 30)
    logger.finalize("success")
    assert [line["late"] for line in lines(tmp_path)] == [""] * 30 + ["1.0"]
    assert len(lines(tmp_path)[-1]) == 3


@pytest.mark.parametrize("cut", [1, 3, 6, 9])
def test_a_line_that_was_cut_off_is_left_out_and_logged_again(tmp_path, cut):
    """A process that was killed while it wrote."""
    logged(tmp_path, *((step, {"a": step + 0.25, "b": step + 0.5}) for step in range(4)))
    path = tmp_path / "metrics.csv"
    os.truncate(path, path.stat().st_size - cut)
    logged(tmp_path, (3, {"a": 3.25, "b": 3.5}), (4, {"a": 4.25, "b": 4.5}))
    assert [(line["step"], line["a"], line["b"]) for line in lines(tmp_path)] == [
        (str(step), str(step + 0.25), str(step + 0.5)) for step in range(5)
    ]


def test_a_logger_that_logs_nothing_leaves_the_file_as_it_is(tmp_path):
    logged(tmp_path, (1, {"a": 1.0}))
    inode = (tmp_path / "metrics.csv").stat().st_ino
    MetricsCSV(tmp_path)
    assert (tmp_path / "metrics.csv").stat().st_ino == inode


def test_who_reads_the_file_while_it_is_written_sees_whole_lines_or_one_that_is_cut_off(tmp_path):
    """Every state of the file is what it was, and more: no line becomes another one's beginning."""
    logger, before = MetricsCSV(tmp_path), b""
    path = tmp_path / "metrics.csv"
    for step in range(40):
        inode = path.stat().st_ino if path.is_file() else None
        logger.log_metrics({"a": step / 3, "b": step / 7}, step)
        logger.save()
        if step % 5 == 4:
            logger.log_metrics({"fd/1": step / 11}, step)  # joins the line that is in the file
            logger.save()
        now = path.read_bytes()
        assert now.startswith(before) or path.stat().st_ino != inode
        before = now
    assert [line["fd/1"] for line in lines(tmp_path)] == [str(k / 11) if k % 5 == 4 else "" for k in range(40)]
