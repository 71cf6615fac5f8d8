"""The images below a folder or in tar shards: one order for all verbs, through links, and what is wrong is named."""

import os

import numpy as np
import pytest

from decm.data.image_files import find_images, listing_hash
from decm.data.index import scan
from latent_sets import npy, write_tar

SHAPE = (2, 4, 4)
LATENT = npy(np.zeros(SHAPE, np.float16))


def fill(folder, count, suffix="png"):
    folder.mkdir(parents=True, exist_ok=True)
    for k in range(count):
        (folder / f"{k}.{suffix}").write_bytes(b"a picture")
    return folder


@pytest.fixture
def linked(tmp_path):
    """a/{4 images, sub -> 6 images}, b -> the same 6 images."""
    root, store = tmp_path / "links", fill(tmp_path / "store", 6)
    fill(root / "a", 4)
    (root / "a" / "sub").symlink_to(store)
    (root / "b").symlink_to(store)
    return root


def names(root, **how):
    return [image.path.relative_to(root).as_posix() for image in find_images(root, **how)[0]]


def test_links_to_folders_are_followed_and_their_images_belong_to_the_class_of_the_link(linked):
    images, classes, others = find_images(linked)
    assert [image.label for image in images] == [0] * 10 + [1] * 6
    assert names(linked) == [f"a/{k}.png" for k in range(4)] + [
        f"{at}/{k}.png" for at in ("a/sub", "b") for k in range(6)
    ]
    assert (classes, others) == (2, "")


def test_without_labels_the_same_images_are_found_in_the_same_order(linked):
    assert names(linked, labeled=False) == names(linked)


def test_a_loop_of_links_ends_and_is_no_class(linked):
    before = names(linked)
    for at, target in (("a/loop", linked), ("a/sub/back", linked / "a"), ("again", linked), ("up", linked.parent)):
        (linked / at).symlink_to(target)
    (linked / "a" / "itself").symlink_to("itself")
    images, classes, others = find_images(linked)
    found = [image.path.relative_to(linked).as_posix() for image in images]
    assert found == before + [f"b/back/{k}.png" for k in range(4)]  # of a, but not a/sub, which is b
    assert classes == 2
    assert others == "2 without suffix"  # the link to itself, which is no folder, in a and again in b/back


def test_folders_that_all_link_to_each_other_are_read_in_no_time(tmp_path):
    for k in range(12):
        fill(tmp_path / f"{k:02d}", 1)
        for other in range(12):
            (tmp_path / f"{k:02d}" / f"to{other:02d}").symlink_to(tmp_path / f"{other:02d}")
    assert len(find_images(tmp_path)[0]) == 12 * 12  # each folder once a class


def test_images_that_a_folder_holds_itself_are_found_where_no_labels_are_needed(tmp_path):
    fill(tmp_path / "flat", 3)
    assert names(tmp_path / "flat", labeled=False) == ["0.png", "1.png", "2.png"]
    with pytest.raises(ValueError, match=r"has no images.*3 in the folder itself"):
        find_images(tmp_path / "flat")
    fill(tmp_path / "flat" / "a", 2)
    with pytest.raises(ValueError, match=r"images='.*flat' holds 3 images itself \(0\.png.*and 2 in its folders"):
        find_images(tmp_path / "flat", "images", labeled=False)


def test_a_folder_that_cannot_be_read_is_named(linked, monkeypatch):
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("sub"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)  # root may read every folder
    with pytest.raises(ValueError, match="a/sub cannot be read"):
        find_images(linked)


def test_a_pipe_and_a_link_to_nothing_are_named_and_not_waited_for(linked):
    os.mkfifo(linked / "a" / "pipe.png")
    (linked / "a" / "gone.png").symlink_to("nowhere")
    for image in find_images(linked)[0]:
        if image.path.name in ("pipe.png", "gone.png"):
            with pytest.raises(ValueError, match=f"{image.path} cannot be read"):
                image.read()
        else:
            assert image.read() == b"a picture"


def test_names_that_are_no_text_are_found_and_hashed(tmp_path):
    folder = fill(tmp_path / os.fsdecode(b"folder\xe9"), 2)
    (folder / os.fsdecode(b"notes.\xe9")).write_bytes(b"")
    images, _, others = find_images(tmp_path)
    assert len(images) == 2
    assert others.encode() == rb"1 .\udce9"
    assert listing_hash(images, tmp_path) != listing_hash(images[:1], tmp_path)


