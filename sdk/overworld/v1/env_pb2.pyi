import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Transport(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    TRANSPORT_UNSPECIFIED: _ClassVar[Transport]
    TRANSPORT_INLINE: _ClassVar[Transport]
    TRANSPORT_SHARED_MEMORY: _ClassVar[Transport]
    TRANSPORT_INLINE_LZ4: _ClassVar[Transport]

class Fallback(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FALLBACK_UNSPECIFIED: _ClassVar[Fallback]
    FALLBACK_SKIP: _ClassVar[Fallback]
    FALLBACK_RANDOM: _ClassVar[Fallback]

class SlotState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SLOT_STATE_UNSPECIFIED: _ClassVar[SlotState]
    SLOT_STATE_READY: _ClassVar[SlotState]
    SLOT_STATE_PENDING: _ClassVar[SlotState]
    SLOT_STATE_FAILED: _ClassVar[SlotState]

class Outcome(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OUTCOME_UNSPECIFIED: _ClassVar[Outcome]
    OUTCOME_EXECUTED: _ClassVar[Outcome]
    OUTCOME_NO_ACTION: _ClassVar[Outcome]
    OUTCOME_NOT_ADMISSIBLE: _ClassVar[Outcome]

class End(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    END_UNSPECIFIED: _ClassVar[End]
    END_TASK: _ClassVar[End]
    END_RULE: _ClassVar[End]
    END_TIME_LIMIT: _ClassVar[End]
TRANSPORT_UNSPECIFIED: Transport
TRANSPORT_INLINE: Transport
TRANSPORT_SHARED_MEMORY: Transport
TRANSPORT_INLINE_LZ4: Transport
FALLBACK_UNSPECIFIED: Fallback
FALLBACK_SKIP: Fallback
FALLBACK_RANDOM: Fallback
SLOT_STATE_UNSPECIFIED: SlotState
SLOT_STATE_READY: SlotState
SLOT_STATE_PENDING: SlotState
SLOT_STATE_FAILED: SlotState
OUTCOME_UNSPECIFIED: Outcome
OUTCOME_EXECUTED: Outcome
OUTCOME_NO_ACTION: Outcome
OUTCOME_NOT_ADMISSIBLE: Outcome
END_UNSPECIFIED: End
END_TASK: End
END_RULE: End
END_TIME_LIMIT: End

class Tensor(_message.Message):
    __slots__ = ("dtype", "shape", "data")
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    dtype: str
    shape: _containers.RepeatedScalarFieldContainer[int]
    data: bytes
    def __init__(self, dtype: _Optional[str] = ..., shape: _Optional[_Iterable[int]] = ..., data: _Optional[bytes] = ...) -> None: ...

class ActionSpec(_message.Message):
    __slots__ = ("vocabulary", "max_text_bytes", "low", "high")
    VOCABULARY_FIELD_NUMBER: _ClassVar[int]
    MAX_TEXT_BYTES_FIELD_NUMBER: _ClassVar[int]
    LOW_FIELD_NUMBER: _ClassVar[int]
    HIGH_FIELD_NUMBER: _ClassVar[int]
    vocabulary: _containers.RepeatedScalarFieldContainer[str]
    max_text_bytes: int
    low: Tensor
    high: Tensor
    def __init__(self, vocabulary: _Optional[_Iterable[str]] = ..., max_text_bytes: _Optional[int] = ..., low: _Optional[_Union[Tensor, _Mapping]] = ..., high: _Optional[_Union[Tensor, _Mapping]] = ...) -> None: ...

class EnvSpec(_message.Message):
    __slots__ = ("id", "task", "success", "action", "max_turns", "reward_min", "reward_max", "options_schema", "splits", "default_split", "has_expert", "pixels_reproducible", "provenance")
    class SplitsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    class ProvenanceEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    ID_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    SUCCESS_FIELD_NUMBER: _ClassVar[int]
    ACTION_FIELD_NUMBER: _ClassVar[int]
    MAX_TURNS_FIELD_NUMBER: _ClassVar[int]
    REWARD_MIN_FIELD_NUMBER: _ClassVar[int]
    REWARD_MAX_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_SCHEMA_FIELD_NUMBER: _ClassVar[int]
    SPLITS_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_SPLIT_FIELD_NUMBER: _ClassVar[int]
    HAS_EXPERT_FIELD_NUMBER: _ClassVar[int]
    PIXELS_REPRODUCIBLE_FIELD_NUMBER: _ClassVar[int]
    PROVENANCE_FIELD_NUMBER: _ClassVar[int]
    id: str
    task: str
    success: str
    action: ActionSpec
    max_turns: int
    reward_min: float
    reward_max: float
    options_schema: str
    splits: _containers.ScalarMap[str, int]
    default_split: str
    has_expert: bool
    pixels_reproducible: str
    provenance: _containers.ScalarMap[str, str]
    def __init__(self, id: _Optional[str] = ..., task: _Optional[str] = ..., success: _Optional[str] = ..., action: _Optional[_Union[ActionSpec, _Mapping]] = ..., max_turns: _Optional[int] = ..., reward_min: _Optional[float] = ..., reward_max: _Optional[float] = ..., options_schema: _Optional[str] = ..., splits: _Optional[_Mapping[str, int]] = ..., default_split: _Optional[str] = ..., has_expert: bool = ..., pixels_reproducible: _Optional[str] = ..., provenance: _Optional[_Mapping[str, str]] = ...) -> None: ...

class GetServerInfoRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetServerInfoResponse(_message.Message):
    __slots__ = ("instance", "revision", "features", "transports", "versions", "slots_total", "slots_free", "draining", "max_request_bytes", "envs", "max_response_bytes", "keepalive", "checksum")
    class VersionsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    TRANSPORTS_FIELD_NUMBER: _ClassVar[int]
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    SLOTS_TOTAL_FIELD_NUMBER: _ClassVar[int]
    SLOTS_FREE_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    MAX_REQUEST_BYTES_FIELD_NUMBER: _ClassVar[int]
    ENVS_FIELD_NUMBER: _ClassVar[int]
    MAX_RESPONSE_BYTES_FIELD_NUMBER: _ClassVar[int]
    KEEPALIVE_FIELD_NUMBER: _ClassVar[int]
    CHECKSUM_FIELD_NUMBER: _ClassVar[int]
    instance: str
    revision: int
    features: _containers.RepeatedScalarFieldContainer[str]
    transports: _containers.RepeatedScalarFieldContainer[Transport]
    versions: _containers.ScalarMap[str, str]
    slots_total: int
    slots_free: int
    draining: bool
    max_request_bytes: int
    envs: _containers.RepeatedCompositeFieldContainer[EnvSpec]
    max_response_bytes: int
    keepalive: _duration_pb2.Duration
    checksum: int
    def __init__(self, instance: _Optional[str] = ..., revision: _Optional[int] = ..., features: _Optional[_Iterable[str]] = ..., transports: _Optional[_Iterable[_Union[Transport, str]]] = ..., versions: _Optional[_Mapping[str, str]] = ..., slots_total: _Optional[int] = ..., slots_free: _Optional[int] = ..., draining: bool = ..., max_request_bytes: _Optional[int] = ..., envs: _Optional[_Iterable[_Union[EnvSpec, _Mapping]]] = ..., max_response_bytes: _Optional[int] = ..., keepalive: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., checksum: _Optional[int] = ...) -> None: ...

class OpenRequest(_message.Message):
    __slots__ = ("session", "env_id", "slots", "options_json", "transports", "lease", "fallback", "fallback_reward", "expert", "required_features")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    ENV_ID_FIELD_NUMBER: _ClassVar[int]
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_JSON_FIELD_NUMBER: _ClassVar[int]
    TRANSPORTS_FIELD_NUMBER: _ClassVar[int]
    LEASE_FIELD_NUMBER: _ClassVar[int]
    FALLBACK_FIELD_NUMBER: _ClassVar[int]
    FALLBACK_REWARD_FIELD_NUMBER: _ClassVar[int]
    EXPERT_FIELD_NUMBER: _ClassVar[int]
    REQUIRED_FEATURES_FIELD_NUMBER: _ClassVar[int]
    session: str
    env_id: str
    slots: int
    options_json: str
    transports: _containers.RepeatedScalarFieldContainer[Transport]
    lease: _duration_pb2.Duration
    fallback: Fallback
    fallback_reward: float
    expert: bool
    required_features: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, session: _Optional[str] = ..., env_id: _Optional[str] = ..., slots: _Optional[int] = ..., options_json: _Optional[str] = ..., transports: _Optional[_Iterable[_Union[Transport, str]]] = ..., lease: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., fallback: _Optional[_Union[Fallback, str]] = ..., fallback_reward: _Optional[float] = ..., expert: bool = ..., required_features: _Optional[_Iterable[str]] = ...) -> None: ...

class SharedMemory(_message.Message):
    __slots__ = ("path", "size", "nonce")
    PATH_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    NONCE_FIELD_NUMBER: _ClassVar[int]
    path: str
    size: int
    nonce: bytes
    def __init__(self, path: _Optional[str] = ..., size: _Optional[int] = ..., nonce: _Optional[bytes] = ...) -> None: ...

class OpenResponse(_message.Message):
    __slots__ = ("spec", "options_json", "provenance_digest", "transport", "shared", "lease", "checksum")
    SPEC_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_JSON_FIELD_NUMBER: _ClassVar[int]
    PROVENANCE_DIGEST_FIELD_NUMBER: _ClassVar[int]
    TRANSPORT_FIELD_NUMBER: _ClassVar[int]
    SHARED_FIELD_NUMBER: _ClassVar[int]
    LEASE_FIELD_NUMBER: _ClassVar[int]
    CHECKSUM_FIELD_NUMBER: _ClassVar[int]
    spec: EnvSpec
    options_json: str
    provenance_digest: str
    transport: Transport
    shared: SharedMemory
    lease: _duration_pb2.Duration
    checksum: int
    def __init__(self, spec: _Optional[_Union[EnvSpec, _Mapping]] = ..., options_json: _Optional[str] = ..., provenance_digest: _Optional[str] = ..., transport: _Optional[_Union[Transport, str]] = ..., shared: _Optional[_Union[SharedMemory, _Mapping]] = ..., lease: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., checksum: _Optional[int] = ...) -> None: ...

class Action(_message.Message):
    __slots__ = ("text", "index", "tensor", "reply")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    TENSOR_FIELD_NUMBER: _ClassVar[int]
    REPLY_FIELD_NUMBER: _ClassVar[int]
    text: str
    index: int
    tensor: Tensor
    reply: str
    def __init__(self, text: _Optional[str] = ..., index: _Optional[int] = ..., tensor: _Optional[_Union[Tensor, _Mapping]] = ..., reply: _Optional[str] = ...) -> None: ...

class Reset(_message.Message):
    __slots__ = ("seed", "split", "task", "prefix")
    SEED_FIELD_NUMBER: _ClassVar[int]
    SPLIT_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    PREFIX_FIELD_NUMBER: _ClassVar[int]
    seed: int
    split: str
    task: int
    prefix: _containers.RepeatedCompositeFieldContainer[Action]
    def __init__(self, seed: _Optional[int] = ..., split: _Optional[str] = ..., task: _Optional[int] = ..., prefix: _Optional[_Iterable[_Union[Action, _Mapping]]] = ...) -> None: ...

class Command(_message.Message):
    __slots__ = ("slot", "episode", "turn", "reset", "action")
    SLOT_FIELD_NUMBER: _ClassVar[int]
    EPISODE_FIELD_NUMBER: _ClassVar[int]
    TURN_FIELD_NUMBER: _ClassVar[int]
    RESET_FIELD_NUMBER: _ClassVar[int]
    ACTION_FIELD_NUMBER: _ClassVar[int]
    slot: int
    episode: int
    turn: int
    reset: Reset
    action: Action
    def __init__(self, slot: _Optional[int] = ..., episode: _Optional[int] = ..., turn: _Optional[int] = ..., reset: _Optional[_Union[Reset, _Mapping]] = ..., action: _Optional[_Union[Action, _Mapping]] = ...) -> None: ...

class StepRequest(_message.Message):
    __slots__ = ("session", "commands", "min_ready")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    COMMANDS_FIELD_NUMBER: _ClassVar[int]
    MIN_READY_FIELD_NUMBER: _ClassVar[int]
    session: str
    commands: _containers.RepeatedCompositeFieldContainer[Command]
    min_ready: int
    def __init__(self, session: _Optional[str] = ..., commands: _Optional[_Iterable[_Union[Command, _Mapping]]] = ..., min_ready: _Optional[int] = ...) -> None: ...

class Part(_message.Message):
    __slots__ = ("text", "image")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    IMAGE_FIELD_NUMBER: _ClassVar[int]
    text: str
    image: int
    def __init__(self, text: _Optional[str] = ..., image: _Optional[int] = ...) -> None: ...

class Image(_message.Message):
    __slots__ = ("name", "block", "index", "xxh64")
    NAME_FIELD_NUMBER: _ClassVar[int]
    BLOCK_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    XXH64_FIELD_NUMBER: _ClassVar[int]
    name: str
    block: int
    index: int
    xxh64: int
    def __init__(self, name: _Optional[str] = ..., block: _Optional[int] = ..., index: _Optional[int] = ..., xxh64: _Optional[int] = ...) -> None: ...

class Observation(_message.Message):
    __slots__ = ("parts", "images", "admissible", "tensors")
    class TensorsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Tensor
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Tensor, _Mapping]] = ...) -> None: ...
    PARTS_FIELD_NUMBER: _ClassVar[int]
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    ADMISSIBLE_FIELD_NUMBER: _ClassVar[int]
    TENSORS_FIELD_NUMBER: _ClassVar[int]
    parts: _containers.RepeatedCompositeFieldContainer[Part]
    images: _containers.RepeatedCompositeFieldContainer[Image]
    admissible: _containers.RepeatedScalarFieldContainer[str]
    tensors: _containers.MessageMap[str, Tensor]
    def __init__(self, parts: _Optional[_Iterable[_Union[Part, _Mapping]]] = ..., images: _Optional[_Iterable[_Union[Image, _Mapping]]] = ..., admissible: _Optional[_Iterable[str]] = ..., tensors: _Optional[_Mapping[str, Tensor]] = ...) -> None: ...

