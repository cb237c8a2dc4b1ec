"""The opponents of train_step.py and their training step, with the settings that suit them best.

torchvision's MViTv2 (pip install torch torchvision), transformers' VideoMAE (pip install
transformers).
"""

from collections.abc import Callable

import torch
from torch import nn

from multitrain_jax.models.backbone import BackboneConfig
from multitrain_jax.models.mvit import MViTConfig
from multitrain_jax.models.vit import ViTConfig


def build(config: BackboneConfig, classes: int) -> nn.Module:
    """Their model of the shape of `config`; takes videos [B, 3, T, H, W], gives logits."""
    return {MViTConfig: mvit, ViTConfig: VideoMAE}[type(config)](config, classes)


class VideoMAE(nn.Module):
    """transformers' model, whose attention is PyTorch's fused one (sdpa)."""

    def __init__(self, config: ViTConfig, classes: int):
        from transformers import VideoMAEConfig, VideoMAEForVideoClassification

        super().__init__()
        description = VideoMAEConfig(
            image_size=config.image_size,
            patch_size=config.patch_stride[1],
            num_frames=config.num_frames,
            tubelet_size=config.patch_stride[0],
            hidden_size=config.width,
            num_hidden_layers=config.blocks,
            num_attention_heads=config.heads,
            intermediate_size=config.mlp_width,
            num_labels=classes,
        )
        self.model = VideoMAEForVideoClassification(description)

    def forward(self, video: torch.Tensor) -> torch.Tensor:
        return self.model(video.transpose(1, 2)).logits


def mvit(config: MViTConfig, classes: int) -> nn.Module:
    """torchvision's model; `mvit_v2_s` where `config` is S 16x4."""
    from torchvision.models.video import mvit

    blocks = [
        mvit.MSBlockConfig(
            num_heads=shape.heads,
            input_channels=shape.width_in,
            output_channels=shape.width,
            kernel_q=[3, 3, 3],
            kernel_kv=[3, 3, 3],
            stride_q=list(shape.query_stride),
            stride_kv=list(shape.kv_stride),
        )
        for stage in config.block_shapes()
        for shape in stage
    ]
    return mvit.MViT(
        spatial_size=(config.image_size, config.image_size),
        temporal_size=config.num_frames,
        block_setting=blocks,
        residual_pool=True,
        residual_with_cls_embed=False,
        rel_pos_embed=True,
        proj_after_attn=True,
        stochastic_depth_prob=config.stochastic_depth,
        num_classes=classes,
    )


class Trainer:
    """Forward pass and training step of their model on random clips."""

    def __init__(
        self,
        config: BackboneConfig,
        classes: int,
        batch: int,
        *,
        compiled: bool,
        channels_last: bool,
        clip_norm: float,
    ):
        self.device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision('high')
        layout = torch.channels_last_3d if channels_last else torch.contiguous_format
        generator = torch.Generator().manual_seed(0)
        size = (batch, 3, config.num_frames, config.image_size, config.image_size)
        self.video = (
            torch.randn(size, generator=generator).to(self.device).contiguous(memory_format=layout)
        )
        self.label = torch.randint(0, classes, (batch,), generator=generator).to(self.device)
        self.model = build(config, classes).to(self.device, memory_format=layout)
        self.run_model = torch.compile(self.model) if compiled else self.model
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=1e-5, weight_decay=0.05, fused=True
        )
        self.loss = nn.CrossEntropyLoss(label_smoothing=0.1)
        self.clip_norm = clip_norm

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == 'cuda')

    def _wait(self) -> None:
        if self.device.type == 'cuda':
            torch.cuda.synchronize()

    def forward(self) -> None:
        self.model.eval()
        with torch.inference_mode(), self._autocast():
            self.run_model(self.video)
        self._wait()

    def step(self) -> None:
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)
        with self._autocast():
            loss = self.loss(self.run_model(self.video), self.label)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_norm)
        self.optimizer.step()
        self._wait()

    def peak_bytes(self, run: Callable[[], None]) -> int | None:
        """Memory of the GPU during `run`; None on CPU, where PyTorch does not count."""
        if self.device.type != 'cuda':
            return None
        torch.cuda.reset_peak_memory_stats()
        run()
        return torch.cuda.max_memory_allocated()
