"""The page of a run says what its folder says, of any folder, and lets nothing of it act as markup."""

import copy
import dataclasses
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from decm.report.page import MOVING, MOVING_BYTES, page
from decm.runs.run import INCIDENTS, ROLLBACKS, Run, flat, varying_settings
from decm.training.callbacks.reliability import guard
from run_folders import CONFIG, RESULTS, make_run, metrics_text


class Reader(HTMLParser):
    """The texts of a page by tag, its tables row by row, and every address in it."""

    def __init__(self, text):
        super().__init__()
        self.open, self.rows, self.addresses, self.tags = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [value for name, value in attrs if name in ("src", "href", "srcset", "xlink:href")]
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
        self.open.append(tag)

    def handle_endtag(self, tag):
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data):
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data.strip()


def changed(**changes):
    config = copy.deepcopy(CONFIG)
    for key, value in changes.items():
        *path, last = key.split("__")
        node = config
        for name in path:
            node = node[name]
        node[last] = value
    return config


def test_the_table_has_the_figures_of_the_results(tmp_path):
    text = page(make_run(tmp_path / "a"))
    rows = Reader(text).rows
    assert ["NFE", "1", "2"] in rows
    assert ["teacher", "9.500", "1.250"] in rows
    assert ["student", "1.500", "1.125"] in rows
    assert ["sampler", "jump", "n2n then consistency"] in rows
    assert ["accuracy", "0.900", "0.950"] in rows
    for figure in ("4,321", "1,020", "100 s", "123,456", "reused", "floor 0.125", "step 40 of 40"):
        assert figure in text


def test_everything_is_within_the_file(tmp_path):
    text = page(make_run(tmp_path / "a"))
    addresses = Reader(text).addresses
    assert len(addresses) > 5
    assert [address[:40] for address in addresses if not address.startswith(("data:", "#"))] == []
    assert not re.search(r"@import|url\((?!#)", text)


def test_each_kind_of_curve_has_a_chart_if_it_was_logged(tmp_path):
    run = make_run(tmp_path / "a")
    titles = ["Loss", "Tangent norm", "Distance in the loop", "Gradient norm", "Throughput"]
    assert [title for title in titles if f"<h3>{title}</h3>" in page(run)] == titles
    (run.folder / "metrics.csv").write_text("step,loss/consistency\n0,1.0\n1,nan\n")
    assert [title for title in titles if f"<h3>{title}</h3>" in page(run)] == ["Loss"]


def test_changed_settings_stand_beside_the_experiments(tmp_path):
    config = changed(optimizer__lr=0.01, method__consistency__weight=2.0)
    rows = Reader(page(make_run(tmp_path / "a", config))).rows
    assert ["optimizer.lr", "0.001", "0.01"] in rows
    assert ["method.consistency.weight", "1", "2"] in rows
    same = page(make_run(tmp_path / "b"))
    assert "Nothing: the settings are those of" in same


def test_an_objectives_segments_and_own_numbers_are_told():
    config = changed(method={"consistency": {"weight": 5.0}, "instantaneous": {"weight": 1.0}})
    assert varying_settings([CONFIG, config]) == [
        ("method", "[consistency]", "[consistency,instantaneous]"),
        ("method.consistency.weight", "1", "5"),
    ]
    assert "runs" not in flat(CONFIG)


def test_a_finished_run_took_all_its_steps_whatever_was_logged_last(tmp_path):
    run = make_run(tmp_path / "a")
    (run.folder / "metrics.csv").write_text(metrics_text(20))
    assert "step 40 of 40" in page(run)
    assert "step 20 of 40" in page(dataclasses.replace(run, state="unfinished"))


def test_the_lead_is_of_the_fewest_and_the_teachers_most_steps_in_whatever_order(tmp_path):
    results = {**RESULTS, "student": {"50": 1.0, "9": 2.0, "1": 3.0}, "teacher": {"50": 4.0, "9": 5.0, "1": 6.0}}
    text = page(make_run(tmp_path / "a", results=results))
    assert "<strong>3.000</strong> at 1 step;" in text
    assert "its teacher has 4.000 at 50." in text


def test_a_page_is_drawn_of_settings_that_lack_what_it_shows(tmp_path):
    config = changed()
    for key in ("max_steps", "batch_size", "seed", "optimizer"):
        del config[key]
    text = page(make_run(tmp_path / "a", config))
    assert "step 40</span>" in text.replace("\n", "")
    assert "batches of" not in text


@pytest.mark.parametrize("over", [0, 1])
def test_a_moving_picture_is_on_the_page_or_said_to_be_left_out(tmp_path, over):
    run = make_run(tmp_path / "a")
    assert MOVING not in page(run)
    noise = np.random.RandomState(0).randint(0, 256, (2, 300, 600, 3), dtype=np.uint8)
    first, second = map(Image.fromarray, noise)
    first.save(run.folder / MOVING, save_all=True, append_images=[second], lossless=True)
    with (run.folder / MOVING).open("ab") as file:
        file.truncate(MOVING_BYTES + over)  # zeros behind the end, which readers do not look at
    text = page(run)
    assert ("prefers-reduced-motion: reduce" in text) != bool(over)
    assert ("<code>flow.webp</code> is left out, since it is larger than 1.5 MB" in text) == bool(over)


