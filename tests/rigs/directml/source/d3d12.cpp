// Simulated Direct3D 12: heaps, buffers, tiles, copies and fences. "Device memory" is host memory, and costs some
// only where it is touched.
#include "d3d12.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <condition_variable>
#include <cstring>
#include <mutex>

namespace rig {
namespace {

constexpr uint64_t kTileBytes = 65536;
enum HeapType : uint32_t { kDefault = 1, kUpload = 2, kReadback = 3 };

struct HeapDescription {  // D3D12_HEAP_DESC
    uint64_t size;
    HeapType type;
    uint32_t cpu_page, pool, creation_node, visible_node;
    uint64_t alignment;
    uint32_t flags;
};
static_assert(sizeof(HeapDescription) == 48);

/// The one sparse file that all heaps are ranges of: several resources may map the same range.
int heaps_file() {
    static const int file = [] {
        const int made = memfd_create("simulated-heaps", MFD_CLOEXEC);
        if (made < 0 || ftruncate(made, off_t{1} << 46) != 0) stop("there is no memory for heaps");
        return made;
    }();
    return file;
}

class Heap : public Child {
  public:
    Heap(Object* device, const HeapDescription* description);
    ~Heap() {
        fallocate(heaps_file(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, start,
                  static_cast<off_t>(description_.size));
        discharge(adapter, kHeaps, description_.size);
        log("adapter %u heap of %lu freed", adapter, description_.size);
    }

    HeapDescription get_description() { return description_; }

    const off_t start;  // in the file; no range is given out twice

  private:
    static std::atomic<off_t> next_;
    const HeapDescription description_;
};

std::atomic<off_t> Heap::next_{0};

const Interface kHeap("ID3D12Heap", {slot<&Heap::get_parent>(7), slot<&Heap::get_description>(8)});

Heap::Heap(Object* device, const HeapDescription* description)
    : Child(kHeap, device),
      start(next_.fetch_add(static_cast<off_t>((description->size + kTileBytes - 1) / kTileBytes * kTileBytes))),
      description_(*description) {}

uint8_t* reserve(uint64_t bytes, int protection) {
    void* memory = mmap(nullptr, bytes, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return memory == MAP_FAILED ? nullptr : static_cast<uint8_t*>(memory);
}

const Interface kResource("ID3D12Resource", {
    slot<&Resource::get_parent>(7),
    slot<&Resource::map>(8),
    // 9 Unmap
    slot<&Resource::get_description>(10),
    slot<&Resource::get_gpu_address>(11),
});

}  // namespace

Resource::Resource(Object* device, const ResourceDescription* description, int protection)
    : Child(kResource, device), address(reserve(description->width, protection)), description_(*description) {}

Resource::~Resource() {
    if (address) munmap(address, description_.width);
    if (booked_as != kMemories) discharge(adapter, booked_as, description_.width);
}

Result Resource::map(uint32_t, const void*, void** out) {
    if (out) *out = address;
    return kOk;
}

namespace {

const Interface kCommandList("ID3D12GraphicsCommandList", {
    slot<&CommandList::get_parent>(7),
    // 9 Close
    slot<&CommandList::reset>(10),
    slot<&CommandList::copy_buffer>(15),
    // 26 ResourceBarrier, 28 SetDescriptorHeaps
});

}  // namespace

CommandList::CommandList(Object* device) : Child(kCommandList, device) {}

Result CommandList::reset(Object*, Object*) {
    commands.clear();
    return kOk;
}

void CommandList::copy_buffer(Resource* to, uint64_t to_offset, Resource* from, uint64_t from_offset, uint64_t bytes) {
    log("adapter %u copies %lu bytes from adapter %u to %u", adapter, bytes, from->adapter, to->adapter);
    if (to->adapter != adapter || from->adapter != adapter) return;  // real drivers leave zeros, and say nothing
    commands.emplace_back([=] { memmove(to->address + to_offset, from->address + from_offset, bytes); });
}

namespace {

class Fence : public Child {
  public:
    Fence(Object* device, uint64_t value);

    uint64_t get_value() {
        const std::lock_guard<std::mutex> guard(lock_);
        return value_;
    }

    Result set_event(uint64_t value, void* event) {
        if (event) stop("SetEventOnCompletion with an event is not simulated");
        std::unique_lock<std::mutex> guard(lock_);
        moved_.wait(guard, [&] { return value_ >= value; });
        return kOk;
    }

