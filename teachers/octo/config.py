"""config.json of an Octo checkpoint; missing fields have the defaults of the original code."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError, model_validator

from rpd.envs.errors import ConfigError
from rpd.students.io.untrusted import read_object

CONFIG = "config.json"
ArgumentsT = TypeVar("ArgumentsT", bound="Arguments")


class Arguments(BaseModel):
    """Keyword arguments of one of Octo's classes. Unlisted arguments, and values other than a field's literals, are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True, allow_inf_nan=False)


Width = Annotated[int, Field(ge=1, le=2**16)]
"""Width of a token or a layer."""
Channels = Annotated[int, Field(ge=32, le=2**13, multiple_of=32)]
"""Channels, in groups of 32."""
Count = Annotated[int, Field(ge=1, le=1024)]
"""Number of time steps, tokens of a group, or actions."""
Tokenizer = Annotated[str, Field(pattern=r"^(google-t5/|google/)?t5-[\w.-]+$")]
MAP_HEADS = 8
Positive = Annotated[float, Field(gt=0, le=1e6)]


class Stem(Arguments):
    """SmallStem16: four strided convolutions, then patches of 16 pixels."""

    features: tuple[Channels, Channels, Channels, Channels] = (32, 96, 192, 384)
    num_features: Width = 512
    """Width of a token."""
    use_film: Literal[False] = False
    patch_size: Literal[16] = 16
    kernel_sizes: tuple[Literal[3], Literal[3], Literal[3], Literal[3]] = (3, 3, 3, 3)
    strides: tuple[Literal[2], Literal[2], Literal[2], Literal[2]] = (2, 2, 2, 2)
    padding: tuple[Literal[1], Literal[1], Literal[1], Literal[1]] = (1, 1, 1, 1)
    img_norm_type: Literal["default"] = "default"


class ImageTokenizer(Arguments):
    """Convert images to tokens; several cameras share one stem as its channels."""

    obs_stack_keys: tuple[str, ...]
    """Regular expressions for its observations, matched at the beginning of their names."""
    task_stack_keys: tuple[str, ...] = ()
    """Regular expressions for its goal images; each camera in use needs its own, or none has one."""
    task_film_keys: tuple[()] = ()
    use_token_learner: Literal[False] = False
    num_tokens: int = 8
    """Tokens of the token learner."""
    conditioning_type: str = "none"
    proper_pad_mask: Literal[True] = True


class LanguageTokenizer(Arguments):
    """A T5 encoder. Its sizes are derived from its weights: `encoder` is only a name."""

    encoder: str
    finetune_encoder: bool = False
    proper_pad_mask: Literal[True] = True


class Head(Arguments):
    """Arguments of every action head."""

    readout_key: str
    use_map: bool = False
    """Pool readout tokens with attention; otherwise by their mean."""
    action_horizon: int = Field(1, ge=1, le=1024, validation_alias=AliasChoices("action_horizon", "pred_horizon"))
    """Actions per chunk, H."""
    action_dim: Count = 7
    """Action dimensions, A."""


class ContinuousHead(Head):
    """ContinuousActionHead: one action, squashed to `max_action`."""

    max_action: Positive = 5.0
    loss_type: Literal["mse", "l1"] = "mse"


class MSEHead(ContinuousHead):
    """MSEActionHead."""

    use_map: bool = True


class L1Head(ContinuousHead):
    """L1ActionHead."""

    use_map: bool = True
    loss_type: Literal["mse", "l1"] = "l1"


class DiscreteHead(Head):
    """DiscreteActionHead: a distribution over bins per number."""

    token_per: Literal["", "action_horizon", "action_dim_and_action_horizon"] = "action_dim_and_action_horizon"
    vocab_size: int = Field(256, ge=2, le=2**16)
    normalization_type: Literal["uniform", "normal"] = "uniform"

    @property
    def num_tokens(self) -> int:
        """Number of readout tokens it needs."""
        whole = self.action_horizon * self.action_dim
        return {"": 1, "action_horizon": self.action_horizon, "action_dim_and_action_horizon": whole}[self.token_per]


class DiffusionHead(Head):
    """DiffusionActionHead: denoises a whole chunk."""

    max_action: Positive = 5.0
    loss_type: Literal["mse", "l1"] = "mse"
    time_dim: int = Field(32, ge=2, le=2**13, multiple_of=2)
    num_blocks: int = Field(3, ge=0, le=512)
    dropout_rate: float = 0.0
    """Training only."""
    hidden_dim: Width = 256
    use_layer_norm: Literal[True] = True
    diffusion_steps: int = Field(20, ge=1, le=1000)
    n_diffusion_samples: Count = 1
    """Noise samples per action in training."""


HEADS: dict[str, type[Head]] = {
    "ContinuousActionHead": ContinuousHead, "MSEActionHead": MSEHead, "L1ActionHead": L1Head,
    "DiscreteActionHead": DiscreteHead, "TokenPerDimActionHead": DiscreteHead, "DiffusionActionHead": DiffusionHead,
}  # fmt: skip


class Transformer(Arguments):
    """The block-wise transformer."""

    num_layers: int = Field(ge=1, le=512)
    num_attention_heads: Count
    mlp_dim: Width
    dropout_rate: float = 0.0
    attention_dropout_rate: float = 0.0
    """Training only."""
    add_position_embedding: Literal[False] = False