class Expert(_message.Message):
    __slots__ = ("action", "thoughts", "caption")
    ACTION_FIELD_NUMBER: _ClassVar[int]
    THOUGHTS_FIELD_NUMBER: _ClassVar[int]
    CAPTION_FIELD_NUMBER: _ClassVar[int]
    action: Action
    thoughts: str
    caption: str
    def __init__(self, action: _Optional[_Union[Action, _Mapping]] = ..., thoughts: _Optional[str] = ..., caption: _Optional[str] = ...) -> None: ...

class SlotError(_message.Message):
    __slots__ = ("reason", "message", "reset_helps")
    REASON_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    RESET_HELPS_FIELD_NUMBER: _ClassVar[int]
    reason: str
    message: str
    reset_helps: bool
    def __init__(self, reason: _Optional[str] = ..., message: _Optional[str] = ..., reset_helps: bool = ...) -> None: ...

class SlotResult(_message.Message):
    __slots__ = ("slot", "episode", "turn", "state", "error", "observation", "reward", "terminated", "truncated", "end", "success", "outcome", "executed", "metrics", "expert", "micros")
    class MetricsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    SLOT_FIELD_NUMBER: _ClassVar[int]
    EPISODE_FIELD_NUMBER: _ClassVar[int]
    TURN_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    OBSERVATION_FIELD_NUMBER: _ClassVar[int]
    REWARD_FIELD_NUMBER: _ClassVar[int]
    TERMINATED_FIELD_NUMBER: _ClassVar[int]
    TRUNCATED_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    SUCCESS_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    EXECUTED_FIELD_NUMBER: _ClassVar[int]
    METRICS_FIELD_NUMBER: _ClassVar[int]
    EXPERT_FIELD_NUMBER: _ClassVar[int]
    MICROS_FIELD_NUMBER: _ClassVar[int]
    slot: int
    episode: int
    turn: int
    state: SlotState
    error: SlotError
    observation: Observation
    reward: float
    terminated: bool
    truncated: bool
    end: End
    success: bool
    outcome: Outcome
    executed: Action
    metrics: _containers.ScalarMap[str, float]
    expert: Expert
    micros: int
    def __init__(self, slot: _Optional[int] = ..., episode: _Optional[int] = ..., turn: _Optional[int] = ..., state: _Optional[_Union[SlotState, str]] = ..., error: _Optional[_Union[SlotError, _Mapping]] = ..., observation: _Optional[_Union[Observation, _Mapping]] = ..., reward: _Optional[float] = ..., terminated: bool = ..., truncated: bool = ..., end: _Optional[_Union[End, str]] = ..., success: bool = ..., outcome: _Optional[_Union[Outcome, str]] = ..., executed: _Optional[_Union[Action, _Mapping]] = ..., metrics: _Optional[_Mapping[str, float]] = ..., expert: _Optional[_Union[Expert, _Mapping]] = ..., micros: _Optional[int] = ...) -> None: ...

