"""Configuration files of an OpenVLA checkpoint: config.json and preprocessor_config.json."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rpd.envs.errors import ConfigError
from rpd.students.io.untrusted import read_object
from rpd.teachers.openvla.llama import LlamaText, parse

CONFIG, PREPROCESSOR, PROCESSOR = "config.json", "preprocessor_config.json", "processor_config.json"
ARCHITECTURE = "OpenVLAForActionPrediction"
FileT = TypeVar("FileT", bound=BaseModel)


@dataclass(frozen=True)
class ViTConfig:
    """A vision transformer in timm's terms. The last of its `depth` blocks is not run: features are the previous block's."""

    depth: int
    width: int
    heads: int
    mlp_width: int
    patch: int = 14
    registers: int = 0
    class_token: bool = False
    layer_scale: float | None = None
    """Initial value of LayerScale; None: no LayerScale."""

    @property
    def prefix(self) -> int:
        """Number of tokens before those of the patches."""
        return self.class_token + self.registers


# The number of heads cannot be derived from the weights; the other fields allow naming the mismatch of a wrong checkpoint.
VITS = {
    "vit_large_patch14_reg4_dinov2.lvd142m": ViTConfig(24, 1024, 16, 4096, registers=4, class_token=True, layer_scale=1e-5),
    "vit_so400m_patch14_siglip_224": ViTConfig(27, 1152, 16, 4304),
    "vit_so400m_patch14_siglip_384": ViTConfig(27, 1152, 16, 4304),
}


class TinyViT(BaseModel):
    """timm's keyword arguments of a vision transformer of any size: one entry of ``tiny_vit_kwargs``."""

    model_config = ConfigDict(extra="forbid")

    depth: int = Field(ge=2, le=512)
    embed_dim: int = Field(ge=1, le=2**16)
    num_heads: int = Field(ge=1, le=1024)
    patch_size: int = Field(14, ge=1, le=1024)
    mlp_ratio: float = Field(4.0, gt=0, le=64)
    reg_tokens: int = Field(0, ge=0, le=1024)
    class_token: bool = True
    no_embed_class: bool = False
    init_values: float | None = None
    global_pool: str = "token"
    """Pooling in timm; not used here."""

    def vit(self) -> ViTConfig:
        """Convert to `ViTConfig`.

        Raises:
            ValueError: position embeddings of prefix tokens, which no backbone of OpenVLA has; or a width that is not a
            multiple of
                the number of heads.
        """
        if self.embed_dim % self.num_heads:
            raise ValueError(f"embed_dim {self.embed_dim} is not a multiple of num_heads {self.num_heads}")
        if self.class_token and not self.no_embed_class:
            raise ValueError("a class token with a position embedding (no_embed_class: false) is not supported")
        return ViTConfig(
            self.depth, self.embed_dim, self.num_heads, int(self.embed_dim * self.mlp_ratio), self.patch_size,
            self.reg_tokens, self.class_token, self.init_values,
        )  # fmt: skip


