"""What the classes of a set are called: the folders of its source, or the lines of a text file."""

from pathlib import Path

from decm.data.image_files import class_folders
from decm.data.manifest import named


def names_from(file: str | None, source: str | None = None) -> tuple[str, ...] | None:
    """Names by label: the lines of `file` where it is set, else the class folders of `source`; None: unknown.

    Raises ValueError for a file that is no text or has an empty line between others.
    """
    if file is None:
        return class_folders(source) if source is not None else None
    try:
        lines = Path(file).read_text(encoding="utf-8-sig").rstrip().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"class_names={file!r} cannot be read ({error}). Expected a text file in UTF-8.") from error
    names = [line.strip() for line in lines]
    if not names or not all(names):
        found = f"line {names.index('') + 1} is empty" if names else "it is empty"
        raise ValueError(f"class_names={file!r}: {found}; expected a name on each line, the first of label 0.")
    return named(names)
