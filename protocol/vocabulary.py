"""The closed sets of words on the wire. Standard library only, so that every layer may import it."""

from enum import StrEnum

PROTOCOL_VERSION = 1

INT64_MAX = 2**63 - 1
"""Largest integer on the wire: what a C# ``long`` holds."""

FOREVER = -1
"""A keep-alive in milliseconds or seconds: the model stays until evicted."""

MAX_NESTING = 64
"""Deepest nesting of a request, the envelope being level 1."""

DEFAULT_MAX_FRAME_BYTES = 16 * 2**20
DEFAULT_MAX_INFLIGHT = 256

REPLAY_CAPACITY = 1024
"""Answers of changing requests that are kept for a repeated ``request_id``."""

TRANSFER_CAPACITY = 1024
"""Transfer records that are kept for ``memory.get_transfer``."""

FIGURES_EVERY_MS = 30_000
"""How often ``memory.figures`` comes, unless the subscription says otherwise."""

NODE_SEPARATOR = "/"
"""Between a node and its device in the device ids of a fleet: `node-1/cuda:0`. No other device id has one."""

CLEARED_IDS_MAX = 10_000
"""Ids of freed allocations that ``memory.clear`` answers; beyond it, the list of those that are left says more."""

DEFAULT_THRESHOLDS = (75.0, 90.0, 95.0)
"""Pressure percentages at which a device becomes moderate, high and critical."""


class MemoryType(StrEnum):
    """Where an allocation lies, seen from its device."""

    DEVICE = "device"
    HOST = "host"
    PINNED = "pinned"
    SHARED = "shared"
    EXTERNAL = "external"


class SharedMemoryKind(StrEnum):
    """What a host maps to reach a shared allocation."""

    FILE = "file"
    SECTION = "section"
    """Windows: a named section of the page file, which leaves nothing behind on a disk."""


class PressureLevel(StrEnum):
    """How close a device is to running out."""

    LOW = "low"
    MODERATE = "moderate"
    HIGH = "high"
    CRITICAL = "critical"
    UNKNOWN = "unknown"


class DeviceKind(StrEnum):
    """Which backend answers for a device."""

    CPU = "cpu"
    CUDA = "cuda"
    DIRECTML = "directml"
    SIMULATED = "simulated"
    XPU = "xpu"


class DeviceState(StrEnum):
    """Whether a device can be asked for memory."""

    AVAILABLE = "available"
    PROBING = "probing"
    UNAVAILABLE = "unavailable"
    LOST = "lost"


class HealthState(StrEnum):
    """How a part of the worker is."""

    OK = "ok"
    STARTING = "starting"
    DEGRADED = "degraded"
    """It works, and not as well as it should."""
    FAILED = "failed"
    OFF = "off"
    """It is not there, and the worker goes without it."""


class ModelState(StrEnum):
    """Where a model's weights are."""

    UNLOADED = "unloaded"
    LOADING = "loading"
    LOADED = "loaded"
    OFFLOADED = "offloaded"
    UNLOADING = "unloading"
    FAILED = "failed"


class FileLocation(StrEnum):
    """Where a worker finds a model's file."""

    LOCAL = "local"
    """On storage of its machine."""
    SHARED = "shared"
    """On a share, over a link: other machines may have it too."""
    ABSENT = "absent"
    """Nowhere."""


class TransferState(StrEnum):
    """How far a transfer has come."""

    QUEUED = "queued"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Source(StrEnum):
    """Whose number a figure is."""

    DXGI = "dxgi"
    DXCORE = "dxcore"
    PDH = "pdh"
    NVML = "nvml"
    TORCH = "torch"
    CGROUP = "cgroup"
    OS = "os"
    CONFIG = "config"
    LEDGER = "ledger"


class Initialize(StrEnum):
    """What an allocation's bytes are when it is handed out."""

    ZERO = "zero"
    NONE = "none"


class TransferType(StrEnum):
    """Whether the source stays."""

    COPY = "copy"
    MOVE = "move"


class ClearType(StrEnum):
    """What ``memory.clear`` gives up."""

    CACHE = "cache"
    ALLOCATIONS = "allocations"
    MODELS = "models"
    ALL = "all"


class OptimizationLevel(StrEnum):
    """How far ``memory.optimize`` may go."""

    CONSERVATIVE = "conservative"
    NORMAL = "normal"
    AGGRESSIVE = "aggressive"


class LeakKind(StrEnum):
    """What grows."""

    ALLOCATIONS = "allocations"
    """What one owner allocated for one purpose."""
    PROCESS = "process"
    """The worker's process, beyond what ledger, models and caches explain."""
    PYTHON = "python"
    """Python objects made at one line of code."""


