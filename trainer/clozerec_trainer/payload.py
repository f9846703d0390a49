"""The training payload: every key with its meaning, unit, range and default, checked before any data is read.

Written as YAML or JSON; paths in it are relative to the file. A preset lies under the explicit keys.
"""

from __future__ import annotations

import importlib.resources
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from clozerec_core.errors import UsageError
from clozerec_core.wording import suggest

LEAST_WEIGHT = 1e-6
LEAST_TEMPERATURE = 0.01
"""Below it float32 logits overflow the softmax's useful range; a learned temperature stops there, too."""

TimestampUnit = Literal["auto", "s", "ms", "us", "ns"]
Baseline = Literal["popularity", "recent_popularity", "item_knn", "content_knn", "matrix_factorisation"]
Boundary = Annotated[float, Field(gt=0, lt=1)] | str


PATHS = ("interactions", "items", "start_from")
"""Keys whose values are paths, relative to the payload's file."""


class Payload(BaseModel):
    """What to train on, and how. Unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False)

    interactions: Path = Field(description="CSV or Parquet file of events, or a glob; relative to the payload")
    items: Path | None = Field(None, description="CSV or Parquet file of items, or a glob; null: ids alone")
    user_column: str = Field(description="column of user ids in the interactions; read as text")
    item_column: str = Field(description="column of item ids in both tables; read as text")
    timestamp_column: str = Field(description="column of event times: numbers, datetimes or RFC 3339 text")
    timestamp_unit: TimestampUnit = Field(
        "auto", description="unit of numeric times since 1970; auto: found out and said"
    )
    event_type_column: str | None = Field(None, description="column with the kind of event; null: all are alike")
    event_weights: dict[str, float] = Field(
        {}, description="kind of event to its weight in the loss, 0 or more; 0 drops such events; kinds not named: 1"
    )
    duplicates: Literal["refuse", "drop", "keep"] = Field(
        "refuse", description="events equal in user, item, kind and time: an error, counted once, or counted each"
    )
    metadata_columns: tuple[str, ...] = Field(
        (), description="columns of the items table whose text is embedded; none: no text engine"
    )
    list_columns: dict[str, str] = Field({}, description="text columns to split into lists, with the separator of each")
    display_name: str | None = Field(None, description="column of the items table shown as the name; null: the item id")

    max_sequence_length: int = Field(50, ge=1, le=2048, description="items that the network reads beside the mask")
    sequence_sampling: Literal["sliding_window", "shifted_window", "last_window"] = Field(
        "sliding_window",
        description="training windows: all along a history, the same but from another place at each pass, or its "
        "newest only",
    )
    sequence_stride: int | None = Field(
        None, ge=1, description="items between starts of sliding windows; null: half the length"
    )
    masking_ratio: float = Field(0.15, gt=0, lt=1, description="share of a window's items that Cloze hides")
    last_item_ratio: float = Field(
        0.1, ge=0, le=1, description="share of windows where only the last item is hidden, as it is when serving"
    )
    causal_ratio: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of batches that train the same weights to name the next item at every position, seeing the "
        "past only; 0: pure Cloze",
    )

    hidden_size: int = Field(
        64, ge=1, le=4096, description="dims of item vectors and hidden states; divisible by attention_heads"
    )
    model_depth: int = Field(2, ge=1, le=64, description="transformer blocks")
    attention_heads: int = Field(4, ge=1, description="heads of each block")
    dropout_rate: float = Field(0.1, ge=0, lt=1, description="share of activations dropped in training")
    use_attention_mask: bool = Field(True, description="false: padding is read like anything else")
    taste: bool = Field(
        True,
        description="false: intents come from the transformer alone, without a weighted mean of the vectors read",
    )
    weight_tying: bool = Field(False, description="true: one set of item vectors is read and ranked")
    content_dims: int = Field(
        0, ge=0, description="principal dims of the text vectors to keep after whitening; 0: all that carry variance"
    )
    behaviour_dropout: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="share of items whose id part is dropped at a step, so that text alone becomes good",
    )
    behaviour_limit: float | None = Field(
        None,
        gt=0,
        description="longest id part of an item with text, as a share of its text part, so that new items stand a "
        "chance beside known ones; null: no limit",
    )
    new_item_lift: float = Field(
        0.0,
        ge=0,
        le=0.3,
        description="what is added to the score of items without training events, for a text of mean length and in "
        "units of a cosine, so that known items do not win for being known; nothing where there are no texts",
    )
    temperature: float | None = Field(
        None, ge=LEAST_TEMPERATURE, description="divides the cosine in the loss; null: learned"
    )

    training_epochs: int = Field(10, ge=1, description="passes over the training windows")
    learning_rate: float = Field(0.001, gt=0, description="peak of AdamW's; cosine decay to zero")
    warmup_ratio: float = Field(0.05, ge=0, lt=1, description="share of steps in which the learning rate rises")
    weight_decay: float = Field(0.01, ge=0, description="AdamW's, on matrices only")
    gradient_clipping: float = Field(1.0, ge=0, description="largest gradient norm of a step; 0: off")
    negative_samples: int = Field(
        100,
        ge=0,
        le=100_000,
        description="wrong items against each right one, drawn for each step; 0: all (full softmax)",
    )
    batch_size: int = Field(128, ge=1, le=65_536, description="windows a step")
    validate_every: int = Field(1, ge=1, description="epochs between validations; the best validated epoch is kept")
    patience: int = Field(
        0, ge=0, description="validations without a better one after which training stops; 0: it runs to the end"
    )
    checkpoint_seconds: float = Field(
        60, ge=0, description="between checkpoints in an epoch; one is kept after each epoch anyway"
    )
    start_from: Path | None = Field(
        None, description="checkpoint whose best weights to begin with, of a model of this shape; null: at random"
    )
    seed: int = Field(0, ge=0, lt=2**63, description="equal seeds, data and versions on a CPU give equal weights")
    device: str = Field("auto", pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$", description="auto: a GPU where there is one")
    refit: bool = Field(
        False, description="after the metrics, train once more on every event, for as many epochs as the best took"
    )
    index_quantisation: Literal["none", "sq8"] = Field(
        "none", description="of large catalogues: sq8 keeps 8-bit codes in memory and leaves the vectors on disk"
    )
    text_model: str | None = Field(
        None,
        description="directory or hub name of a MiniLM-like sentence model; null: the one that is installed with us",
    )

    split: Literal["leave_one_out", "global_time"] = Field(
        "leave_one_out", description="what is held out: everybody's last two events, or all events from a moment on"
    )
    validation_start: Boundary = Field(
        0.8, description="of global_time: where validation begins, as a share of the events or an RFC 3339 moment"
    )
    test_start: Boundary = Field(0.9, description="of global_time: where the test begins; written alike")
    judged_events: int = Field(
        50_000, ge=1, description="held-out events of a part that are judged at most, drawn evenly"
    )
    baselines: tuple[Baseline, ...] = Field(
        get_args(Baseline), description="what the model is compared with; each takes its time on large catalogues"
    )

    top_k_results: int = Field(10, ge=1, le=1000, description="answers of a request that does not say; also reported")
    exclude_seen: bool = Field(True, description="false suits music and groceries, where people come back")

    @field_validator("*", mode="before")
    @classmethod
    def _yes_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        """YAML reads `yes` and `on` as true, and Python takes true for 1."""
        kind = cls.model_fields[info.field_name or ""].annotation
        if isinstance(value, bool) and kind not in (bool, Path, Path | None):
            raise ValueError(f"{info.field_name}: is true or false, which is not what belongs here")
        if value == "":
            raise ValueError(f"{info.field_name}: is empty; leave the key out, or give it a value")
        return value

    @field_validator("validation_start", "test_start", mode="before")
    @classmethod
    def _dates_are_text(cls, value: Any) -> Any:
        """YAML reads an unquoted date as one."""
        return value.isoformat() if isinstance(value, date) else value

    @field_validator("metadata_columns", mode="before")
    @classmethod
    def _one_column_is_a_list_of_one(cls, value: Any) -> Any:
        if isinstance(value, str):
            raise ValueError(f"metadata_columns: is a list of columns; write [{value}]")
        return value

    @field_validator("event_weights", mode="before")
    @classmethod
    def _kinds_are_text(cls, value: Any) -> Any:
        """Ratings as kinds of event are numbers in YAML."""
        return {str(kind): weight for kind, weight in value.items()} if isinstance(value, Mapping) else value

    @field_validator("event_weights")
    @classmethod
    def _weights_are_in_range(cls, weights: dict[str, float]) -> dict[str, float]:
        for kind, weight in weights.items():
            if weight != 0 and not LEAST_WEIGHT <= weight <= 1 / LEAST_WEIGHT:
                raise ValueError(
                    f'the weight of "{kind}" is {weight}; it must be 0, or from {LEAST_WEIGHT} to '
                    f"{1 / LEAST_WEIGHT:.0f}"
                )
        return weights

    @field_validator("list_columns")
    @classmethod
    def _separators_are_not_empty(cls, columns: dict[str, str]) -> dict[str, str]:
        for column, separator in columns.items():
            if not separator:
                raise ValueError(f'the separator of "{column}" is empty; give the text between members, such as "|"')
        return columns

    @field_validator(*PATHS)
    @classmethod
    def _paths_start_at_the_payload(cls, path: Path | None, info: ValidationInfo) -> Path | None:
        base: Path | None = (info.context or {}).get("base_dir")
        return path if path is None or base is None else base / path

    @model_validator(mode="after")
    def _keys_fit_together(self) -> Self:
        if self.hidden_size % self.attention_heads:
            lower = self.hidden_size - self.hidden_size % self.attention_heads
            near = [str(size) for size in (lower, lower + self.attention_heads) if size]
            raise ValueError(
                f"hidden_size {self.hidden_size} is not divisible by attention_heads {self.attention_heads}; "
                f"{' or '.join(near)} would be"
            )
        if self.new_item_lift and self.hidden_size < 2:
            raise ValueError("new_item_lift takes one direction of the space, so hidden_size must be 2 or more")
        if self.sequence_stride is not None and self.sequence_stride > self.max_sequence_length:
            raise ValueError(
                f"sequence_stride {self.sequence_stride} is longer than max_sequence_length "
                f"{self.max_sequence_length}; events between windows would never be trained on"
            )
        boundaries = ("validation_start", "test_start")
        if self.split != "global_time" and any(
            getattr(self, key) != type(self).model_fields[key].default for key in boundaries
        ):
            raise ValueError("validation_start and test_start belong to `split: global_time`")
        columns = [self.user_column, self.item_column, self.timestamp_column]
        if len(set(columns)) < len(columns):
            raise ValueError("user_column, item_column and timestamp_column must be three different columns")
        for key, names in (("metadata_columns", self.metadata_columns), ("list_columns", tuple(self.list_columns))):
            if self.item_column in names:
                raise ValueError(f'{key} names "{self.item_column}", the item_column; ids have no meaning as text')
        if self.event_weights and self.event_type_column is None:
            raise ValueError("event_weights needs event_type_column, the column that says the kind of event")
        needs_items = {
            "metadata_columns": self.metadata_columns,
            "list_columns": self.list_columns,
            "display_name": self.display_name,
        }
        for key, value in needs_items.items():
            if value and self.items is None:
                raise ValueError(f"{key} names columns of the items table, but items is not given")
        return self

    @property
    def stride(self) -> int:
        """Items between starts of sliding windows."""
        return self.sequence_stride or max(1, self.max_sequence_length // 2)


def load_payload(path: Path, preset: str | None = None) -> Payload:
    """Read a payload file, over a preset where one is named.

    Raises:
        UsageError: no such file or preset, a syntax error, or a key that is unknown or wrong; all faults are named.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot read payload {path}: {getattr(error, 'strerror', None) or error}") from None
    document = _parse(text, str(path))
    return parse_payload({**(read_preset(preset) if preset else {}), **document}, path.parent, str(path))


