"""Well-known networks for images, small and by hand."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import feedalign as fa
from check.case import Case


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 8), nn.ReLU(), nn.Linear(8, 3))


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(4, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(24, 12), nn.ReLU(), nn.Dropout(0.2), nn.Linear(12, 3),
    )  # fmt: skip


class BasicBlock(nn.Module):
    """He et al. 2016: the sum of an identity skip and two convolutions, and an activation behind it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        h = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(h)) + x)


class PreActivationBlock(nn.Module):
    """He et al. 2016b: nothing but the identity on the main path."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(width), nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2, self.conv2 = nn.BatchNorm2d(width), nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(self.relu(self.bn1(x)))
        return self.conv2(self.relu(self.bn2(h))) + x


class ResNet(nn.Module):
    def __init__(self, block: type[nn.Module], ends_with_norm: bool) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 5, 3, padding=1)
        self.layer1, self.layer2 = block(5), block(5)
        self.norm = nn.BatchNorm2d(5) if ends_with_norm else nn.Identity()
        self.pool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(self.layer2(self.layer1(self.stem(x))))
        return self.fc(self.pool(h).flatten(1))


class DenseLayer(nn.Module):
    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        self.norm, self.relu = nn.BatchNorm2d(width), nn.ReLU()
        self.conv = nn.Conv2d(width, growth, 3, padding=1, bias=False)

    def forward(self, features: list[Tensor]) -> Tensor:
        return self.conv(self.relu(self.norm(torch.cat(features, 1))))


class DenseBlock(nn.Module):
    def __init__(self, num_layers: int, width: int, growth: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DenseLayer(width + i * growth, growth) for i in range(num_layers))

    def forward(self, x: Tensor) -> Tensor:
        features = [x]
        for layer in self.layers:
            features.append(layer(features))
        return torch.cat(features, 1)


class DenseNet(nn.Module):
    """Huang et al. 2017: every layer reads all before it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, padding=1)
        self.block1 = DenseBlock(2, 4, 3)
        self.transition = nn.Sequential(nn.BatchNorm2d(10), nn.ReLU(), nn.Conv2d(10, 5, 1), nn.AvgPool2d(2))
        self.block2 = DenseBlock(2, 5, 3)
        self.norm, self.relu, self.fc = nn.BatchNorm2d(11), nn.ReLU(), nn.Linear(11, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.block2(self.transition(self.block1(self.stem(x))))
        return self.fc(self.relu(self.norm(h)).mean((2, 3)))


def double_conv(inner: int, outer: int, activation: type[nn.Module] | None) -> nn.Module:
    last = [] if activation is None else [activation()]
    return nn.Sequential(nn.Conv2d(inner, outer, 3, padding=1), nn.ReLU(), nn.Conv2d(outer, outer, 3, padding=1), *last)


class UNet(nn.Module):
    """Ronneberger et al. 2015: what goes down is joined to what comes up; an output at every pixel."""

    def __init__(self, last: type[nn.Module] | None = nn.ReLU) -> None:
        super().__init__()
        self.down1, self.down2 = double_conv(2, 4, last), double_conv(4, 6, last)
        self.pool, self.middle = nn.MaxPool2d(2), double_conv(6, 8, last)
        self.lift2, self.up2 = nn.ConvTranspose2d(8, 6, 2, stride=2), double_conv(12, 6, last)
        self.lift1, self.up1 = nn.ConvTranspose2d(6, 4, 2, stride=2), double_conv(8, 4, last)
        self.head = nn.Conv2d(4, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        skip1 = self.down1(x)
        skip2 = self.down2(self.pool(skip1))
        h = self.middle(self.pool(skip2))
        h = self.up2(torch.cat([self.lift2(h), skip2], 1))
        return self.head(self.up1(torch.cat([self.lift1(h), skip1], 1)))


class MixerBlock(nn.Module):
    def __init__(self, num_tokens: int, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.tokens = nn.Sequential(nn.Linear(num_tokens, 7), nn.GELU(), nn.Linear(7, num_tokens))
        self.channels = nn.Sequential(nn.Linear(width, 11), nn.GELU(), nn.Linear(11, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.channels(self.norm2(x))


class Mixer(nn.Module):
    """Tolstikhin et al. 2021."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(2, 6, 4, stride=4)
        self.blocks = nn.Sequential(MixerBlock(4, 6), MixerBlock(4, 6))
        self.norm, self.head = nn.LayerNorm(6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).transpose(1, 2)
        return self.head(self.norm(self.blocks(tokens)).mean(1))


def images() -> Tensor:
    return torch.randn(5, 2, 8, 8)


VISION = [
    Case("mlp", mlp, lambda: torch.randn(5, 6)),
    Case("cnn", cnn, images),
    Case("resnet", lambda: ResNet(BasicBlock, ends_with_norm=False), images),
    Case("resnet-v2", lambda: ResNet(PreActivationBlock, ends_with_norm=True), images, leaks=("stem", "layer1.conv2")),
    Case("densenet", DenseNet, images),
    Case("unet", UNet, images, rule=fa.DFA(positions="full")),
    Case(
        "unet-bare-skips",
        lambda: UNet(last=None),
        images,
        rule=fa.DFA(positions="full"),
        leaks=("up1.2",),
    ),
    Case("mlp-mixer", Mixer, images, leaks=("patches", "blocks.1.channels.2", "norm")),
]
