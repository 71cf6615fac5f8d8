"""The rules of the package's structure, as functions from source text to what breaks them."""

import ast
from collections.abc import Iterator

GROUND = {"decm.checkpoints", "decm.runs", "decm.settings"}  # plain files and types
PARTS = {"decm.flow", "decm.objectives", "decm.networks", "decm.data", "decm.features", "decm.evaluation"}
TOOLS = {"torch", "torchvision", "numpy", "timm", "safetensors", "sklearn", "webdataset", "rich", "matplotlib", "PIL"}

# What each room may import besides the standard library; None: anything that ONLY_IN does not confine.
MAY_IMPORT: dict[str, set[str] | None] = {
    "checkpoints": {"torch", "numpy", "safetensors", "decm.checkpoints"},
    "runs": {"yaml", "decm.checkpoints", "decm.runs", "decm.data.manifest", "decm.data.published"},
    "settings": {
        "hydra",
        "omegaconf",
        "yaml",
        "decm.checkpoints.first_process",
        "decm.checkpoints.trust",
        "decm.runs",
        "decm.settings",
    },
    "flow": {"torch", "decm.flow"},
    "objectives": {"torch", "decm.flow", "decm.objectives"},
    "networks": {"torch", "timm", "safetensors", "decm.checkpoints.strict", "decm.flow", "decm.networks"},
    "data": {
        "torch",
        "numpy",
        "sklearn",
        "webdataset",
        "safetensors",
        "PIL",
        "decm.checkpoints",
        "decm.flow",
        "decm.data",
    },
    "features": {"torch", "timm", "torch_fidelity", "safetensors", "decm.checkpoints", "decm.flow", "decm.features"},
    "evaluation": {
        "torch",
        "numpy",
        "torchmetrics",
        "safetensors",
        "PIL",
        "matplotlib",
        "sklearn",
        "rich",
        "decm.checkpoints",
        "decm.flow",
        "decm.features",
        "decm.evaluation",
    },
    "training": PARTS | TOOLS | {"lightning", "wandb", "decm.checkpoints", "decm.training"},
    "generator": PARTS
    | TOOLS
    | {"yaml", "huggingface_hub", "onnx", "onnxruntime", "decm.checkpoints", "decm.generator"},
    "report": PARTS
    | TOOLS
    | GROUND
    | {
        "wandb",
        "wandb_workspaces",
        "jinja2",
        "decm.training.wandb_mode",
        "decm.generator",
        "decm.report",
    },
    "protocols": PARTS | {"torch", "numpy", "decm.checkpoints", "decm.generator", "decm.protocols"},
    "experiment": PARTS
    | TOOLS
    | GROUND
    | {
        "hydra",
        "omegaconf",
        "lightning",
        "decm.training",
        "decm.generator",
        "decm.report",
        "decm.protocols",
        "decm.experiment",
    },
    "sweeps": GROUND
    | {
        "hydra",
        "hydra_plugins",
        "omegaconf",
        "yaml",
        "joblib",
        "submitit",
        "optuna",
        "numpy",
        "sklearn",
        "decm.evaluation",
        "decm.training",
        "decm.sweeps",
    },
    "cli": None,
    "__init__.py": {"decm.generator"},
    "__main__.py": {"decm.cli"},
}
ALSO_IN_FILE = {
    "flow/randomness.py": {"numpy"},
    "networks/attention_triton.py": {"triton"},
    "networks/autoencoder.py": {"diffusers"},
    "data/datamodule.py": {"lightning"},
    "data/sets/idx.py": {"torchvision"},  # its downloader
    "data/sets/cifar.py": {"torchvision"},
}
ONLY_IN = {
    "hydra": ("settings/", "experiment/", "sweeps/", "cli/"),
    "omegaconf": ("settings/", "experiment/", "sweeps/", "cli/"),
    "lightning": ("training/", "data/datamodule.py", "experiment/"),
    "wandb": ("training/loggers.py", "training/wandb_mode.py", "report/"),
    "torchmetrics": ("evaluation/",),
    "torch_fidelity": ("features/",),
    "diffusers": ("networks/autoencoder.py",),
    "triton": ("networks/attention_triton.py",),
    "huggingface_hub": ("generator/",),
    "onnx": ("generator/graphs.py",),
    "onnxruntime": ("generator/graphs.py",),
}
# Imported where they are used, never at a module's top; but these modules are themselves imported only where used.
LAZY = {"wandb", "webdataset", "torch_fidelity", "diffusers", "triton", "huggingface_hub", "onnx", "onnxruntime"}
WHOLLY_LAZY = {"networks/attention_triton.py", "networks/autoencoder.py"}