@pytest.mark.parametrize("label", [b"one", b"-1", b"1.0", b"", b"9" * 5000, b"\xff", b"1 2"])
def test_a_label_that_is_no_whole_number_is_refused_by_shard_and_record(tmp_path, label):
    write_tar(tmp_path / "s.tar", {"0.png": b"x", "0.cls": b"0", "1.png": b"x", "1.cls": label})
    with pytest.raises(ValueError, match=r"s\.tar, record '/1' at byte \d+: the label is .*expected a whole number"):
        find_images(tmp_path)
    write_tar(tmp_path / "s.tar", {"0.latent.npy": LATENT, "0.cls": b"0", "1.latent.npy": LATENT, "1.cls": label})
    with pytest.raises(ValueError, match=r"s\.tar is damaged at byte \d+: cls of '/1' .*expected a whole number"):
        scan(tmp_path / "s.tar")


@pytest.mark.parametrize(
    "label", [np.array([0.5]), np.array([-1]), np.array([np.nan]), np.array(["1"]), np.array([2**40])]
)
def test_an_array_of_labels_that_are_no_whole_numbers_is_refused_by_shard_and_record(tmp_path, label):
    write_tar(tmp_path / "s.tar", {"0.latent.npy": LATENT, "0.label.npy": npy(label)})
    with pytest.raises(ValueError, match=r"s\.tar .*label\.npy of '/0'.*expected whole numbers"):
        scan(tmp_path / "s.tar")


def test_whole_labels_of_any_type_are_taken(tmp_path):
    files = {}
    for k, dtype in enumerate((np.uint8, np.int32, np.float32, np.int64)):
        files |= {f"{k}.latent.npy": LATENT, f"{k}.label.npy": npy(np.array([k], dtype))}
    labels = scan(write_tar(tmp_path / "s.tar", files)).labels
    assert labels.tolist() == [0, 1, 2, 3]
    assert labels.dtype == np.int64


def test_two_images_of_one_record_are_refused_and_other_files_are_counted(tmp_path):
    files = {"0.png": b"x", "0.cls": b"0", "0.txt": "ä".encode(), "1.PNG": b"x", "1.cls": b"1", "1.gif": b"x"}
    write_tar(tmp_path / "s.tar", files)
    assert find_images(tmp_path)[1:] == (2, "1 .gif, 1 .txt")
    write_tar(tmp_path / "s.tar", {**files, "1.jpg": b"x"})
    with pytest.raises(ValueError, match=r"s\.tar, record '/1': found images as \.png and \.jpg"):
        find_images(tmp_path)


def test_a_shard_that_was_cut_off_since_it_was_listed_is_named_with_its_record(tmp_path):
    shard = write_tar(tmp_path / "s.tar", {"0.png": b"x" * 600, "0.cls": b"0"})
    (image,) = find_images(tmp_path)[0]
    assert image.read() == b"x" * 600
    os.truncate(shard, 700)
    with pytest.raises(ValueError, match=r"'0' at byte 512 of .*s\.tar has 188 of its 600 bytes"):
        image.read()


def test_whatever_a_shard_holds_it_is_read_or_refused_by_name(tmp_path):
    """Changed bytes and cuts, most of them with the checksums of their headers made to fit."""
    rng = np.random.default_rng(0)
    files = {f"é{k}.latents.npy": npy(rng.normal(size=(2, *SHAPE)).astype(np.float16)) for k in range(2)}
    files |= {f"é{k}.labels.npy": npy(np.arange(2)) for k in range(2)}
    files |= {"x.latent.npy": LATENT, "x.cls": b"3", "y.png": b"x", "y.cls": b"1", "z.png": b"x", "z.cls": b"2"}
    intact = write_tar(tmp_path / "s.tar", files).read_bytes()
    used, shard, refused = np.flatnonzero(np.frombuffer(intact, np.uint8)), tmp_path / "s.tar", []
    for _ in range(400):
        changed = bytearray(intact[: rng.integers(len(intact)) if rng.random() < 0.2 else None])
        for at in rng.choice(used, rng.integers(1, 4)):
            if at < len(changed):
                changed[at] = rng.integers(256)
        for block in range(0, len(changed) - 511, 512):
            if changed[block + 257 : block + 262] == b"ustar" and rng.random() < 0.8:
                changed[block + 148 : block + 156] = b" " * 8
                changed[block + 148 : block + 156] = b"%06o\0 " % sum(changed[block : block + 512])
        shard.write_bytes(changed)
        for read in (lambda: scan(shard), lambda: [image.read() for image in find_images(tmp_path)[0]]):
            try:
                read()
            except ValueError as error:
                refused.append(str(error))
    assert [message for message in refused if str(tmp_path) not in message] == []
    assert 200 < len(refused) < 700