    Result signal(uint64_t value) {
        const std::lock_guard<std::mutex> guard(lock_);
        value_ = value;
        moved_.notify_all();
        return kOk;
    }

  private:
    std::mutex lock_;
    std::condition_variable moved_;
    uint64_t value_;
};

const Interface kFence("ID3D12Fence", {
    slot<&Fence::get_parent>(7),
    slot<&Fence::get_value>(8),
    slot<&Fence::set_event>(9),
    slot<&Fence::signal>(10),
});

Fence::Fence(Object* device, uint64_t value) : Child(kFence, device), value_(value) {}

struct TileCoordinate {  // D3D12_TILED_RESOURCE_COORDINATE, in tiles
    uint32_t x, y, z, subresource;
};
struct TileRegion {  // D3D12_TILE_REGION_SIZE
    uint32_t tiles, use_box, width;
    uint16_t height, depth;
};
struct QueueDescription {  // D3D12_COMMAND_QUEUE_DESC
    uint32_t type, priority, flags, node_mask;
};

class Queue : public Child {
  public:
    Queue(Object* device, const QueueDescription* description);

    void update_tile_mappings(Resource* resource, uint32_t regions, const TileCoordinate* starts,
                              const TileRegion* sizes, Heap* heap, uint32_t ranges, const uint32_t* flags,
                              const uint32_t* heap_offsets, const uint32_t* tile_counts, uint32_t) {
        if (regions != ranges || (flags && std::any_of(flags, flags + ranges, [](uint32_t flag) { return flag; }))) {
            stop("UpdateTileMappings: only runs of tiles, one range for each region, are simulated");
        }
        for (uint32_t i = 0; i < regions; ++i) {
            const uint64_t tiles = tile_counts ? tile_counts[i] : sizes[i].tiles;
            void* const to = resource->address + starts[i].x * kTileBytes;
            const off_t from = heap->start + static_cast<off_t>(heap_offsets[i] * kTileBytes);
            if (mmap(to, tiles * kTileBytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, heaps_file(), from) ==
                MAP_FAILED) {
                stop("UpdateTileMappings: the system maps no more");
            }
        }
    }

    void execute(uint32_t count, CommandList* const* lists) {
        if (device_removed(adapter)) return;
        for (uint32_t i = 0; i < count; ++i) {
            for (const auto& command : lists[i]->commands) command();
        }
    }

    Result signal(Fence* fence, uint64_t value) { return fence->signal(value); }

    QueueDescription get_description() { return description_; }

  private:
    const QueueDescription description_;
};

const Interface kQueue("ID3D12CommandQueue", {
    slot<&Queue::get_parent>(7),
    slot<&Queue::update_tile_mappings>(8),
    slot<&Queue::execute>(10),
    slot<&Queue::signal>(14),
    slot<&Queue::get_description>(18),
});

Queue::Queue(Object* device, const QueueDescription* description) : Child(kQueue, device), description_(*description) {}

struct DescriptorHeapDescription {  // D3D12_DESCRIPTOR_HEAP_DESC
    uint32_t type, count, flags, node_mask;
};

class DescriptorHeap : public Child {
  public:
    DescriptorHeap(Object* device, const DescriptorHeapDescription* description);

    DescriptorHeapDescription get_description() { return description_; }
    uint64_t get_start() { return 0x10000; }  // nobody looks there

  private:
    const DescriptorHeapDescription description_;
};

const Interface kDescriptorHeap("ID3D12DescriptorHeap", {
    slot<&DescriptorHeap::get_parent>(7),
    slot<&DescriptorHeap::get_description>(8),
    slot<&DescriptorHeap::get_start>(9),   // for the CPU
    slot<&DescriptorHeap::get_start>(10),  // for the GPU
});

DescriptorHeap::DescriptorHeap(Object* device, const DescriptorHeapDescription* description)
    : Child(kDescriptorHeap, device), description_(*description) {}

const Interface kCommandAllocator("ID3D12CommandAllocator", {slot<&Child::get_parent>(7)});

class Device : public Object {
  public:
    explicit Device(uint32_t adapter);

    Result create_queue(const QueueDescription* description, const Guid*, Object** out) {
        *out = make<Queue>(this, description);
        return kOk;
    }

    Result create_allocator(uint32_t, const Guid*, Object** out) {
        *out = make<CommandAllocator>(this);
        return kOk;
    }

