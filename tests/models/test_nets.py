"""The networks: the layers that section 2.4 names, sizes, and dtypes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from vfn.errors import UserError
from vfn.models.nets import cpu, fold_norms, make_discriminator, make_generator
from vfn.models.nets.convnext_unet import ConvNeXtUNet
from vfn.models.nets.cpu import FEW_PIXELS, DownConv, OutputConv, UpConv
from vfn.models.nets.discriminator import ConditionalDiscriminator, PatchGAN
from vfn.models.nets.generator import LEAK, Generator, clamp_straight
from vfn.models.nets.unet import UNetGenerator

SMALL = {"width": 4, "max_width": 8}


def kinds(module: nn.Module) -> list[str]:
    return [type(layer).__name__ for layer in module.modules() if not [*layer.children()]]


def images(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_generator_is_the_papers() -> None:
    """Conv k3 s2; LeakyReLU-Conv-BN; ReLU-ConvTranspose-BN; the last without BN."""
    net = UNetGenerator(2, 1, **SMALL, depth=4)
    assert kinds(net.first) == ["DownConv"]
    assert [kinds(block) for block in net.down] == [["LeakyReLU", "DownConv", "BatchNorm2d"]] * 3
    assert [kinds(block) for block in net.up] == [["ReLU", "UpConv", "BatchNorm2d"]] * 3
    assert kinds(net.last) == ["OutputConv"]
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            assert layer.kernel_size == (3, 3)
            assert layer.stride == (2, 2)
        if isinstance(layer, nn.LeakyReLU):
            assert layer.negative_slope == LEAK
    # Every decoder step but the deepest takes the encoder's features of its size beside its own.
    assert [block[1].in_channels for block in net.up] == [8, 16, 16]
    assert net.last.in_channels == 8


def test_skip_connections_carry_each_encoder_level() -> None:
    net = UNetGenerator(1, 1, **SMALL, depth=4).eval()
    seen: list[torch.Tensor] = []
    for layer in (net.first, *net.down):
        # Before the next layer's ReLU, which writes over what it is given.
        layer.register_forward_hook(lambda _m, _i, out: seen.append(out.clone()))
    joined: list[torch.Tensor] = []
    for layer in (*net.up, net.last):
        layer.register_forward_pre_hook(lambda _m, inputs: joined.append(inputs[0].clone()))
    net(images(1, 1, 32, 48))
    bottleneck, *skips = seen[::-1]
    torch.testing.assert_close(joined[0], bottleneck)
    for taken, skip in zip(joined[1:], skips, strict=True):
        taken = taken[:, -skip.shape[1] :]
        # The last layer's ReLU is applied before it is called.
        torch.testing.assert_close(taken, torch.relu(skip) if skip is skips[-1] else skip)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (64, 192), (128, 64), (320, 64)])
@pytest.mark.parametrize("kernel_size", [3, 4])
def test_generator_keeps_every_multiple_of_its_stride(
    height: int, width: int, kernel_size: int
) -> None:
    net = make_generator({"name": "unet", **SMALL, "kernel_size": kernel_size}, 3, 2).eval()
    assert net.stride == 64
    out = net(images(1, 3, height, width))
    assert out.shape == (1, 2, height, width)
    assert out.abs().max() < 1  # tanh


@pytest.mark.parametrize("depth", [1, 2, 8])
def test_any_depth(depth: int) -> None:
    net = UNetGenerator(1, 1, **SMALL, depth=depth).eval()
    assert net.stride == 2**depth
    assert net(images(1, 1, 256, 256)).shape == (1, 1, 256, 256)


def test_output_is_float32_under_bf16_autocast() -> None:
    net = UNetGenerator(1, 1, **SMALL, depth=4).eval()
    image = images(1, 1, 64, 64)
    with torch.autocast("cpu", torch.bfloat16):
        out = net(image)
        assert net.first(image).dtype == torch.bfloat16  # the rest does run in bf16
    assert out.dtype == torch.float32
    # Not bf16 numbers in float32's clothes: rounding them to bf16 changes them.
    assert (out.bfloat16().float() != out).any()
    torch.testing.assert_close(out, net(image), atol=0.05, rtol=0)


def test_start_at_sets_the_level_of_the_untrained_network() -> None:
    net = UNetGenerator(1, 2, **SMALL, depth=3)
    level = torch.tensor([-0.95, 0.5])
    net.start_at(level)
    with torch.no_grad():
        net.last.weight.zero_()
        out = net(images(2, 1, 32, 32))
    torch.testing.assert_close(out, level[None, :, None, None].expand_as(out))


def test_pix2pix_differs_by_its_numbers() -> None:
    spec = {"kernel_size": 4, "depth": 5, "dropout": 0.5, "bottleneck_norm": False, **SMALL}
    net = UNetGenerator(1, 1, **spec)
    assert kinds(net.down[-1]) == ["LeakyReLU", "DownConv"]
    assert net.down[-1][1].bias is not None
    assert net.down[0][1].bias is None  # BN has one
    dropped = ["Dropout" in kinds(block) for block in net.up]
    assert dropped == [True, True, True, False]
    image = images(2, 1, 64, 64)
    torch.manual_seed(0)
    assert (net(image) != net(image)).any()


def test_discriminator_is_the_papers() -> None:
    """Conv k5 s2 - BN; three times Conv k5 s2 - BN - LeakyReLU; one fully connected layer."""
    net = ConditionalDiscriminator(3, 64, width=4)
    block = ["Conv2d", "BatchNorm2d", "LeakyReLU"]
    assert kinds(net.features) == [*block[:2], *block * 3]
    assert kinds(net.score) == ["Linear"]
    for layer in net.features:
        if isinstance(layer, nn.Conv2d):
            assert layer.kernel_size == (5, 5)
            assert layer.stride == (2, 2)
    assert not [*net.buffers()], "something of it would move whenever it looks at an image"


@pytest.mark.parametrize(
    ("name", "size"),
    [*[("conditional", n) for n in (16, 33, 47, 64, 71)], *[("patchgan", n) for n in (33, 64, 71)]],
)
def test_discriminator_takes_any_patch_size(name: str, size: int) -> None:
    net = make_discriminator({"name": name, "width": 2}, 3, size)
    out = net(images(2, 2, size, size), images(2, 1, size, size))
    assert out.shape[:2] == (2, 1)
    assert out.ndim == (2 if name == "conditional" else 4)


def test_discriminator_sees_condition_and_image() -> None:
    net = ConditionalDiscriminator(2, 32, width=2)
    one, other = images(2, 1, 32, 32), images(2, 1, 32, 32, seed=1)
    first = net(one, other)
    assert (first != net(one, one)).any()
    assert (first != net(other, other)).any()


def test_patchgan_judges_patches_of_70_pixels() -> None:
    net = PatchGAN(2, 256, width=2).eval()
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):  # it would couple all pixels
            layer.weight.data.fill_(1.0)
            layer.forward = lambda x: x  # type: ignore[method-assign]
    image = images(1, 1, 256, 256).requires_grad_()
    out = net(images(1, 1, 256, 256, seed=1), image)
    assert out.shape == (1, 1, 30, 30)
    out[0, 0, 15, 15].backward()
    assert image.grad is not None
    rows = image.grad[0, 0].abs().sum(1).nonzero()
    assert int(rows.max() - rows.min()) + 1 == 70


def test_weights_start_as_in_pix2pix() -> None:
    torch.manual_seed(0)
    net = UNetGenerator(1, 1, width=32, max_width=64, depth=4)
    weights = net.down[1][1].weight
    assert abs(float(weights.detach().std()) - 0.02) < 0.001
    assert abs(float(net.down[1][2].weight.detach().mean()) - 1) < 0.02
    assert net.first.bias is not None
    assert not net.first.bias.any()


def test_seed_reproduces() -> None:
    def weights(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return torch.cat([p.flatten() for p in UNetGenerator(1, 1, **SMALL).parameters()])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


def test_unknown_names_and_options_are_refused() -> None:
    with pytest.raises(UserError, match=r"model.generator.name=resnet.*unet"):
        make_generator({"name": "resnet"}, 1, 1)
    with pytest.raises(UserError, match=r"model.discriminator.*wings"):
        make_discriminator({"name": "patchgan", "wings": 2}, 2, 64)


def test_a_residual_network_starts_as_its_input() -> None:
    net = UNetGenerator(2, 2, width=4, depth=3, residual=True).eval()
    net.start_at(torch.tensor([-0.5, 0.5]))
    x = torch.rand(1, 2, 16, 16) * 1.98 - 0.99
    torch.testing.assert_close(net(x), x, atol=1e-5, rtol=0)
    assert net(torch.ones(1, 2, 8, 8)).max() < 1  # the ends of the range stay within reach
    net(x).square().sum().backward()
    assert net.last.weight.grad is not None
    assert net.last.weight.grad.abs().sum() > 0


def test_a_residual_network_needs_an_input_for_each_target() -> None:
    spec = {"name": "unet", "width": 4, "depth": 3, "residual": True}
    with pytest.raises(UserError, match="residual=true"):
        make_generator(spec, 2, 1)


@pytest.mark.parametrize("kernel_size", [3, 4])
def test_folded_norms_are_the_same_function(kernel_size: int) -> None:
    torch.manual_seed(0)
    generator = make_generator(
        {"name": "unet", "width": 4, "depth": 3, "kernel_size": kernel_size}, 2, 1
    )
    for module in generator.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # as after a training
            torch.nn.init.uniform_(module.running_mean, -1, 1)
            torch.nn.init.uniform_(module.running_var, 0.2, 3)
            torch.nn.init.uniform_(module.weight, -1, 2)
            torch.nn.init.uniform_(module.bias, -1, 1)
    torch.nn.init.normal_(generator.last.weight, 0.0, 0.5)
    folded = fold_norms(generator)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in folded.modules())
    assert any(isinstance(module, torch.nn.BatchNorm2d) for module in generator.modules())
    x = torch.rand(2, 2, 32, 32) * 2 - 1
    with torch.inference_mode():
        torch.testing.assert_close(folded(x), generator.eval()(x), atol=1e-5, rtol=0)
        assert folded(x).std() > 0.01


MODERN = {"name": "convnext_unet", **SMALL, "depth": 3}
LINEAR = [{**spec, "start": "linear"} for spec in ({"name": "unet", **SMALL, "depth": 3}, MODERN)]


def shaken(net: Generator) -> Generator:
    """With weights that were trained at random: none is at its start."""
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return net


@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    depth=st.integers(1, 5),
    rows=st.integers(1, 3),
    columns=st.integers(1, 3),
    channels=st.tuples(st.integers(1, 3), st.integers(1, 2)),
    blocks=st.integers(0, 2),
)
def test_the_modern_generator_keeps_every_multiple_of_its_stride(
    depth: int, rows: int, columns: int, channels: tuple[int, int], blocks: int
) -> None:
    net = ConvNeXtUNet(*channels, width=4, max_width=8, depth=depth, blocks=blocks)
    assert net.stride == 2**depth
    height, width = rows * net.stride, columns * net.stride
    out = shaken(net)(images(1, channels[0], height, width))
    assert out.shape == (1, channels[1], height, width)
    assert out.abs().max() <= 1


def test_the_modern_generator_has_both_blocks_and_no_batch_statistics() -> None:
    net = ConvNeXtUNet(1, 1, width=64, depth=3)
    convolutions = [m for m in net.modules() if isinstance(m, nn.Conv2d)]
    assert {m.kernel_size for m in convolutions if m.groups > 1} == {(7, 7)}
    assert all(m.dilation == (1, 1) for m in convolutions)
    assert not [*net.buffers()]
    assert sum(type(m).__name__ == "_Convolutions" for m in net.modules()) == 2


def test_a_prediction_does_not_depend_on_what_lies_far_away() -> None:
    """No norm looks at the whole tile: else a tile of whole fields would differ from a patch."""
    net = shaken(ConvNeXtUNet(1, 1, width=4, depth=2))
    one = images(1, 1, 128, 128)
    other = torch.cat([one[..., :64], torch.ones(1, 1, 128, 64)], dim=-1)
    torch.testing.assert_close(net(one)[..., :16], net(other)[..., :16])


@pytest.mark.parametrize("spec", LINEAR, ids=lambda spec: spec["name"])
def test_a_linear_start_is_the_linear_map(spec: dict[str, object]) -> None:
    net = make_generator(spec, 2, 3)
    weight = torch.tensor([[0.5, 0.1], [-0.3, 0.2], [2.0, 2.0]])
    bias = torch.tensor([0.1, -0.2, 0.0])
    net.start_at(torch.zeros(3), (weight, bias))
    image = images(2, 2, 32, 32)
    with torch.autocast("cpu", torch.bfloat16):
        out = net(image)
    assert out.dtype == torch.float32
    expected = torch.einsum("tc,bchw->bthw", weight, image) + bias[:, None, None]
    assert expected.abs().max() > 1
    torch.testing.assert_close(out, expected.clamp(-1, 1))
    # It learns: at the very start through the last layer and the map itself.
    out.square().sum().backward()
    for layer in (net.last, net.linear):
        assert layer is not None
        assert layer.weight.grad is not None
        assert layer.weight.grad.abs().sum() > 0
    # Without a map it is the level.
    level = torch.tensor([-0.9, 0.0, 0.5])
    net = make_generator(spec, 2, 3)
    net.start_at(level)
    torch.testing.assert_close(net(image), level[None, :, None, None].expand(2, 3, 32, 32))


def test_the_clamp_lets_pixels_come_back() -> None:
    x = torch.tensor([-3.0, -0.5, 0.7, 1.5], requires_grad=True)
    clamped = clamp_straight(x)
    assert clamped.tolist() == [-1.0, -0.5, pytest.approx(0.7), 1.0]
    clamped.sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [1.0] * 4


@pytest.mark.parametrize("spec", LINEAR, ids=lambda spec: spec["name"])
def test_a_frozen_encoder_of_any_generator(spec: dict[str, object]) -> None:
    net = shaken(make_generator(spec, 1, 1))
    net.freeze_encoder()
    net(images(2, 1, 32, 32)).square().sum().backward()
    frozen = {id(p) for part in net.encoder() for p in part.parameters()}
    for name, parameter in net.named_parameters():
        assert parameter.requires_grad == (id(parameter) not in frozen), name
        assert (parameter.grad is not None) == parameter.requires_grad, name


@pytest.mark.parametrize("name", ["unet", "convnext_unet"])
def test_starts_that_cannot_be(name: str) -> None:
    with pytest.raises(UserError, match=r"start=zero.*level or linear, or auto"):
        make_generator({"name": name, "start": "zero"}, 1, 1)
    with pytest.raises(UserError, match=r"start=linear, residual=true"):
        make_generator({"name": name, "start": "linear", "residual": True}, 1, 1)


@settings(deadline=None, max_examples=40)
@given(
    kernel=st.sampled_from([3, 4]),
    batch=st.integers(1, 2),
    height=st.integers(1, 9),
    width=st.sampled_from([1, 3, 1500]),  # 1,500: strips of five rows
    targets=st.integers(1, 3),
    bias=st.booleans(),
)
def test_the_last_layer_in_strips_is_the_last_layer(
    kernel: int, batch: int, height: int, width: int, targets: int, bias: bool
) -> None:
    ours = OutputConv(5, targets, kernel, bias=bias)
    features = images(batch, 5, height, width).to(memory_format=torch.channels_last)
    assert_same_layer(
        ours, nn.ConvTranspose2d(5, targets, kernel, 2, 1, kernel % 2, bias=bias), features
    )


@settings(deadline=None, max_examples=40)
@given(
    kernel=st.sampled_from([3, 4]),
    batch=st.integers(1, 3),
    height=st.integers(1, 5),
    width=st.sampled_from([1, 4, 8, 200]),  # 200: too many pixels
    last=st.booleans(),
)
def test_the_layers_of_small_images_are_torchs(
    kernel: int, batch: int, height: int, width: int, last: bool
) -> None:
    layout = torch.channels_last if last else torch.contiguous_format
    for ours, theirs, factor in (
        (DownConv(3, 5, kernel, bias=False), nn.Conv2d(3, 5, kernel, 2, 1, bias=False), 2),
        (
            UpConv(3, 5, kernel, bias=False),
            nn.ConvTranspose2d(3, 5, kernel, 2, 1, kernel % 2, bias=False),
            1,
        ),
    ):
        features = images(batch, 3, factor * height, factor * width).to(memory_format=layout)
        assert_same_layer(ours, theirs, features)


def assert_same_layer(
    ours: nn.Conv2d | nn.ConvTranspose2d, theirs: nn.Module, features: torch.Tensor
) -> None:
    """The same output, and the same gradients of features and weights."""
    theirs.load_state_dict(ours.state_dict())
    results = []
    for layer in (ours, theirs):
        x = features.clone().requires_grad_()
        y = layer(x)
        y.backward(images(*y.shape, seed=1))
        with torch.no_grad():
            torch.testing.assert_close(layer(x), y)
        results.append((y, x.grad, *(p.grad for p in layer.parameters())))
    for mine, wanted in zip(*results, strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-4, atol=1e-4)


def test_small_images_take_the_product_of_matrices(monkeypatch: pytest.MonkeyPatch) -> None:
    """With gradients alone, and up to so many pixels of the smaller image."""
    taken = []
    real = cpu._weight_gradient
    monkeypatch.setattr(
        cpu, "_weight_gradient", lambda *args: taken.append(len(taken)) or real(*args)
    )
    layers = DownConv(1, 2, 3, bias=False), UpConv(1, 2, 3, bias=False)
    for layer, side in zip(layers, (32, 16), strict=True):
        for batch in (2, 3):
            layer(images(batch, 1, side, side)).sum().backward()
        with torch.autocast("cpu", torch.bfloat16):
            assert layer(images(2, 1, side, side)).dtype == torch.bfloat16
    assert FEW_PIXELS == 2 * 16**2
    assert len(taken) == 2


def test_the_gradient_of_a_decoder_step_is_no_slice() -> None:
    """A slice of the concatenation's gradient would send batch norm's backward pass down a slow path."""
    net = UNetGenerator(1, 1, **SMALL, depth=3).to(memory_format=torch.channels_last)
    dense = []
    for block in net.up:
        block[-1].register_full_backward_hook(
            lambda *given: dense.append(
                given[2][0].is_contiguous(memory_format=torch.channels_last)
            )
        )
    net(images(2, 1, 16, 16).to(memory_format=torch.channels_last)).sum().backward()
    assert dense == [True, True]
