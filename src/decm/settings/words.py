"""The words of the command line before Hydra parses them: paths as typed, full paths of flags, what a job inherits."""

import contextlib
import re
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from decm.settings.quoting import escape_interpolation, quote

# Settings of constructors that are paths, by the last part of their name, below these nodes.
PATH_NAMES = ("path", "reference", "weights")
OF_CONSTRUCTORS = ("data.", "evaluation.protocol.")
# Paths among Hydra's own settings, and whether it is a list of them. Hydra does not sweep over its own settings.
OF_HYDRA = {"hydra.sweep.dir": False, "hydra.run.dir": False, "hydra.searchpath": True}
LABELS = "labels"  # of `decm sample`: labels and names of classes
OPTIONAL_GROUPS = ("sweep", "launcher", "experiment", "times")
FOLDER_FLAGS = ("-cd", "--config-dir", "-cp", "--config-path")
REFUSED_FLAGS = {
    "-cn": "the configuration is that of the verb; add your own files with --config-dir",
    "--config-name": "the configuration is that of the verb; add your own files with --config-dir",
    "--experimental-rerun": "it runs what a pickled file contains; start again with the command in command.txt",
}
# Hydra's settings about how a sweep is done, which are not those of one of its jobs.
OF_SWEEPS = ("hydra.mode", "hydra.sweep.", "hydra.sweeper", "hydra.launcher", "hydra/sweeper", "hydra/launcher")
WORD = re.compile(r"(?P<key>\+{0,2}[\w./@-]+)=(?P<text>.*)", re.DOTALL)
QUOTED = re.compile(r"\s*(['\"]).*?(?<!\\)(?:\\\\)*\1\s*(?=,|\Z)", re.DOTALL)
NAMED = re.compile(r"\$\{\s*([^:{}]*?)\s*\}")  # the setting that an interpolation names; a resolver has a colon
SWEEP_FUNCTION = re.compile(r"(choice|glob|sort|shuffle|tag)\(.*\)", re.DOTALL)


@cache
def path_settings(verb: str) -> dict[str, bool]:
    """{setting: whether it is a list} of a verb's settings that are paths: those that the schema marks as PathText."""
    from decm.settings.schema import VERBS

    return OF_HYDRA | _paths_of(VERBS[verb])


def is_path(verb: str, key: str) -> bool:
    """Whether a setting is a path, or a list of paths."""
    of_constructor = key.startswith(OF_CONSTRUCTORS) and key.rpartition(".")[2] in PATH_NAMES
    return key in path_settings(verb) or of_constructor


def _paths_of(schema: Any, prefix: str = "") -> dict[str, bool]:
    found, hints = dict[str, bool](), get_type_hints(schema, include_extras=True)
    for name in (field.name for field in fields(schema)):
        hint, key = hints[name], f"{prefix}{name}"
        if "path" in _marks(hint):
            found[key] = get_origin(hint) is list or any(get_origin(part) is list for part in get_args(hint))
        if is_dataclass(hint):
            found |= _paths_of(hint, f"{key}.")
    return found


def _marks(hint: Any) -> set[str]:
    """What Annotated says about a type or a part of it."""
    own = {mark for mark in getattr(hint, "__metadata__", ()) if isinstance(mark, str)}
    return own.union(*(_marks(part) for part in get_args(hint)))


def quote_paths(verb: str, words: list[str]) -> list[str]:
    """The words, with the values of path settings such that Hydra reads the text that was typed.

    What is quoted, null, a list for a list of paths, or has a valid interpolation keeps its meaning. In a sweep commas
    separate values.
    """
    paths, sweep = path_settings(verb), is_sweep(words)
    found = []
    for word in words:
        match = WORD.fullmatch(word)
        key = match["key"].lstrip("+") if match else ""
        if match is not None and key == LABELS:
            found.append(f"{match['key']}={quote_labels(match['text'])}")
            continue
        if match is None or not is_path(verb, key):
            found.append(word)
            continue
        text = match["text"]
        if paths.get(key) and text.startswith("[") and text.endswith("]"):
            text = f"[{_each(text[1:-1])}]"
        elif sweep and key not in OF_HYDRA:
            text = text if SWEEP_FUNCTION.fullmatch(text) else _each(text)
        else:
            text = as_hydra_reads(text)
        found.append(f"{match['key']}={text}")
    return found


def quote_labels(text: str) -> str:
    """Labels and names of classes, `[0,zoë]`, such that Hydra reads the names as typed; one alone is a list of one."""
    if text == "null":
        return text
    inner = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    return f"[{_each(inner, lambda value: value if _parsed(value) is not None else quote(value))}]" if inner else text


def is_sweep(words: list[str]) -> bool:
    """Whether the words start a sweep."""
    given = [word for word in words if word.startswith("sweep=") and word not in ("sweep=null", "sweep=")]
    return bool(given or {"-m", "--multirun", "hydra.mode=MULTIRUN"} & set(words)) and "hydra.mode=RUN" not in words


