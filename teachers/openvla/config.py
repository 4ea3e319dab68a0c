"""What an OpenVLA checkpoint says about itself: config.json, preprocessor_config.json, dataset_statistics.json."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from envs.errors import ConfigError

CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"
FileT = TypeVar("FileT", bound=BaseModel)


@dataclass(frozen=True)
class ViTConfig:
    """A vision transformer in timm's terms. The last of its `depth` blocks is never run: features leave the one before."""

    depth: int
    width: int
    heads: int
    mlp_width: int
    patch: int = 14
    registers: int = 0
    class_token: bool = False
    layer_scale: float | None = None
    """Initial value of LayerScale; None: the blocks have none."""

    @property
    def prefix(self) -> int:
        """Tokens before those of the patches."""
        return self.class_token + self.registers


# The number of heads cannot be read off the weights; the rest is here so that a wrong checkpoint is refused by name.
VITS = {
    "vit_large_patch14_reg4_dinov2.lvd142m": ViTConfig(24, 1024, 16, 4096, registers=4, class_token=True, layer_scale=1e-5),
    "vit_so400m_patch14_siglip_224": ViTConfig(27, 1152, 16, 4304),
    "vit_so400m_patch14_siglip_384": ViTConfig(27, 1152, 16, 4304),
}


class TinyViT(BaseModel):
    """timm's keyword arguments for a vision transformer of any size: one entry of ``tiny_vit_kwargs``."""

    model_config = ConfigDict(extra="forbid")

    depth: int = Field(ge=2)
    embed_dim: int = Field(ge=1)
    num_heads: int = Field(ge=1)
    patch_size: int = Field(14, ge=1)
    mlp_ratio: float = Field(4.0, gt=0)
    reg_tokens: int = Field(0, ge=0)
    class_token: bool = True
    no_embed_class: bool = False
    init_values: float | None = None
    global_pool: str = "token"
    """Says how timm pools; nothing here does."""

    def vit(self) -> ViTConfig:
        """In our terms.

        Raises:
            ValueError: position embeddings of prefix tokens, which none of OpenVLA's backbones has.
        """
        if self.class_token and not self.no_embed_class:
            raise ValueError("a class token with a position of its own (no_embed_class: false) is not supported")
        return ViTConfig(
            self.depth, self.embed_dim, self.num_heads, int(self.embed_dim * self.mlp_ratio), self.patch_size,
            self.reg_tokens, self.class_token, self.init_values,
        )  # fmt: skip