class FrameBlock(_message.Message):
    __slots__ = ("offset", "stride", "count", "height", "width", "channels", "compressed_size")
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    STRIDE_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    HEIGHT_FIELD_NUMBER: _ClassVar[int]
    WIDTH_FIELD_NUMBER: _ClassVar[int]
    CHANNELS_FIELD_NUMBER: _ClassVar[int]
    COMPRESSED_SIZE_FIELD_NUMBER: _ClassVar[int]
    offset: int
    stride: int
    count: int
    height: int
    width: int
    channels: int
    compressed_size: int
    def __init__(self, offset: _Optional[int] = ..., stride: _Optional[int] = ..., count: _Optional[int] = ..., height: _Optional[int] = ..., width: _Optional[int] = ..., channels: _Optional[int] = ..., compressed_size: _Optional[int] = ...) -> None: ...

class StepResponse(_message.Message):
    __slots__ = ("results", "blocks", "draining", "lease_left", "checksum", "frames")
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    BLOCKS_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    LEASE_LEFT_FIELD_NUMBER: _ClassVar[int]
    CHECKSUM_FIELD_NUMBER: _ClassVar[int]
    FRAMES_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[SlotResult]
    blocks: _containers.RepeatedCompositeFieldContainer[FrameBlock]
    draining: bool
    lease_left: _duration_pb2.Duration
    checksum: int
    frames: bytes
    def __init__(self, results: _Optional[_Iterable[_Union[SlotResult, _Mapping]]] = ..., blocks: _Optional[_Iterable[_Union[FrameBlock, _Mapping]]] = ..., draining: bool = ..., lease_left: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., checksum: _Optional[int] = ..., frames: _Optional[bytes] = ...) -> None: ...

class CloseRequest(_message.Message):
    __slots__ = ("session",)
    SESSION_FIELD_NUMBER: _ClassVar[int]
    session: str
    def __init__(self, session: _Optional[str] = ...) -> None: ...

class CloseResponse(_message.Message):
    __slots__ = ("checksum",)
    CHECKSUM_FIELD_NUMBER: _ClassVar[int]
    checksum: int
    def __init__(self, checksum: _Optional[int] = ...) -> None: ...