def parse_payload(document: Mapping[str, Any], base_dir: Path, name: str = "payload") -> Payload:
    """A checked payload from its keys; relative paths start at `base_dir`."""
    try:
        return Payload.model_validate(dict(document), context={"base_dir": base_dir})
    except ValidationError as error:
        raise UsageError(f"{name}: {'; '.join(_explain(fault) for fault in error.errors())}") from None


def preset_names() -> list[str]:
    """What `--preset` takes."""
    names = (entry.name for entry in importlib.resources.files("clozerec_trainer").joinpath("presets").iterdir())
    return sorted(name.removesuffix(".yaml") for name in names if name.endswith(".yaml"))


def read_preset(name: str) -> dict[str, Any]:
    """The keys of a preset."""
    if name not in preset_names():
        raise UsageError(
            f'preset "{name}" is unknown{suggest(name, preset_names())}; one of {", ".join(preset_names())}'
        )
    file = importlib.resources.files("clozerec_trainer").joinpath("presets", f"{name}.yaml")
    return _parse(file.read_text(encoding="utf-8"), name)


def _parse(text: str, name: str) -> dict[str, Any]:
    """YAML, of which JSON is a part."""
    try:
        document = yaml.load(text, _OneOfEachKey)  # noqa: S506  # a SafeLoader
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UsageError(f"{name} is neither YAML nor JSON: {' '.join(str(error).split())}") from None
    if not isinstance(document, dict):
        raise UsageError(f"{name} must be an object of keys, such as `user_column: user_id`")
    return {str(key): value for key, value in document.items()}


class _OneOfEachKey(yaml.SafeLoader):
    """Safe YAML in which a key stands once; plain YAML would let the last one win without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise ValueError(f'the key "{key}" stands twice')
        return super().construct_mapping(node, deep)


def _explain(fault: Any) -> str:
    key = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        return f'key "{key}" is unknown{suggest(key, list(Payload.model_fields))}'
    message = str(fault["msg"]).removeprefix("Value error, ")
    field = Payload.model_fields.get(str(fault["loc"][0])) if fault["loc"] else None
    if fault["type"] == "missing" and field is not None:
        return f"{key} is missing: {field.description}"
    return f"{key}: {message}, not {fault['input']!r}" if key and fault["type"] != "value_error" else message
