"""Settings that are paths: what arrives is the text that was typed, for every verb; quotes, null and `${...}` stay."""

import shutil

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import example, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from commands import decm, only, results, train
from decm.cli.main import VERBS
from decm.settings.quoting import escape_interpolation, quote
from decm.settings.words import OF_HYDRA, path_settings, quote_paths

ODD = 'a=b#c[1] it\'s "so", {é} $x ~(y)\\'
GRAMMAR = st.text(st.sampled_from("ab01.,:='\"\\[](){}$#~@ \t*?|!%&+-_/é漢"), min_size=1, max_size=9)
ANY = st.text(st.characters(blacklist_categories=["Cs", "Cc"]), min_size=1, max_size=9)
NEEDED = {"evaluate": [], "sample": [], "latents": ["action=check"], "reference": ["data=folder"], "data": ["size=8"]}


def arrived(word):
    """The value that a setting has after Hydra's parser and OmegaConf."""
    (override,) = OverridesParser.create().parse_overrides([word])
    assert not override.is_sweep_override()
    return OmegaConf.create({"key": override.value()}).key


def has_a_meaning(text):
    """Whether a text is one that keeps what it means to Hydra: null, something in quotes, an interpolation."""
    return text.lower() == "null" or text[0] == text[-1] in "'\"" or ("${" in text and "}" in text)


@settings(max_examples=400, deadline=None, derandomize=True)
@given(st.one_of(GRAMMAR, ANY))
@example("a=b#c[1]")
@example("a\\")
@example("'")
@example("it's\\'so\\\\")
@example("${open")
@example("\\${open")
@example("007")
@example("1e5")
@example("true")
@example(" a ")
@example("choice(a,b)")
def test_a_path_arrives_as_it_was_typed(text):
    (word,) = quote_paths("train", [f"data.path={text}"])
    if not has_a_meaning(text):
        assert arrived(word) == text
    assert quote_paths("train", [word]) == [word]  # a process that is started with these words reads the same


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.one_of(GRAMMAR, ANY))
@example("a'${x}\\'")
def test_a_text_in_quotes_is_read_as_it_is(text):
    """Also where it is no path, as in a rebuilt command."""
    assert arrived(f"key={quote(escape_interpolation(text))}") == text


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        ("[0,2]", [0, 2]),
        ("[cat,zoë,1]", ["cat", "zoë", 1]),
        ("[chat d'eau]", ["chat d'eau"]),
        ('["1",犬]', ["1", "犬"]),
        ("3", [3]),
        ("犬", ["犬"]),
        ("[1.5]", [1.5]),
        ("['a,b',c]", ["a,b", "c"]),
    ],
)
def test_names_of_classes_are_taken_in_any_letters(text, labels):
    (word,) = quote_paths("sample", [f"labels={text}"])
    assert arrived(word) == labels
    assert quote_paths("sample", [word]) == [word]


@pytest.mark.parametrize(
    ("verb", "key"),
    [
        ("train", "data.path"),
        ("train", "evaluation.protocol.dinov2.weights"),
        ("reference", "data.path"),
        ("evaluate", "data.path"),
    ],
)
def test_paths_of_constructors_arrive_as_typed_by_every_verb(verb, key):
    (word,) = quote_paths(verb, [f"{key}={ODD}"])
    assert arrived(word) == ODD


def test_what_has_a_meaning_to_hydra_keeps_it():
    words = ["data.path='a b'", 'data.path="a,b"', "data.path=null", "resume=auto", "data.path=${runs}/x", "data.path="]
    assert quote_paths("train", words) == words
    assert quote_paths("train", ["data.path=${runs}/a=b"]) == ["data.path='${runs}/a=b'"]
    others = ["method=fm,cd", "logger.group=a=b", "evaluation.nfe=[1,2]", "~data.path", "-m"]
    assert quote_paths("train", others) == others


@pytest.mark.parametrize("how", ["-m", "--multirun", "sweep=n2n", "hydra.mode=MULTIRUN"])
def test_in_a_sweep_commas_separate_paths_unless_they_are_in_quotes(how):
    swept = {
        "a,b": ["a", "b"],
        "a=1, it's ,c": ["a=1", "it's", "c"],
        "'a,b',c d": ["a,b", "c d"],
        "choice(a,b)": ["a", "b"],
    }
    for typed, values in swept.items():
        word = quote_paths("train", [how, f"data.path={typed}"])[1]
        (override,) = OverridesParser.create().parse_overrides([word])
        assert [str(getattr(value, "text", value)) for value in override.value().list] == values
    assert arrived(quote_paths("train", [how, "hydra.sweep.dir=a,b"])[1]) == "a,b"  # Hydra does not sweep over it
    assert arrived(quote_paths("train", ["sweep=null", "data.path=a,b"])[1]) == "a,b"


@pytest.mark.parametrize("verb", VERBS)
def test_every_path_of_every_verb_takes_an_odd_one(verb):
    keys = {key: several for key, several in path_settings(verb).items() if key not in OF_HYDRA}
    plain = [key for key, several in keys.items() if not several]
    assert plain
    words = [*NEEDED.get(verb, []), *(f"{key}={ODD}" for key in plain), *(["data=folder"] if verb == "train" else [])]
    if verb == "train":
        words += ["teacher=checkpoint", "evaluation=images"]
    answer = decm(verb, *words, "--cfg", "job")
    assert answer.code == 0, answer.said
    cfg = OmegaConf.create(yaml.safe_load(answer.out))
    assert {key: OmegaConf.select(cfg, key) for key in plain} == dict.fromkeys(plain, ODD)


def test_lists_of_paths_take_odd_ones():
    (word,) = quote_paths("report", ["runs=[a=1,it's,'b,c']"])
    assert arrived(word) == ["a=1", "it's", "b,c"]


@pytest.mark.slow
def test_a_sweep_in_an_odd_folder_goes_on_there_and_its_runs_are_compared(runs, tmp_path, monkeypatch):
    """By full paths, and by a relative one that looks like a setting."""
    name = ODD.replace(",", "")
    odd = shutil.move(runs, tmp_path / name)
    fast = ["-m", "seed=0", "distill=false", "evaluation.nfe=[1]"]
    assert train(odd, *fast).code == 0
    sweep = only(odd / "smoke" / "multirun")
    figures = results(sweep / "0")["teacher"]
    (sweep / "0" / "results.json").unlink()
    answer = train(odd, *fast, "resume=auto")
    assert answer.code == 0, answer.said
    assert f"Sweep of 1 jobs in {sweep}" in answer.out
    assert results(sweep / "0")["teacher"] == figures
    monkeypatch.chdir(tmp_path)
    answer = decm("report", f"./{name}/smoke/multirun/{sweep.name}/0")
    assert answer.code == 0, answer.said
    assert decm("runs", f"runs={name}").out.count("finished") == 2