class OpenVLAConfig(BaseModel):
    """config.json. Fields that inference does not need are kept as they are."""

    model_config = ConfigDict(extra="allow")

    model_type: Literal["openvla"] = "openvla"
    architectures: list[str] = ["OpenVLAForActionPrediction"]
    timm_model_ids: list[str] = Field(min_length=1, max_length=2)
    """One backbone or two that are fused, in the order of their channels and features."""
    timm_override_act_layers: list[str | None] = [None, None]
    image_sizes: list[int] = Field(min_length=1, max_length=2)
    """Input size in pixels, one per backbone."""
    use_fused_vision_backbone: bool
    text_config: dict[str, Any]
    """transformers' LlamaConfig; what it leaves out has that class's defaults (rms_norm_eps 1e-6, not Llama-2's 1e-5)."""
    llm_backbone_id: str = "llama2-7b-pure"
    llm_max_length: int = 2048
    pad_token_id: int = 32000
    pad_to_multiple_of: int = 64
    n_action_bins: int = Field(256, ge=2)
    norm_stats: dict[str, Any] | None = None
    tiny_vit_kwargs: list[TinyViT] | None = None
    """Extension: backbones that timm has no name for, in the order of `timm_model_ids`."""

    def to_json(self) -> dict[str, Any]:
        """What to write as config.json; what timm is not told keeps timm's defaults."""
        values = self.model_dump(mode="json")
        if self.tiny_vit_kwargs is not None:
            values["tiny_vit_kwargs"] = [tiny.model_dump(mode="json", exclude_unset=True) for tiny in self.tiny_vit_kwargs]
        return {k: v for k, v in values.items() if v is not None}

    def vits(self) -> list[ViTConfig]:
        """The vision backbones.

        Raises:
            ConfigError: one that is not supported, by name.
        """
        if self.tiny_vit_kwargs is not None:
            if len(self.tiny_vit_kwargs) != len(self.timm_model_ids):
                raise ConfigError(
                    f"tiny_vit_kwargs describes {len(self.tiny_vit_kwargs)} backbones, timm_model_ids names "
                    f"{len(self.timm_model_ids)}: they have to go together"
                )
            try:
                return [tiny.vit() for tiny in self.tiny_vit_kwargs]
            except ValueError as error:
                raise ConfigError(f"tiny_vit_kwargs: {error}") from None
        for name in self.timm_model_ids:
            if name not in VITS:
                raise ConfigError(f"vision backbone '{name}' is not supported; supported: {', '.join(VITS)}")
        return [VITS[name] for name in self.timm_model_ids]

    @property
    def image_size(self) -> int:
        """Height and width of what the backbones see, pixels."""
        return self.image_sizes[0]

    @property
    def num_patches(self) -> int:
        """Visual tokens of an image, P."""
        return (self.image_size // self.vits()[0].patch) ** 2

    @property
    def vocab(self) -> int:
        """Entries of the tokenizer, V; action tokens are the last `n_action_bins` of them. Padding rows do not count."""
        return int(self.text_config["vocab_size"]) - self.pad_to_multiple_of

    def check(self) -> None:
        """Refuse what this reader does not know.

        Raises:
            ConfigError: naming the field and what would be right.
        """
        language_model = self.text_config.get("model_type")
        if language_model != "llama":
            raise ConfigError(f"language model '{language_model}' is not supported; supported: llama")
        if not isinstance(self.text_config.get("vocab_size"), int) or self.vocab < self.n_action_bins:
            raise ConfigError(f"text_config.vocab_size {self.text_config.get('vocab_size')} leaves no room for action tokens")
        if self.use_fused_vision_backbone != (len(self.timm_model_ids) == 2):
            raise ConfigError(
                f"use_fused_vision_backbone is {self.use_fused_vision_backbone}, "
                f"but timm_model_ids names {len(self.timm_model_ids)} backbones"
            )
        vits = self.vits()
        if len(self.image_sizes) != len(vits) or len({s // v.patch for s, v in zip(self.image_sizes, vits, strict=True)}) > 1:
            raise ConfigError(f"image_sizes {self.image_sizes}: one per backbone is needed, with equally many patches")
        if len(set(self.image_sizes)) > 1:
            raise ConfigError(f"image_sizes {self.image_sizes} differ; fused backbones see one image")
        if any(layer is not None for layer in self.timm_override_act_layers):
            raise ConfigError(f"timm_override_act_layers {self.timm_override_act_layers} is not supported; supported: null")


class Resize(BaseModel):
    """torchvision's Resize: to exactly [height, width], or the shorter side to a number of pixels."""

    model_config = ConfigDict(extra="allow")

    size: int | tuple[int, int] | tuple[int]
    interpolation: int = 3
    """Of PIL; 3 is bicubic."""


class Crop(BaseModel):
    """torchvision's CenterCrop."""

    model_config = ConfigDict(extra="allow")

    output_size: tuple[int, int]


class Normalize(BaseModel):
    """torchvision's Normalize."""

    model_config = ConfigDict(extra="allow")

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


class ProcessorConfig(BaseModel):
    """preprocessor_config.json. The ``tvf_*`` fields count, not ``means`` and ``stds``: the official converter rounded them.

    One list entry per backbone. Resize and crop of two backbones must agree: they see one image.
    """

    model_config = ConfigDict(extra="allow")

    image_resize_strategy: str
    tvf_resize_params: list[Resize] = Field(min_length=1)
    tvf_crop_params: list[Crop] = Field(min_length=1)
    tvf_normalize_params: list[Normalize] = Field(min_length=1)
    tvf_do_letterbox: bool = False
    tvf_letterbox_fill: tuple[int, int, int] | None = None

    def check(self, config: OpenVLAConfig) -> None:
        """Refuse a processor that does not fit its model.

        Raises:
            ConfigError: naming the field and what would be right.
        """
        count, size = len(config.timm_model_ids), config.image_size
        for field in ("tvf_resize_params", "tvf_crop_params", "tvf_normalize_params"):
            values = getattr(self, field)
            if len(values) != count:
                raise ConfigError(f"{field} has {len(values)} entries, but the model has {count} vision backbones")
            if field != "tvf_normalize_params" and values[0] != values[-1]:
                raise ConfigError(f"{field} differs between the backbones, which see one image")
        resized, cropped = self.tvf_resize_params[0].size, self.tvf_crop_params[0].output_size
        if cropped != (size, size) or resized not in (size, (size,), (size, size)):
            raise ConfigError(f"images are resized to {resized} and cropped to {cropped}, but the model sees {size} pixels")
        if self.tvf_do_letterbox and self.tvf_letterbox_fill is None:
            raise ConfigError("tvf_do_letterbox is true, but tvf_letterbox_fill is missing")

    @classmethod
    def of(cls, config: OpenVLAConfig, normalize: list[Normalize]) -> ProcessorConfig:
        """Describe the processor of a new model: resize-naive, bicubic, in the official layout.

        Args:
            config: the model.
            normalize: mean and standard deviation in [0, 1] of each backbone's channels.
        """
        count, size = len(config.timm_model_ids), config.image_size
        return cls.model_validate(
            {
                "image_processor_type": "PrismaticImageProcessor",
                "processor_class": "PrismaticProcessor",
                "use_fused_vision_backbone": config.use_fused_vision_backbone,
                "image_resize_strategy": "resize-naive",
                "input_sizes": [[3, size, size]] * count,
                "interpolations": ["bicubic"] * count,
                "means": [n.mean for n in normalize],
                "stds": [n.std for n in normalize],
                "tvf_resize_params": [
                    {"size": [size, size], "interpolation": 3, "antialias": True, "max_size": None}
                ] * count,
                "tvf_crop_params": [{"output_size": [size, size]}] * count,
                "tvf_normalize_params": [n.model_dump() | {"inplace": False} for n in normalize],
                "tvf_do_letterbox": False,
                "tvf_letterbox_fill": None,
            }
        )  # fmt: skip


def read(model: type[FileT], path: Path) -> FileT:
    """Read one JSON file of a checkpoint.

    Raises:
        ConfigError: it is missing, not JSON, or a field is missing or wrong; names file and field.
    """
    try:
        return model.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{path.parent}: not an OpenVLA checkpoint: {path.name} cannot be read ({error.strerror})") from None
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise ConfigError(f"{path}: {f'{field}: ' if field else ''}{first['msg']}") from None