NOT_TEXT = {"os", "Image", "tarfile"}  # whose `open` is of something else
LINES_OF_FILE, LINES_OF_FUNCTION, ARGUMENTS = 260, 50, 8
FILES_OF_ROOM, LINES_OF_ROOM = 16, 2000
EXCEPTIONS = {
    "networks/dit.py:LightningDiT.__init__ arguments": "twelve constants of the published architecture",
    "networks/attention_triton.py:_kernel lines": "Triton takes a pointer or a stride an argument, one a line",
}


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def imports(path: str, source: str) -> Iterator[tuple[str, bool]]:
    """(module, whether it is imported when the file is) for every import in src/decm/`path`."""
    package = ["decm", *path.split("/")[:-1]]

    def visit(node: ast.AST, at_top: bool) -> Iterator[tuple[str, bool]]:
        if isinstance(node, ast.Import):
            yield from ((alias.name, at_top) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from ((f"{module}.{alias.name}", at_top) for alias in node.names)
        later = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or _is_type_checking(node)
        for child in ast.iter_child_nodes(node):
            yield from visit(child, at_top and not later)

    yield from visit(ast.parse(source), True)


def wrong_imports(path: str, source: str, standard: frozenset[str]) -> list[str]:
    """The imports of src/decm/`path` that the layout forbids."""
    area = path.split("/")[0]
    if area not in MAY_IMPORT:
        return [f"{path}: no rule says what {area} may import"]
    allowed, wrong = MAY_IMPORT[area], []
    for module, at_top in imports(path, source):
        top = module.split(".")[0]
        name, file = (".".join(module.split(".")[:k]) if top == "decm" else top for k in (2, 3))
        if top in LAZY and at_top and path not in WHOLLY_LAZY:
            wrong.append(f"{path}: {top} at the top of the module")
        if top in ONLY_IN and not path.startswith(ONLY_IN[top]):
            wrong.append(f"{path}: {top} is for {', '.join(ONLY_IN[top])} alone")
        elif name == "decm.__version__" or top in standard or allowed is None:
            continue
        elif not {name, file} & (allowed | ALSO_IN_FILE.get(path, set())):
            wrong.append(f"{path}: {module} in {area}")
    return wrong


def over_budget(path: str, source: str) -> list[str]:
    """What is longer than the size budget, as `path:name what`."""
    found = [f"{path} lines"] if len(source.splitlines()) > LINES_OF_FILE else []

    def visit(node: ast.AST, scope: str) -> None:
        for child in ast.iter_child_nodes(node):
            name = f"{scope}{child.name}" if hasattr(child, "name") and not isinstance(child, ast.alias) else scope
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                a = child.args
                if (child.end_lineno or 0) - child.lineno + 1 > LINES_OF_FUNCTION:
                    found.append(f"{path}:{name} lines")
                if child.name == "__init__" and len(a.posonlyargs + a.args + a.kwonlyargs) - 1 > ARGUMENTS:
                    found.append(f"{path}:{name} arguments")
            visit(child, name + "." if name != scope else scope)

    visit(ast.parse(source), "")
    return found


def without_encoding(source: str) -> list[int]:
    """The lines that read or write text in the encoding of the machine's locale."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call) or {word.arg for word in node.keywords} & {"encoding", "timeout"}:
            continue  # a timeout: of a connection, not of a file
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        owner = ast.unparse(node.func.value) if isinstance(node.func, ast.Attribute) else ""
        binary = any(isinstance(a, ast.Constant) and isinstance(a.value, str) and "b" in a.value for a in node.args)
        is_open = name == "open" and not binary and owner not in NOT_TEXT
        if is_open or (owner and name in ("read_text", "write_text")):
            found.append(node.lineno)
    return found
