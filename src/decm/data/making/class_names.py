"""What the classes of a set are called: the folders of its source, or the lines of a text file."""

from collections.abc import Sequence
from pathlib import Path
from unicodedata import normalize

from decm.data.image_files import class_folders
from decm.data.manifest import named


def names_from(file: str | None, source: str | None = None) -> tuple[str, ...] | None:
    """Names by label: the lines of `file` where it is set, else the class folders of `source`; None: unknown.

    Raises ValueError for a file that is no text, has an empty line between others, or gives a folder's name to another.
    """
    folders = class_folders(source) if source is not None else None
    if file is None:
        return folders
    try:
        lines = Path(file).read_text(encoding="utf-8-sig").rstrip().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"class_names={file!r} cannot be read ({error}). Expected a text file in UTF-8.") from error
    names = [line.strip() for line in lines]
    if not names or not all(names):
        found = f"line {names.index('') + 1} is empty" if names else "it is empty"
        raise ValueError(f"class_names={file!r}: {found}; expected a name on each line, the first of label 0.")
    _check_order(names, folders or (), f"class_names={file!r}")
    return named(names)


def _check_order(names: Sequence[str], folders: Sequence[str], key: str) -> None:
    """Raise ValueError where a folder's own name stands in the line of another folder."""
    called, own = ([normalize("NFC", name).casefold() for name in given] for given in (names, folders))
    for label, (name, folder) in enumerate(zip(called, own, strict=False)):
        if name != folder and name in own:
            raise ValueError(
                f"{key}: line {label + 1} is {names[label]!r}, but label {label} is the folder {folders[label]!r}, and "
                f"{folders[own.index(name)]!r} is label {own.index(name)}. Lines are in the order of the labels; "
                "without class_names the classes are called as their folders."
            )
