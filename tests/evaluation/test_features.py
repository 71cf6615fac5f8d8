"""The extractors: torch-fidelity's Inception and DINOv2's transformer, from local files only."""

import pytest
import torch
from torch import nn

from decm.features.build import build_extractor
from decm.features.classifier import Classifier
from decm.features.dinov2 import Dinov2Features
from decm.features.extractor import KEY, check_images
from decm.features.inception import InceptionFeatures
from decm.features.random import RandomFeatures, RandomInceptionFeatures
from helpers import largest, relative_error, seeded


def images(num: int = 3, side: int = 40, channels: int = 3) -> torch.Tensor:
    return torch.randint(256, (num, channels, side, side), generator=seeded(0), dtype=torch.uint8)


@pytest.fixture(scope="module")
def inception() -> RandomInceptionFeatures:
    return RandomInceptionFeatures()


@pytest.fixture(scope="module", params=["inception", "small"])
def at_random(request):
    """(an extractor with random weights, how another one is made)"""
    if request.param == "small":
        return RandomFeatures(), RandomFeatures
    return request.getfixturevalue("inception"), RandomInceptionFeatures


def test_random_features_are_the_same_every_time_and_say_that_they_mean_nothing(at_random):
    extractor, another = at_random
    torch.manual_seed(1)
    first, second = extractor(images()), another()(images())
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert extractor.meaningless
    assert "mean nothing" in extractor.note
    assert {name: value.shape[1] for name, value in first.items()} == dict(extractor.dims)


def test_random_features_neither_vanish_nor_coincide(at_random):
    for value in at_random[0](images()).values():
        assert value.isfinite().all()
        assert value.std() > 1e-2
        assert relative_error(value[0], value[1]) > 1e-3


def forward_by_hand(network: nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """mixed_6/conv (Mixed_6d.branch1x1 after its ReLU, [N, 192, 17, 17]) and the pool, from the network's modules."""
    from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x as resize

    x = (resize(x.float(), size=(299, 299), align_corners=False) - 128) / 128
    spatial = None
    for name, module in network.named_children():
        if name == "Mixed_6d":
            conv, norm = module.branch1x1.conv, module.branch1x1.bn
            spatial = norm(nn.functional.conv2d(x, conv.weight)).relu()
        if name != "fc":
            x = module(x)
    assert spatial is not None
    return spatial, x.flatten(1)


def test_the_features_are_those_of_a_forward_by_hand_in_adms_order(inception):
    x = images(2)
    found = inception(x)
    spatial, pool = forward_by_hand(inception.network, x)
    assert spatial.shape == (2, 192, 17, 17)
    by_hand = torch.stack([torch.cat([spatial[n, :7, h, w] for h in range(17) for w in range(17)]) for n in range(2)])
    assert found["spatial"].shape == (2, 2023)
    assert relative_error(found["spatial"], by_hand) < 1e-5
    assert relative_error(found["spatial"], spatial[:, :7].flatten(1)) > 0.1  # channels first is another order
    assert relative_error(found["pool"], pool) < 1e-5
    assert relative_error(found["logits"], pool @ inception.network.fc.weight.T) < 1e-5  # no bias


def test_a_local_file_gives_the_same_features_as_torch_fidelity_reading_it(inception, tmp_path):
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    torch.save(inception.network.state_dict(), tmp_path / "weights.pth")
    theirs = FeatureExtractorInceptionV3("x", ["2048", "logits_unbiased"], str(tmp_path / "weights.pth"))
    ours, x = InceptionFeatures(tmp_path / "weights.pth"), images(2)
    pool, logits = theirs(x)
    found = ours(x)
    assert torch.equal(found["pool"], pool)
    assert torch.equal(found["logits"], logits)
    assert (ours.name, ours.meaningless, ours.note) == ("inception", False, "")


@pytest.mark.parametrize(
    ("features", "file"), [("inception", "6726825d.pth"), ("dinov2", "dinov2_vitl14_pretrain.pth")]
)
def test_missing_weights_name_the_file_its_origin_and_the_setting(features, file, monkeypatch, tmp_path):
    def refuse(*_, **__):
        raise AssertionError("a download")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    for path in (None, tmp_path / "absent.pth"):
        with pytest.raises(ValueError, match=KEY) as error:
            build_extractor(features, path)
        assert file in str(error.value)
        assert "https://" in str(error.value)


def test_weights_of_something_else_and_damaged_files_are_refused(inception, tmp_path):
    state = inception.network.state_dict()
    state["fc.weight"] = state["fc.weight"][:10]
    del state["Conv2d_1a_3x3.conv.weight"]
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"(?s)1a_3x3.conv.weight: found nothing.*fc.weight: found \(10, 2048\)"):
        InceptionFeatures(tmp_path / "other.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "other.pth").read_bytes()[:1000])
    with pytest.raises(ValueError, match="damaged"):
        InceptionFeatures(tmp_path / "cut.pth")


def test_pickled_code_in_a_weights_file_is_never_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (tmp_path / "ran").write_text, ("x",)

    torch.save({"fc.weight": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(ValueError, match="not a file of weights"):
        InceptionFeatures(tmp_path / "evil.pth")
    assert not (tmp_path / "ran").exists()


def test_what_is_no_extractor_or_no_image_is_an_error(inception):
    with pytest.raises(ValueError, match=r"Choose one of inception, .*random_small"):
        build_extractor("resnet")
    with pytest.raises(ValueError, match="takes no weights"):
        build_extractor("random_small", "weights.pth")
    for bad in (images().float(), images()[0], images()[:, :2]):
        with pytest.raises(ValueError, match="expected uint8"):
            inception(bad)
    gray = images(2, channels=1)
    assert torch.equal(check_images(gray), gray.repeat(1, 3, 1, 1))


def official_state(width: int = 384, depth: int = 12) -> dict[str, torch.Tensor]:
    """Random weights under the names and shapes of dinov2_vits14_pretrain.pth."""
    shapes = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, 1 + 37 * 37, width),
        "mask_token": (1, width),
        "patch_embed.proj.weight": (width, 3, 14, 14),
        "patch_embed.proj.bias": (width,),
        "norm.weight": (width,),
        "norm.bias": (width,),
    }
    for k in range(depth):
        for name, shape in {
            "norm1.weight": (width,),
            "norm1.bias": (width,),
            "attn.qkv.weight": (3 * width, width),
            "attn.qkv.bias": (3 * width,),
            "attn.proj.weight": (width, width),
            "attn.proj.bias": (width,),
            "ls1.gamma": (width,),
            "norm2.weight": (width,),
            "norm2.bias": (width,),
            "mlp.fc1.weight": (4 * width, width),
            "mlp.fc1.bias": (4 * width,),
            "mlp.fc2.weight": (width, 4 * width),
            "mlp.fc2.bias": (width,),
            "ls2.gamma": (width,),
        }.items():
            shapes[f"blocks.{k}.{name}"] = shape
    generator = seeded(3)
    return {name: 0.05 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def dinov2_by_hand(
    state: dict[str, torch.Tensor], images: torch.Tensor, heads: int = 6, depth: int = 12
) -> torch.Tensor:
    """The class token of DINOv2, written out: pre-norm blocks with layer scale, exact GELU, epsilon 1e-6."""
    F = nn.functional

    def norm(x, name):
        return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], 1e-6)

    def linear(x, name):
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    x = F.interpolate(images.float(), size=(224, 224), mode="bicubic", antialias=True) / 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x = (x - mean[:, None, None]) / std[:, None, None]
    x = F.conv2d(x, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=14).flatten(2).mT
    x = torch.cat([state["cls_token"].expand(len(x), -1, -1), x], 1)
    grid = state["pos_embed"][:, 1:].reshape(1, 37, 37, -1).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, scale_factor=((16 + 0.1) / 37,) * 2, mode="bicubic")
    x = x + torch.cat([state["pos_embed"][:, :1], grid.flatten(2).mT], 1)
    for k in range(depth):
        q, key, v = linear(norm(x, f"blocks.{k}.norm1"), f"blocks.{k}.attn.qkv").chunk(3, -1)
        q, key, v = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (q, key, v))
        mixed = ((q @ key.mT / q.shape[-1] ** 0.5).softmax(-1) @ v).transpose(1, 2).flatten(2)
        x = x + state[f"blocks.{k}.ls1.gamma"] * linear(mixed, f"blocks.{k}.attn.proj")
        hidden = F.gelu(linear(norm(x, f"blocks.{k}.norm2"), f"blocks.{k}.mlp.fc1"))
        x = x + state[f"blocks.{k}.ls2.gamma"] * linear(hidden, f"blocks.{k}.mlp.fc2")
    return norm(x, "norm")[:, 0]


