"""What an Octo checkpoint says about itself: config.json. What it leaves out has the original code's defaults."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError

from envs.errors import ConfigError

CONFIG = "config.json"
ArgumentsT = TypeVar("ArgumentsT", bound="Arguments")


class Arguments(BaseModel):
    """Keyword arguments of one of Octo's classes. What is not listed, or has another value than a literal, is not supported."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class Stem(Arguments):
    """SmallStem16: four strided convolutions, then patches of 16 pixels."""

    features: tuple[int, int, int, int] = (32, 96, 192, 384)
    num_features: int = 512
    """Width of a token."""
    use_film: Literal[False] = False
    patch_size: Literal[16] = 16
    kernel_sizes: tuple[Literal[3], Literal[3], Literal[3], Literal[3]] = (3, 3, 3, 3)
    strides: tuple[Literal[2], Literal[2], Literal[2], Literal[2]] = (2, 2, 2, 2)
    padding: tuple[Literal[1], Literal[1], Literal[1], Literal[1]] = (1, 1, 1, 1)
    img_norm_type: Literal["default"] = "default"


class ImageTokenizer(Arguments):
    """Images to tokens; several cameras share one stem by their channels."""

    obs_stack_keys: tuple[str, ...]
    """Regular expressions: which observations it sees, by how their names begin."""
    task_stack_keys: tuple[str, ...] = ()
    """Which goal images; each camera in use needs its own, or none has one."""
    task_film_keys: tuple[()] = ()
    use_token_learner: Literal[False] = False
    num_tokens: int = 8
    """Of the token learner."""
    conditioning_type: str = "none"
    proper_pad_mask: Literal[True] = True


class LanguageTokenizer(Arguments):
    """A T5 encoder. Its sizes are read off its weights: `encoder` is only a name."""

    encoder: str
    finetune_encoder: bool = False
    proper_pad_mask: Literal[True] = True


class Head(Arguments):
    """What every action head is told."""

    readout_key: str
    use_map: bool = False
    """Pool readouts with attention; else by their mean."""
    action_horizon: int = Field(1, ge=1, validation_alias=AliasChoices("action_horizon", "pred_horizon"))
    """Actions of a chunk, H."""
    action_dim: int = Field(7, ge=1)
    """A."""


class ContinuousHead(Head):
    """ContinuousActionHead: one action, squashed to `max_action`."""

    max_action: float = 5.0
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
    vocab_size: int = Field(256, ge=2)
    normalization_type: Literal["uniform", "normal"] = "uniform"

    @property
    def num_tokens(self) -> int:
        """Readout tokens that it needs."""
        whole = self.action_horizon * self.action_dim
        return {"": 1, "action_horizon": self.action_horizon, "action_dim_and_action_horizon": whole}[self.token_per]


class DiffusionHead(Head):
    """DiffusionActionHead: denoises a whole chunk."""

    max_action: float = 5.0
    loss_type: Literal["mse", "l1"] = "mse"
    time_dim: int = 32
    num_blocks: int = 3
    dropout_rate: float = 0.0
    """Only of training."""
    hidden_dim: int = 256
    use_layer_norm: Literal[True] = True
    diffusion_steps: int = Field(20, ge=1)
    n_diffusion_samples: int = 1
    """Noises per action in training."""


HEADS: dict[str, type[Head]] = {
    "ContinuousActionHead": ContinuousHead, "MSEActionHead": MSEHead, "L1ActionHead": L1Head,
    "DiscreteActionHead": DiscreteHead, "TokenPerDimActionHead": DiscreteHead, "DiffusionActionHead": DiffusionHead,
}  # fmt: skip


class Transformer(Arguments):
    """The block-wise transformer."""

    num_layers: int
    num_attention_heads: int
    mlp_dim: int
    dropout_rate: float = 0.0
    attention_dropout_rate: float = 0.0
    """Dropout is only of training."""
    add_position_embedding: Literal[False] = False


class OctoConfig(BaseModel):
    """The model, in the original order of tokenizers: it is the order of tokens."""

    model_config = ConfigDict(frozen=True)

    images: dict[str, ImageTokenizer]
    stems: dict[str, Stem]
    """One per entry of `images`."""
    head_name: str
    head: Head
    width: int
    """Of a token in the transformer, D."""
    transformer: Transformer
    readouts: dict[str, int]
    """Tokens per readout and time step."""
    max_horizon: int
    """Longest window, time steps."""
    repeat_task_tokens: bool
    tokenizer: str = "t5-base"
    """Name of the text tokenizer."""
    max_tokens: int = 16
    """Tokens of an instruction."""
    finetune_encoder: bool = False
    """Whether T5 learns with the rest."""
    source: dict[str, Any] = Field(repr=False)
    """The whole file, to be written again."""


def read_config(path: Path) -> OctoConfig:
    """Read config.json.

    Raises:
        ConfigError: it cannot be read, or describes what is not supported; names the field and what would be.
    """
    try:
        values = json.loads(path.read_bytes())
        return parse_config(values, str(path))
    except OSError as error:
        raise ConfigError(f"{path.parent}: not an Octo checkpoint: {path.name} cannot be read ({error.strerror})") from None
    except (ValueError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path}: not valid JSON of an Octo checkpoint ({error}): truncated or altered?") from None


def parse_config(values: dict[str, Any], where: str) -> OctoConfig:
    """As `read_config`, of the parsed file.

    Raises:
        ConfigError: see `read_config`.
    """
    try:
        model = values["model"]
        if not model["use_correct_attention"]:
            raise ConfigError(f"{where}: use_correct_attention is false, as in Octo 1.0, which is not supported: use Octo 1.5")
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
        raise ConfigError(f"{where}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None


def _find(record: dict[str, Any], where: str) -> tuple[str, dict[str, Any]]:
    """Class and keyword arguments of a ``{module, name, args, kwargs}`` record."""
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