def test_incidents_and_rollbacks_are_told(tmp_path):
    run = make_run(tmp_path / "a")
    assert "None: no step was skipped" in page(run)
    (run.folder / INCIDENTS).mkdir()
    for step in range(30):
        facts = {"step": step, "rank": 0, "seed": 3, "gradient_norm": float("nan")}
        (run.folder / INCIDENTS / f"step_{step:08d}_seed_3_rank_0.json").write_text(json.dumps(facts))
    guard.save_rollback(run.folder, "10 steps in a row were not finite", None)
    text = page(run)
    assert "None: no step was skipped" not in text
    assert "Went back to <code>the start</code>: 10 steps in a row were not finite." in text
    assert ["0", "0", "3", "nan"] in Reader(text).rows
    assert "The first 20 of 30." in text


def test_the_names_of_the_guards_files_are_the_guards():
    assert (INCIDENTS, ROLLBACKS) == (guard.INCIDENTS, guard.ROLLBACKS)


def test_an_unfinished_run_has_a_page_with_what_there_is(tmp_path):
    run = make_run(tmp_path / "a", results=None)
    for path in run.folder.glob("*.png"):
        path.unlink()
    (run.folder / "metrics.csv").write_text(metrics_text(10) + "10,0.")  # the last line is cut off
    text = page(run)
    assert "unfinished" in text
    assert "step 10 of 40" in text
    assert "<img" not in text
    assert "<h3>Loss</h3>" in text
    assert "As of the newest preview" not in text


def test_a_folder_with_settings_alone_has_a_page(tmp_path):
    (tmp_path / "a").mkdir()
    text = page(Run(tmp_path / "a", CONFIG, {}, None, "unfinished"))
    assert "No figures yet" in text
    assert "There is no experiment of this name" in text


def test_a_teacher_that_was_trained_for_another_run_has_a_page(tmp_path):
    results = {"experiment": "toy", "seed": 3, "seconds": {"distill": 12.0}}
    text = page(make_run(tmp_path / "a", results=results))
    assert "No figures yet" in text
    assert "12 s" in text


def test_a_teacher_that_was_scored_alone_has_a_page(tmp_path):
    results = {**RESULTS, "student": {}, "seconds": {"evaluate": 3.0}}
    del results["forward_equivalents"]
    text = page(make_run(tmp_path / "a", results=results))
    rows = Reader(text).rows
    assert ["teacher", "9.500", "1.250"] in rows
    assert not any(row[0] == "student" for row in rows if row)
    assert "<strong>9.500</strong> at 1 step" in text


def test_the_newest_preview_stands_in_for_pictures_that_are_not_there_yet(tmp_path):
    run = make_run(tmp_path / "a", results=None)
    (run.folder / "previews").mkdir()
    (run.folder / "comparison.png").rename(run.folder / "previews" / "step_000010.png")
    text = page(run)
    assert "As of the newest preview" in text
    assert text.count("Samples, ") == 3


def test_text_of_a_run_is_no_markup(tmp_path):
    evil = "<script>alert(1)</script>"
    run = make_run(tmp_path / "a", changed(name=evil, optimizer__lr=evil), results={**RESULTS, "reference": evil})
    (run.folder / "metrics.csv").write_text(f"step,loss/{evil},grad_norm\n0,1,$x_$\n1,2,3\n")
    (run.folder / "command.txt").write_text(evil)
    text = page(run)
    assert "script" not in Reader(text).tags
    assert text.count("&lt;script&gt;") >= 5


@pytest.mark.parametrize("side", [8, 256])
def test_a_page_stays_small_however_large_its_pictures_are(tmp_path, side):
    """Noise does not compress; 100 pictures of 256 x 256 are 20 MB as PNG."""
    import torch

    from decm.evaluation.pictures import ImagePainter
    from helpers import seeded

    run = make_run(tmp_path / "a")
    large = ImagePainter(lambda x: x, columns=10, side=8)
    noise = torch.randint(256, (100, 3, side, side), generator=seeded(0), dtype=torch.uint8)
    large.grid(noise, run.folder / "samples_nfe1.png")
    large.compare({"1 step": noise[:10]}, run.folder / "comparison.png")
    assert ((run.folder / "samples_nfe1.png").stat().st_size > 10_000_000) == (side == 256)
    frame = Image.fromarray(np.random.RandomState(0).randint(0, 256, (300, 600, 3), dtype=np.uint8))
    frame.save(run.folder / MOVING, save_all=True, append_images=[frame.rotate(180)], lossless=True)
    with (run.folder / MOVING).open("ab") as file:
        file.truncate(MOVING_BYTES)
    assert len(page(run)) < 5_000_000