class OctoConfig(BaseModel):
    """Model configuration; tokenizers are in the original order, which determines the order of tokens."""

    model_config = ConfigDict(frozen=True)

    images: dict[str, ImageTokenizer]
    stems: dict[str, Stem]
    """One stem per entry of `images`."""
    head_name: str
    head: Head
    width: Width
    """Width of the transformer's tokens, D."""
    transformer: Transformer
    readouts: dict[str, Count]
    """Tokens per readout and time step."""
    max_horizon: Count
    """Maximum window, time steps."""
    repeat_task_tokens: bool
    tokenizer: Tokenizer = "t5-base"
    """Name of the text tokenizer; restricted, as it is looked up on the hub and a path would be read."""
    max_tokens: Count = 16
    """Maximum number of tokens per instruction."""
    finetune_encoder: bool = False
    """Whether T5 is trained with the rest of the model."""
    source: dict[str, Any] = Field(repr=False)
    """Content of the file, for writing it again."""

    @model_validator(mode="after")
    def _divisible(self) -> OctoConfig:
        if self.width % self.transformer.num_attention_heads:
            raise ValueError(
                f"token_embedding_size {self.width} is not a multiple of "
                f"num_attention_heads {self.transformer.num_attention_heads}"
            )
        if self.head.use_map and self.width % MAP_HEADS:
            raise ValueError(f"token_embedding_size {self.width} is not a multiple of the {MAP_HEADS} heads of use_map")
        return self


def read_config(path: Path) -> OctoConfig:
    """Read config.json.

    Raises:
        ConfigError: the file cannot be read, or has unsupported content; names the field and supported values.
    """
    values = read_object(path)
    try:
        return parse_config(values, str(path))
    except (ValueError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path}: not valid JSON of an Octo checkpoint ({error}): truncated or altered?") from None


def parse_config(values: dict[str, Any], where: str) -> OctoConfig:
    """Like `read_config`, for the parsed file.

    Raises:
        ConfigError: see `read_config`.
    """
    try:
        model = values["model"]
        if not model.get("use_correct_attention"):
            raise ConfigError(
                f"{where}: use_correct_attention is not true, as in Octo 1.0 (octo-small, octo-base), which is not supported: "
                "use Octo 1.5, e.g. hf://rail-berkeley/octo-small-1.5"
            )
        tokenizers = {
            name: _find(record, f"{where}: tokenizer {name}") for name, record in model["observation_tokenizers"].items()
        }
        images, stems = {}, {}
        for name, (kind, kwargs) in tokenizers.items():
            _expect(kind, ["ImageTokenizer"], f"{where}: tokenizer {name}")
            encoder, arguments = _find(kwargs["encoder"], f"{where}: tokenizer {name}")
            _expect(encoder, ["SmallStem16"], f"{where}: encoder of {name}")
            stems[name] = _parse(Stem, arguments, f"{where}: encoder of {name}")
            images[name] = _parse(ImageTokenizer, {k: v for k, v in kwargs.items() if k != "encoder"}, f"{where}: {name}")
        if list(model["task_tokenizers"]) != ["language"]:
            raise ConfigError(
                f"{where}: task tokenizers are {', '.join(model['task_tokenizers']) or 'none'}; supported: language"
            )
        kind, kwargs = _find(model["task_tokenizers"]["language"], f"{where}: tokenizer language")
        _expect(kind, ["LanguageTokenizer"], f"{where}: tokenizer language")
        language = _parse(LanguageTokenizer, kwargs, f"{where}: language")
        if len(model["heads"]) != 1:
            raise ConfigError(f"{where}: has heads {', '.join(model['heads']) or 'none'}; supported: one")
        ((head_name, record),) = model["heads"].items()
        kind, kwargs = _find(record, f"{where}: head {head_name}")
        head = _parse(HEADS[_expect(kind, list(HEADS), f"{where}: head")], kwargs, f"{where}: head {head_name}")
        if head.readout_key.removeprefix("readout_") not in model["readouts"]:
            raise ConfigError(f"{where}: head {head_name} reads {head.readout_key}, but readouts are {list(model['readouts'])}")
        text = (values.get("text_processor") or {}).get("kwargs", {})
        return OctoConfig(
            images=images, stems=stems, head_name=head_name, head=head, width=model["token_embedding_size"],
            transformer=_parse(Transformer, model["transformer_kwargs"], f"{where}: transformer_kwargs"),
            readouts=model["readouts"], max_horizon=model["max_horizon"], repeat_task_tokens=model["repeat_task_tokens"],
            tokenizer=text.get("tokenizer_name", "t5-base"),
            max_tokens=(text.get("tokenizer_kwargs") or {}).get("max_length", 16),
            finetune_encoder=language.finetune_encoder, source=values,
        )  # fmt: skip
    except KeyError as error:
        raise ConfigError(f"{where}: field {error} is missing") from None
    except ValidationError as error:
        first = error.errors()[0]
        what = ": ".join(filter(None, (".".join(map(str, first["loc"])), first["msg"].removeprefix("Value error, "))))
        raise ConfigError(f"{where}: {what}") from None


def _find(record: dict[str, Any], where: str) -> tuple[str, dict[str, Any]]:
    """Return class and keyword arguments of a ``{module, name, args, kwargs}`` record."""
    if record.get("args"):
        raise ConfigError(f"{where}: positional arguments {record['args']} are not supported")
    return record["name"], record["kwargs"]


def _expect(name: str, supported: list[str], where: str) -> str:
    if name not in supported:
        raise ConfigError(f"{where}: '{name}' is not supported; supported: {', '.join(supported)}")
    return name


def _parse(model: type[ArgumentsT], values: dict[str, Any], where: str) -> ArgumentsT:
    try:
        return model.model_validate({k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(f"{where}: {'.'.join(map(str, first['loc'][:1]))}: not supported: {first['msg']}") from None
