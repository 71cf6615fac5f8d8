"""`decm <verb> --help`: the groups, the settings and their defaults, without waiting for torch."""

import re

from decm.settings.composition import conf_dir


def verb_help(verb: str, what: str) -> str:
    """What a verb does, which options each group of `conf/` has, and the verb's own settings with their comments."""
    conf = conf_dir()
    lines = [
        f"decm {verb}: {what}.",
        "",
        f"Usage: decm {verb} key=value ...   (Hydra's grammar; -m sweeps over commas)",
    ]
    if verb == "train":
        lines += [
            "Sweeps: sweep=<file of conf/sweep> is -m with its settings; launcher=joblib|slurm: several jobs at once;",
            "the same command with resume=auto (or hydra.sweep.dir=<its folder>) goes on; decm report <its folder>.",
        ]
    text = (conf / f"{verb}.yaml").read_text(encoding="utf-8")
    groups = [line.strip(" -").split(":")[0] for line in re.findall(r"^  - [a-z_]+:.*$", text, re.MULTILINE)]
    if groups:
        lines += ["", "Groups (choose as group=option):"]
        for group in groups:
            options = sorted(path.stem for path in (conf / group).glob("*.yaml"))
            lines.append(f"  {group:<12} {', '.join(options)}")
    settings = re.split(r"^hydra:$", text.split("\n\n", 1)[1], flags=re.MULTILINE)[0].strip()
    lines += ["", "Settings and defaults:"] + [f"  {line}" for line in settings.splitlines()]
    return "\n".join([*lines, "", f"decm {verb} --cfg job prints the whole composed configuration, groups included."])
