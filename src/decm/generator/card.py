"""The model card: what a generator is, how good it was, how to use it and how it was made."""

import json
from typing import Any

from decm.data.manifest import manifest_of
from decm.evaluation.titles import TITLES, judge_note

USE = """```python
from decm import Generator

generator = Generator.from_pretrained("<this folder, or its id on the hub>")
{call}
```
"""
LIMITS = """The figures are of this model's own evaluation, and compare with others of the same metric, reference and
number of samples alone. It makes samples of the classes and of the size that it was trained on, and repeats what is
wrong or biased in its data. How often it copies a training image stands where it was measured (memorized)."""


def card(config: dict[str, Any]) -> str:
    """README.md of a config.json."""
    data, training = config["data"], config["training"]
    classes = classes_of(data)
    latents = data["extra"].get("kind") == "latents"
    head = "---\nlibrary_name: decm\ntags: [flow-matching, few-step, image-generation]\nlicense: apache-2.0\n---\n"
    what = (
        f"A generator in 1 to 1000 steps, distilled or trained with [decm](https://arxiv.org/abs/2602.10764) on the "
        f"segments {', '.join(config['trained_on'])}. Data: {data['name']} ({data['origin']}), "
        f"{'latents' if latents else 'states'} of shape {'x'.join(map(str, data['shape']))}, {classes}. Network: "
        f"{config['network']['_target_'].split('.')[-1]}. Weights: {config['weights']} at step {config['step']}."
    )
    sections = [
        f"{head}\n# {training.get('name', data['name'])}\n\n{what}\n",
        f"## Results\n\n{results_table(config['results'])}\n",
        f"## Use\n\n{USE.format(call=example(data))}{decoder_note(config['autoencoder']) if latents else ''}",
        f"## Training\n\n```json\n{json.dumps(training, indent=2)}\n```\n",
        f"## Limits\n\n{LIMITS}\n",
        f"License: Apache-2.0 for what decm adds; the data's and the teacher's own licenses are not known here.\n\n"
        f"Written by decm {config['code_version']}.\n",
    ]
    return "\n".join(sections)


def classes_of(data: dict[str, Any]) -> str:
    """How many classes the data have and what they are called; names stand as code, where nothing in them is markup."""
    count, _, names = manifest_of(data).classes().partition(" (")
    return f"{count} (`{names[:-1].replace('`', chr(39))}`)" if names else count


def results_table(results: dict[str, Any] | None) -> str:
    """The metric at each NFE, for student and teacher, and what it was taken against."""
    if not results or not results.get("student"):
        return "These weights were not evaluated."
    student, teacher, samplers = (results.get(key) or {} for key in ("student", "teacher", "samplers"))
    lines = ["| NFE | sampler | this model | teacher |", "| ---: | --- | ---: | ---: |"]
    for nfe, value in student.items():
        of_teacher = f"{teacher[nfe]:.3f}" if nfe in teacher else ""
        lines.append(f"| {nfe} | {samplers.get(nfe, '')} | {value:.3f} | {of_teacher} |")
    metric = TITLES.get(results["metric"], results["metric"])
    said = f"{metric} of {results['num_samples']} samples to {results['reference']}; lower is better."
    return "\n".join([*lines, "", f"{said} {judge_note(results)}".strip()])


def example(data: dict[str, Any]) -> str:
    """A call that this model can answer."""
    what = "labels=[0, 1]" if data["num_classes"] > 1 else "num=2"
    if data["num_classes"] > 1 and len(data.get("class_names") or ()) > 1:
        what = f"labels=[0, {json.dumps(data['class_names'][1])}]"  # a label, and the name of a class
    if data["extra"].get("kind") == "latents" or data["shape"][0] in (1, 3):
        return f"images = generator({what}, steps=1, seed=0)  # uint8 [2, H, W, 3]"
    return f"points = generator.latents({what}, steps=1, seed=0)  # [2, {', '.join(map(str, data['shape']))}]"


def decoder_note(autoencoder: dict[str, Any] | None) -> str:
    """Which weights turn this model's latents into pictures."""
    if not autoencoder or not autoencoder.get("path"):
        return "\nIts latents need an autoencoder: `from_pretrained(..., autoencoder=<weights file>)`.\n"
    return (
        f"\nIts latents are decoded by `{autoencoder['path']}` ({autoencoder['kind']}), expected beside config.json or "
        "given as `from_pretrained(..., autoencoder=<weights file>)`.\n"
    )