def _each(text: str, as_read: Callable[[str], str] | None = None) -> str:
    """Values that commas separate, unless the commas are in quotes; each as `as_hydra_reads` or `as_read` gives it."""
    values, rest = [], text
    while True:
        match = QUOTED.match(rest)
        end = match.end() if match else rest.find(",")
        value, rest = (rest, "") if end < 0 else (rest[:end], rest[end:])
        values.append((as_read or as_hydra_reads)(value.strip()))
        if not rest:
            return ",".join(values)
        rest = rest[1:]


def as_hydra_reads(text: str) -> str:
    """A value that Hydra reads as this very text; what is null, in quotes, or has a valid interpolation, as it is."""
    from hydra.core.override_parser.types import QuotedString

    override = _parsed(text)
    value = override._value if override is not None else ()  # of no setting
    literal = "${" in text and not _is_interpolation(text)
    if value is None or isinstance(value, QuotedString) or (value == text and not literal):
        return text
    return quote(escape_interpolation(text) if literal else text)


def _parsed(text: str) -> Any:
    """What Hydra's parser makes of a setting of this value; None where it cannot be one."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    with contextlib.suppress(HydraException):
        return OverridesParser.create().parse_override(f"key={text}")
    return None


def _is_interpolation(text: str) -> bool:
    """Whether OmegaConf reads an interpolation in a text, of a setting that some verb has or of a resolver."""
    from omegaconf.errors import GrammarParseError
    from omegaconf.grammar_parser import parse

    def holds_one(node: Any) -> bool:
        return "Interpolation" in type(node).__name__ or any(map(holds_one, getattr(node, "children", None) or ()))

    try:
        return holds_one(parse(text)) and {name.split(".")[0] for name in NAMED.findall(text)} <= _names_of_settings()
    except GrammarParseError:
        return False


@cache
def _names_of_settings() -> set[str]:
    """The first parts of the names of all verbs' settings."""
    from decm.settings.schema import VERBS

    return {field.name for schema in VERBS.values() for field in fields(schema)} | {"hydra"}


def absolute_folders(words: list[str]) -> list[str]:
    """The words, with the folders of Hydra's flags absolute: a job or another process may start elsewhere.

    Raises ValueError for flags that decm does not take.
    """
    found, before = [], ""
    for word in words:
        flag, _, value = word.partition("=")
        if flag in REFUSED_FLAGS:
            raise ValueError(f"{flag} is not taken: {REFUSED_FLAGS[flag]}.")
        if before in FOLDER_FLAGS:
            word = str(Path(word).absolute())
        elif flag in FOLDER_FLAGS and value:
            word = f"{flag}={Path(value).absolute()}"
        found.append(word)
        before = word
    return found


def check_groups(words: list[str]) -> None:
    """Raise ValueError for a group of settings (data, teacher, logger, ...) that is set to null or to nothing."""
    from decm.settings.composition import conf_dir

    for match in filter(None, map(WORD.fullmatch, words)):
        key = match["key"].lstrip("+")
        options = sorted(path.stem for path in Path(conf_dir(), key).glob("*.yaml"))
        if options and match["text"] in ("", "null"):
            advice = f"expected one of {', '.join(options)}"
            if key in OPTIONAL_GROUPS:
                advice = f"leave it out, or set ~{key}"
            raise ValueError(f"found {match[0]}; {advice}.")


def typed_words(hydra: Any, kind: str = "task") -> list[str]:
    """The overrides of the settings ("task") or of Hydra's own ("hydra") as typed: `${...}` in them stays as it is.

    A job or a later run gives each interpolation its own value; nothing that the environment holds is written down.
    """
    from omegaconf import OmegaConf

    return OmegaConf.to_container(hydra.overrides[kind], resolve=False)  # type: ignore[return-value]


def inherited(hydra: Any) -> list[str]:
    """What a job's own command needs besides the job's overrides: folders of settings, and settings of Hydra's.

    `hydra` is that node of the job's or the sweep's configuration.
    """
    from decm.settings.composition import conf_dir

    words = [word for word in typed_words(hydra, "hydra") if not word.lstrip("+~").startswith(OF_SWEEPS)]
    for source in hydra.runtime.config_sources:
        folder = str(source.path)
        if source.provider == "command-line":
            words += ["--config-dir", folder]
        elif source.provider == "main" and folder != str(conf_dir()):
            words += ["--config-path", folder]
    return words


def job_command() -> list[str]:
    """The arguments of `decm train` that do this run, or this job of a sweep alone, again."""
    from hydra.core.hydra_config import HydraConfig

    if not HydraConfig.initialized():
        return []
    words = [word for word in typed_words(HydraConfig.get()) if not word.startswith("launcher=")]
    alone = ["launcher=basic", "hydra.mode=RUN"] if is_sweep(words) else []
    return [*words, *alone, *inherited(HydraConfig.get())]