    Result create_list(uint32_t, uint32_t, Object*, Object*, const Guid*, Object** out) {
        *out = make<CommandList>(this);
        return kOk;
    }

    Result check_feature(uint32_t feature, uint32_t* data, uint32_t size) {
        memset(data, 0, size);
        constexpr size_t kTiledResourcesTier = 3;  // in D3D12_FEATURE_DATA_D3D12_OPTIONS, which is feature 0
        if (feature == 0 && size > kTiledResourcesTier * sizeof *data) data[kTiledResourcesTier] = knobs().tiled ? 3 : 0;
        return kOk;
    }

    Result create_descriptor_heap(const DescriptorHeapDescription* description, const Guid*, Object** out) {
        *out = make<DescriptorHeap>(this, description);
        return kOk;
    }

    uint32_t get_descriptor_bytes(uint32_t) { return 32; }

    Result create_committed(const HeapType* type, uint32_t, const ResourceDescription* description, uint32_t,
                            const void*, const Guid*, Object** out) {
        *out = nullptr;
        if (device_removed(adapter)) return kDeviceRemoved;
        const Memory kind = *type == kDefault ? kCommitted : kStaging;
        const bool room = charge(adapter, kind, description->width);
        log("adapter %u %s of %lu: %s", adapter, kind == kCommitted ? "resource" : "staging", description->width,
            room ? "made" : "refused");
        if (!room) return kOutOfMemory;
        auto* resource = make<Resource>(this, description, PROT_READ | PROT_WRITE);
        resource->booked_as = kind;
        return hand_out(resource, out);
    }

    Result create_heap(const HeapDescription* description, const Guid*, Object** out) {
        *out = nullptr;
        if (device_removed(adapter)) return kDeviceRemoved;
        const bool room = charge(adapter, kHeaps, description->size);
        log("adapter %u heap of %lu: %s", adapter, description->size, room ? "made" : "refused");
        if (!room) return kOutOfMemory;
        *out = make<Heap>(this, description);
        return kOk;
    }

    Result create_reserved(const ResourceDescription* description, uint32_t, const void*, const Guid*, Object** out) {
        *out = nullptr;
        if (device_removed(adapter)) return kDeviceRemoved;
        return hand_out(make<Resource>(this, description, PROT_NONE), out);
    }

    Result create_fence(uint64_t value, uint32_t, const Guid*, Object** out) {
        *out = make<Fence>(this, value);
        return kOk;
    }

    Result get_removed_reason() { return device_removed(adapter) ? kDeviceRemoved : kOk; }

    uint64_t get_luid() { return kFirstLuid + adapter; }

  private:
    struct CommandAllocator : Child {
        explicit CommandAllocator(Object* device) : Child(kCommandAllocator, device) {}
    };

    static Result hand_out(Resource* resource, Object** out) {
        if (!resource->address) {
            resource->release();
            return kOutOfMemory;
        }
        *out = resource;
        return kOk;
    }
};

const Interface kDevice("ID3D12Device", {
    slot<&Device::create_queue>(8),
    slot<&Device::create_allocator>(9),
    slot<&Device::create_list>(12),
    slot<&Device::check_feature>(13),
    slot<&Device::create_descriptor_heap>(14),
    slot<&Device::get_descriptor_bytes>(15),
    slot<&Device::create_committed>(27),
    slot<&Device::create_heap>(28),
    slot<&Device::create_reserved>(30),
    slot<&Device::create_fence>(36),
    slot<&Device::get_removed_reason>(37),
    slot<&Device::get_luid>(43),
});

Device::Device(uint32_t adapter) : Object(kDevice, adapter) {}

}  // namespace
}  // namespace rig

/// Without `out` the caller only asks whether it would work.
extern "C" rig::Result D3D12CreateDevice(rig::Object* adapter, uint32_t, const rig::Guid*, rig::Object** out) {
    if (!out) return rig::kFalse;
    *out = rig::make<rig::Device>(adapter ? adapter->adapter : 0);
    return rig::kOk;
}

extern "C" rig::Result D3D12GetDebugInterface(const rig::Guid*, void** out) {
    *out = nullptr;
    return rig::kNoInterface;
}

/// The wheel's libdirectml.so binds this name when it is loaded, and never calls it.
extern "C" rig::Result D3D12SerializeVersionedRootSignature(const void*, void**, void**) {
    return rig::kNotImplemented;
}