class FreedBy(StrEnum):
    """Who alone can free what is held."""

    OWNER = "owner"
    """Whoever allocated or loaded it, by ``memory.deallocate`` or ``memory.unload_model``."""
    LEASE = "lease"
    """It goes by itself when its lease ends, unless its owner frees it sooner."""
    HOST = "host"
    """The process that holds it: the worker only has a record of it."""
    WORKER = "worker"
    """The worker, unasked or by a recommended action: caches, and models that nobody uses."""
    USE = "use"
    """The end of its use: a model that is in use, or pinned."""
    PROCESS_END = "process_end"
    """The end of the process that has it: nothing in it is known to the ledger."""
    OTHER_PROCESS = "other_process"
    """Processes that are none of the worker's."""


class GroupBy(StrEnum):
    """What ``memory.get_usage`` adds up by."""

    OWNER = "owner"
    PURPOSE = "purpose"
    MEMORY_TYPE = "memory_type"


class EvictionStrategy(StrEnum):
    """Which model goes first."""

    ADAPTIVE = "adaptive"
    COST_AWARE = "cost_aware"
    LRU = "lru"
    LFU = "lfu"
    LARGEST_FIRST = "largest_first"
    PRIORITY = "priority"


class UnloadMode(StrEnum):
    """How a model gives up its memory on the device."""

    UNLOAD = "unload"
    OFFLOAD = "offload"
    SHRINK = "shrink"


class StoreKind(StrEnum):
    """What a store is for, and so how it behaves."""

    CACHE = "cache"
    """What can be made again: the entries that are cheapest to make again, and least used, go first."""
    SESSIONS = "sessions"
    """What cannot: at most so many, for so long after they were used last."""
    VECTORS = "vectors"
    """Vectors, found by what they are near to."""
    PREFERENCES = "preferences"
    """Small, and never given up."""
    DOCUMENTS = "documents"
    """Texts of a project in pieces, found by their words, by vectors, or by both."""
    KV = "kv"
    """What models made of the beginnings of prompts: tensors, found by the longest one that a prompt begins with."""


class StorePreset(StrEnum):
    """Options of a cache that go together."""

    RESPONSES = "responses"
    """50 entries, each for 300 s."""
    RAG = "rag"
    """100 entries, each for 180 s."""
    RESULTS = "results"
    """Persistent."""


class VectorMetric(StrEnum):
    """How near two vectors are."""

    COSINE = "cosine"
    DOT = "dot"
    L2 = "l2"


class AnalyticsSection(StrEnum):
    """A part of the ``memory.get_analytics`` answer."""

    ACTIONS = "actions"
    TIMELINE = "timeline"
    LEAKS = "leaks"
    EVICTIONS = "evictions"
    EXPIRATIONS = "expirations"


class EventName(StrEnum):
    """What ``worker.subscribe`` can ask for."""

    PRESSURE_CHANGED = "memory.pressure_changed"
    EXHAUSTION_FORECAST = "memory.exhaustion_forecast"
    BUDGET_CHANGED = "memory.budget_changed"
    LEAK_SUSPECTED = "memory.leak_suspected"
    OPTIMIZED = "memory.optimized"
    ALLOCATION_EXPIRED = "memory.allocation_expired"
    MODEL_UNLOADED = "memory.model_unloaded"
    UNLOAD_REQUESTED = "memory.unload_requested"
    DEVICE_LOST = "device.lost"
    DEVICE_RECOVERED = "device.recovered"
    CONTENTS_DISPLACED = "device.contents_displaced"
    DEMOTION_CHANGED = "memory.demotion_changed"
    RELEASE_REQUESTED = "memory.release_requested"
    CONSUMER_LIMIT_CHANGED = "memory.consumer_limit_changed"
    FIGURES = "memory.figures"
    """Comes as often as the subscription says, whatever happens; the others tell of what happened."""


class Executed(StrEnum):
    """Whether a failed request changed anything."""

    NO = "no"
    YES = "yes"
    UNKNOWN = "unknown"


class ErrorCode(StrEnum):
    """Why a request failed."""

    INVALID_JSON = "invalid_json"
    INVALID_REQUEST = "invalid_request"
    UNKNOWN_ACTION = "unknown_action"
    FRAME_TOO_LARGE = "frame_too_large"
    DUPLICATE_REQUEST_ID = "duplicate_request_id"
    DEVICE_NOT_FOUND = "device_not_found"
    DEVICE_UNAVAILABLE = "device_unavailable"
    ALLOCATION_NOT_FOUND = "allocation_not_found"
    MODEL_NOT_FOUND = "model_not_found"
    MODEL_BUSY = "model_busy"
    MODEL_LOAD_FAILED = "model_load_failed"
    PLAN_STALE = "plan_stale"
    OUT_OF_MEMORY = "out_of_memory"
    LIMIT_EXCEEDED = "limit_exceeded"
    UNSUPPORTED = "unsupported"
    CHECKSUM_MISMATCH = "checksum_mismatch"
    CANCELLED = "cancelled"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    OVERLOADED = "overloaded"
    SHUTTING_DOWN = "shutting_down"
    INTERNAL_ERROR = "internal_error"
    CONSUMER_NOT_FOUND = "consumer_not_found"
    STORE_NOT_FOUND = "store_not_found"
    OPERATION_NOT_FOUND = "operation_not_found"
    NODE_NOT_FOUND = "node_not_found"
