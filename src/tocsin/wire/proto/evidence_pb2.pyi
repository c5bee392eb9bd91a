from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Reason(_message.Message):
    __slots__ = ("feature", "log_bf_q32", "detail")
    FEATURE_FIELD_NUMBER: _ClassVar[int]
    LOG_BF_Q32_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    feature: str
    log_bf_q32: int
    detail: str
    def __init__(self, feature: _Optional[str] = ..., log_bf_q32: _Optional[int] = ..., detail: _Optional[str] = ...) -> None: ...

class Evidence(_message.Message):
    __slots__ = ("monitor", "agent_id", "first_seq", "last_seq", "log_e_q32", "log_bf_q32", "baseline_epoch", "observed_ms", "reasons", "attestation", "kind")
    MONITOR_FIELD_NUMBER: _ClassVar[int]
    AGENT_ID_FIELD_NUMBER: _ClassVar[int]
    FIRST_SEQ_FIELD_NUMBER: _ClassVar[int]
    LAST_SEQ_FIELD_NUMBER: _ClassVar[int]
    LOG_E_Q32_FIELD_NUMBER: _ClassVar[int]
    LOG_BF_Q32_FIELD_NUMBER: _ClassVar[int]
    BASELINE_EPOCH_FIELD_NUMBER: _ClassVar[int]
    OBSERVED_MS_FIELD_NUMBER: _ClassVar[int]
    REASONS_FIELD_NUMBER: _ClassVar[int]
    ATTESTATION_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    monitor: int
    agent_id: str
    first_seq: int
    last_seq: int
    log_e_q32: int
    log_bf_q32: int
    baseline_epoch: int
    observed_ms: int
    reasons: _containers.RepeatedCompositeFieldContainer[Reason]
    attestation: bytes
    kind: int
    def __init__(self, monitor: _Optional[int] = ..., agent_id: _Optional[str] = ..., first_seq: _Optional[int] = ..., last_seq: _Optional[int] = ..., log_e_q32: _Optional[int] = ..., log_bf_q32: _Optional[int] = ..., baseline_epoch: _Optional[int] = ..., observed_ms: _Optional[int] = ..., reasons: _Optional[_Iterable[_Union[Reason, _Mapping]]] = ..., attestation: _Optional[bytes] = ..., kind: _Optional[int] = ...) -> None: ...

class BatchHeader(_message.Message):
    __slots__ = ("net", "config_hash", "monitor", "seq", "prev_hash", "through_offset", "fleet_size", "item_count", "items_root")
    NET_FIELD_NUMBER: _ClassVar[int]
    CONFIG_HASH_FIELD_NUMBER: _ClassVar[int]
    MONITOR_FIELD_NUMBER: _ClassVar[int]
    SEQ_FIELD_NUMBER: _ClassVar[int]
    PREV_HASH_FIELD_NUMBER: _ClassVar[int]
    THROUGH_OFFSET_FIELD_NUMBER: _ClassVar[int]
    FLEET_SIZE_FIELD_NUMBER: _ClassVar[int]
    ITEM_COUNT_FIELD_NUMBER: _ClassVar[int]
    ITEMS_ROOT_FIELD_NUMBER: _ClassVar[int]
    net: str
    config_hash: bytes
    monitor: int
    seq: int
    prev_hash: bytes
    through_offset: int
    fleet_size: int
    item_count: int
    items_root: bytes
    def __init__(self, net: _Optional[str] = ..., config_hash: _Optional[bytes] = ..., monitor: _Optional[int] = ..., seq: _Optional[int] = ..., prev_hash: _Optional[bytes] = ..., through_offset: _Optional[int] = ..., fleet_size: _Optional[int] = ..., item_count: _Optional[int] = ..., items_root: _Optional[bytes] = ...) -> None: ...

class EvidenceBatch(_message.Message):
    __slots__ = ("header", "signature", "items")
    HEADER_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    header: bytes
    signature: bytes
    items: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, header: _Optional[bytes] = ..., signature: _Optional[bytes] = ..., items: _Optional[_Iterable[bytes]] = ...) -> None: ...