class OpenVLAConfig(BaseModel):
    """config.json. Fields that inference does not need are kept unchanged."""

    model_config = ConfigDict(extra="allow")

    model_type: Literal["openvla"] = "openvla"
    architectures: list[str] = [ARCHITECTURE]
    timm_model_ids: list[str] = Field(min_length=1, max_length=2)
    """One backbone, or two fused ones, in the order of their channels and features."""
    timm_override_act_layers: list[str | None] = [None, None]
    image_sizes: list[Annotated[int, Field(ge=1, le=4096)]] = Field(min_length=1, max_length=2)
    """Input size in pixels, one per backbone."""
    use_fused_vision_backbone: bool
    text_config: dict[str, Any]
    """Content of the file; `llama` parses it."""
    llm_backbone_id: str | None = None
    """Prismatic's name of the language model, which determines the prompt style of its training."""
    llm_max_length: int = Field(2048, ge=1, le=2**24)
    pad_token_id: int = Field(32000, ge=0)
    pad_to_multiple_of: int = Field(64, ge=0, le=2**16)
    n_action_bins: int = Field(256, ge=2, le=2**16)
    norm_stats: dict[str, Any] | None = None
    tiny_vit_kwargs: list[TinyViT] | None = None
    """Extension: backbones without a name in timm, in the order of `timm_model_ids`."""
    quantization_config: None = None

    @cached_property
    def llama(self) -> LlamaText:
        """The language model's configuration.

        Raises:
            ConfigError: see `llama.parse`.
        """
        return parse(self.text_config)

    def to_json(self) -> dict[str, Any]:
        """Content of config.json; omitted timm arguments keep timm's defaults."""
        values = self.model_dump(mode="json")
        if self.tiny_vit_kwargs is not None:
            values["tiny_vit_kwargs"] = [tiny.model_dump(mode="json", exclude_unset=True) for tiny in self.tiny_vit_kwargs]
        return {k: v for k, v in values.items() if v is not None}

    def vits(self) -> list[ViTConfig]:
        """Configurations of the vision backbones.

        Raises:
            ConfigError: an unsupported backbone; names it.
        """
        if self.tiny_vit_kwargs is not None:
            if len(self.tiny_vit_kwargs) != len(self.timm_model_ids):
                raise ConfigError(
                    f"tiny_vit_kwargs describes {len(self.tiny_vit_kwargs)} backbones, timm_model_ids names "
                    f"{len(self.timm_model_ids)}: the numbers must be equal"
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
        """Input height and width of the backbones, pixels."""
        return self.image_sizes[0]

    @property
    def num_patches(self) -> int:
        """Number of visual tokens of an image, P."""
        return (self.image_size // self.vits()[0].patch) ** 2

    @property
    def vocab(self) -> int:
        """Vocabulary size V without padding rows; action tokens are the last `n_action_bins` entries."""
        return self.llama.vocab_size - self.pad_to_multiple_of

    def check(self) -> None:
        """Refuse unsupported configurations.

        Raises:
            ConfigError: names the field and supported values.
        """
        if ARCHITECTURE not in self.architectures:
            raise ConfigError(f"architectures {self.architectures} are not supported; supported: {ARCHITECTURE}")
        if self.vocab < self.n_action_bins:
            raise ConfigError(f"text_config.vocab_size {self.llama.vocab_size} leaves no room for action tokens")
        if self.pad_token_id >= self.llama.vocab_size:
            raise ConfigError(f"pad_token_id {self.pad_token_id} is not below text_config.vocab_size {self.llama.vocab_size}")
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


Positive = Annotated[float, Field(gt=0)]
Color = Annotated[int, Field(ge=0, le=255)]


class Resize(BaseModel):
    """torchvision's Resize: to exactly [height, width], or the shorter side to a number of pixels."""

    model_config = ConfigDict(extra="allow")

    size: int | tuple[int, int] | tuple[int]
    interpolation: int = Field(3, ge=0, le=5)
    """PIL's code; 3 is bicubic."""
    antialias: Literal[True, None] = None
    """PIL always uses antialiasing."""
    max_size: None = None


class Crop(BaseModel):
    """torchvision's CenterCrop."""

    model_config = ConfigDict(extra="allow")

    output_size: tuple[int, int]


class Normalize(BaseModel):
    """torchvision's Normalize."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)

    mean: tuple[float, float, float]
    std: tuple[Positive, Positive, Positive]


class ProcessorConfig(BaseModel):
    """preprocessor_config.json. Uses the ``tvf_*`` fields, not ``means`` and ``stds``, which the official converter rounded.

    Lists have one entry per backbone. Resize and crop of two backbones must agree, as they have the same input image.
    """

    model_config = ConfigDict(extra="allow")

    image_resize_strategy: str
    tvf_resize_params: list[Resize] = Field(min_length=1)
    tvf_crop_params: list[Crop] = Field(min_length=1)
    tvf_normalize_params: list[Normalize] = Field(min_length=1)
    tvf_do_letterbox: bool = False
    tvf_letterbox_fill: tuple[Color, Color, Color] | None = None

    def check(self, config: OpenVLAConfig) -> None:
        """Refuse a processor that does not fit its model.

        Raises:
            ConfigError: names the field and the expected value.
        """
        count, size = len(config.timm_model_ids), config.image_size
        for field in ("tvf_resize_params", "tvf_crop_params", "tvf_normalize_params"):
            values = getattr(self, field)
            if len(values) != count:
                raise ConfigError(f"{field} has {len(values)} entries, but the model has {count} vision backbones")
            if field != "tvf_normalize_params" and values[0] != values[-1]:
                raise ConfigError(f"{field} differs between the backbones, which share one image")
        resized, cropped = self.tvf_resize_params[0].size, self.tvf_crop_params[0].output_size
        if cropped != (size, size) or resized not in (size, (size,), (size, size)):
            raise ConfigError(f"images are resized to {resized} and cropped to {cropped}, but the model needs {size} pixels")
        if self.tvf_do_letterbox and self.tvf_letterbox_fill is None:
            raise ConfigError("tvf_do_letterbox is true, but tvf_letterbox_fill is missing")

    @classmethod
    def of(cls, config: OpenVLAConfig, normalize: list[Normalize]) -> ProcessorConfig:
        """Build the processor of a new model: resize-naive, bicubic, in the official layout.

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


def read_model(path: Path) -> OpenVLAConfig:
    """Read config.json.

    Raises:
        ConfigError: invalid JSON, or unsupported content; names file and field.
    """
    config = _validate(OpenVLAConfig, read_object(path), str(path))
    try:
        config.check()
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    return config


def read_processor(folder: Path, config: OpenVLAConfig) -> ProcessorConfig:
    """Read the image processing of a checkpoint.

    Follows transformers 5: processor_config.json takes precedence (where versions from 5.0 on save it) over
    preprocessor_config.json.

    Raises:
        ConfigError: neither file has it, or it does not fit the model; names file and field.
    """
    path = folder / PREPROCESSOR
    values = read_object(folder / PROCESSOR).get("image_processor") if (folder / PROCESSOR).is_file() else None
    if values is not None:
        path = folder / PROCESSOR
    elif not path.is_file():
        raise ConfigError(f"{folder}: not an OpenVLA checkpoint: no {PREPROCESSOR}, and no image_processor in {PROCESSOR}")
    processor = _validate(ProcessorConfig, read_object(path) if values is None else values, str(path))
    try:
        processor.check(config)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    return processor


def _validate(model: type[FileT], values: object, where: str) -> FileT:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        raise ConfigError(f"{where}: {f'{field}: ' if field else ''}{first['msg']}") from None