def test_dinov2_reads_the_official_names_and_equals_a_forward_by_hand(tmp_path):
    state = official_state()
    torch.save(state, tmp_path / "dinov2_vits14_pretrain.pth")
    extractor, x = Dinov2Features(tmp_path / "dinov2_vits14_pretrain.pth", arch="vits14"), images(2, 96)
    pool = extractor(x)["pool"]
    assert pool.shape == (2, extractor.dims["pool"])
    assert relative_error(pool, dinov2_by_hand(state, x)) < 1e-4
    assert extractor.metric == "fdd"
    state["blocks.3.ls1.gamma"] = state["blocks.3.ls1.gamma"] + 1
    assert relative_error(pool, dinov2_by_hand(state, x)) > 1e-3
    torch.save({**state, "register_tokens": torch.zeros(1, 4, 384)}, tmp_path / "registers.pth")
    with pytest.raises(ValueError, match="register_tokens"):
        Dinov2Features(tmp_path / "registers.pth", arch="vits14")


def test_the_position_embedding_is_sampled_on_dinov2s_slightly_shifted_grid():
    """A ramp stays one, to torch's bicubic ripple of 0.05: column j lies at (j + 1/2) 37 / 16.1 - 1/2, not 37 / 16."""
    ramp = torch.arange(37.0).expand(37, 37).reshape(1, 37 * 37, 1)
    resized = Dinov2Features.resized(torch.cat([torch.full((1, 1, 1), -1.0), ramp], 1), 16)
    assert resized.shape == (1, 257, 1)
    assert resized[0, 0] == -1
    column = torch.arange(2, 14)
    found = resized[0, 1:, 0].reshape(16, 16)[8, 2:14]
    assert largest(found - ((column + 0.5) * 37 / 16.1 - 0.5)) < 0.06
    assert largest(found - ((column + 0.5) * 37 / 16 - 0.5)) > 0.15


def test_the_classifiers_features_come_from_its_cache_file(tmp_path):
    from safetensors.torch import save_file

    net = Classifier().eval()
    save_file(net.state_dict(), tmp_path / "digits.safetensors")
    extractor, x = build_extractor("classifier", tmp_path / "digits.safetensors"), images(4, 8, 1)
    features, logits = net(x)
    assert torch.equal(extractor(x)["pool"], features)
    assert torch.equal(extractor(x)["logits"], logits)
    with pytest.raises(ValueError, match=r"expects \(1, 8, 8\)"):
        extractor(images(2, 16, 1))
