"""Batch norm over the batches of all processes, where torch has none (its own needs a GPU)."""

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce


class AllBatchNorm(nn.BatchNorm2d):
    """`nn.BatchNorm2d` whose mean and variance in training are those of every process's batch.

    The sums of all processes are added up by a reduction that gradients pass through, as in
    torch's SyncBatchNorm. The processes must take the same steps.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same, normalised; in the dtype of `x`."""
        if not self.training or not dist.is_initialized() or dist.get_world_size() == 1:
            return super().forward(x)
        wide = x.float()
        count = wide.new_full((1,), wide.numel() / wide.shape[1])
        sums = torch.cat([wide.sum((0, 2, 3)), wide.square().sum((0, 2, 3)), count])
        total: Tensor = all_reduce(sums)  # type: ignore[no-untyped-call]
        channels = self.num_features
        mean, n = total[:channels] / total[-1], total[-1]
        variance = (total[channels:-1] / n - mean.square()).clamp(min=0)
        if self.track_running_stats:
            assert self.running_mean is not None
            assert self.running_var is not None
            assert self.num_batches_tracked is not None
            with torch.no_grad():
                self.num_batches_tracked += 1
                share = self.momentum or 1 / float(self.num_batches_tracked)
                self.running_mean.lerp_(mean, share)
                self.running_var.lerp_(variance * n / (n - 1), share)
        scale = torch.rsqrt(variance + self.eps)
        if self.affine:
            scale = scale * self.weight
        shift = -mean * scale
        if self.affine:
            shift = shift + self.bias
        return (wide * scale[:, None, None] + shift[:, None, None]).to(x.dtype)


def share_norms(network: nn.Module) -> None:
    """Let every batch norm of `network` look at the batches of all processes.

    What it holds and how it is stored stays as it is. On a GPU this is torch's SyncBatchNorm's
    affair (Lightning's `sync_batchnorm`).
    """
    for module in network.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = AllBatchNorm
